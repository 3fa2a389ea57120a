"""Race the course's GAN against Keras's published DCGAN example: equal seconds, the same pictures.

    python benchmarks/gan.py --seconds 90 --out ours.npz
    python benchmarks/gan.py --seconds 90 --out peer.npz --peer keras-example
    python benchmarks/gan.py --seconds 90 --race FOLDER --json race.json

The first two train on the 20,000 committed pictures of Fashion-MNIST for so many seconds and write
10,000 generated pictures (``images``, uint8; --pictures for another number). The third does both
from three seeds, one process each, keeps their files in FOLDER, scores them and prints a table;
whatever is in FOLDER already, with the same settings, is not trained again.

Training seconds are seconds of the wall clock on 2 cores. They begin when the first call of the
compiled graph (8 steps) is over, because that call is mostly compilation; building, compiling and
generating do not count. The rule is the same for both. On a machine that is not quiet, --clock
processor counts processor time instead: two seconds of it are one second of two cores.

Scores compare with the 10,000 test pictures when the files of Debian's ``dataset-fashion-mnist``
are at hand (--dataset FOLDER, or its place in the system), else with the 4,000 committed ones.
They use two feature nets. Every choice of ours was made with ``course`` and with pictures that are
neither training nor test pictures here; ``judge`` served no choice.

    python benchmarks/gan.py --ablation FILE.jsonl --seconds 60 [--variants NAME …] [--seeds 1 2]

changes one idea at a time, at equal *processor* seconds, so that a busy machine does no harm.
(The variants with a gradient penalty also drop dropout, which "no dropout" tries alone.)

Ours knows the ten classes of the training pictures and the peer does not; "no labels" says what
that is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_utils import data, features, files, gan, gan_callbacks, history, scores, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

N_PICTURES = 10_000
N_COVERAGE = 5_000
SEEDS = (1, 2, 3)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CONTESTANTS = {"ours": "the course's GAN", "keras-example": "Keras's DCGAN example"}


# The clock ---------------------------------------------------------------------------------------

CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": lambda: time.process_time() / 2,
}


class Stopwatch(keras.callbacks.Callback):
    """Stops training after so many seconds, counted from the end of the first call."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self.seconds, self.clock = seconds, clock
        self.start: float | None = None
        self.calls = 0

    @property
    def share(self) -> float:
        """Share of the seconds that are over, at most 1."""
        if self.start is None:
            return 0.0
        return min(1.0, (self.clock() - self.start) / self.seconds)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the call and look at the clock."""
        if self.start is None:
            self.start = self.clock()
        else:
            self.calls += 1
        if self.share >= 1:
            self.model.stop_training = True


class ClockDecay(gan_callbacks.LinearDecay):
    """Lets the learning rates follow a stopwatch, where nobody knows the number of epochs."""

    def __init__(self, stopwatch: Stopwatch, start: float = 0.5) -> None:
        super().__init__(start)
        self.stopwatch = stopwatch

    def progress(self, batch: int) -> float:
        """Return the stopwatch's share."""
        return self.stopwatch.share


FOR_EVER = 1_000_000  # epochs; the stopwatch ends the run


# The peer ----------------------------------------------------------------------------------------


class KerasExample(keras.Model):
    """The GAN of Keras's guides, written anew from its published architecture and settings.

    Source: F. Chollet, "GAN overriding `Model.train_step`" (keras.io, 2019) and the last section
    of the guide "Customizing what happens in `fit()` with TensorFlow" (2023): 28×28 pictures in
    [0, 1], z of 128, batch 64, two Adams with 3e-4, target 1 for generated pictures and 0 for
    real ones, each plus 0.05 times U(0, 1). In its favour: 8 steps a call, and no XLA, which
    would be Keras's default but is slower here.
    """

    BATCH = 64
    LATENT_DIM = 128

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential(
            [
                keras.Input((self.LATENT_DIM,)),
                layers.Dense(7 * 7 * 128),
                layers.LeakyReLU(0.2),
                layers.Reshape((7, 7, 128)),
                layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
            ]
        )
        self.discriminator = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(64, 3, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(128, 3, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.GlobalMaxPooling2D(),
                layers.Dense(1),
            ]
        )
        self.built = True
        super().compile(optimizer=None, jit_compile=False, steps_per_execution=8)
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)
        self.optimizers = []
        for network in (self.discriminator, self.generator):
            self.optimizers.append(keras.optimizers.Adam(3e-4))
            self.optimizers[-1].build(network.trainable_variables)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Let D learn once, then G once, as published."""
        images, _ = data
        n = images.shape[0]
        made = self.generator(tf.random.normal((n, self.LATENT_DIM)))
        both = tf.concat([made, tf.cast(images, tf.float32) / 255], axis=0)
        targets = tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], axis=0)
        targets += 0.05 * tf.random.uniform((2 * n, 1))
        with tf.GradientTape() as tape:
            d_loss = self.loss_of(targets, self.discriminator(both))
        self._apply(tape, d_loss, 0, self.discriminator)
        z = tf.random.normal((n, self.LATENT_DIM))
        with tf.GradientTape() as tape:
            g_loss = self.loss_of(tf.zeros((n, 1)), self.discriminator(self.generator(z)))
        self._apply(tape, g_loss, 1, self.generator)
        return {"d_loss": d_loss, "g_loss": g_loss}

    def _apply(self, tape: tf.GradientTape, loss: tf.Tensor, i: int, network: keras.Model) -> None:
        weights = network.trainable_variables
        self.optimizers[i].apply(tape.gradient(loss, weights), weights)

    def generate(self, n: int, seed: int) -> np.ndarray:
        """Return n pictures, uint8 (n, 28, 28)."""
        z = gan.draw_latents(n, self.LATENT_DIM, seed)
        pieces = [self.generator(z[i : i + 500]) for i in range(0, n, 500)]
        return gan.to_uint8(2 * np.concatenate(pieces)[..., 0] - 1)


# Ours, and what was tried ------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """One way to train ours; the defaults are what the race runs."""

    n_classes: int = len(data.CLASS_NAMES)  # 0: without labels
    latent_dim: int = gan.LATENT_DIM
    width: int = 32
    dropout: float = 0.3
    label_smoothing: float = 0.0
    d_steps: int = 1
    batch_size: int = 32
    lr: float = gan.LEARNING_RATE
    d_lr_factor: float = 1.0  # D's learning rate as a multiple of G's
    beta_1: float = gan.BETA_1
    decay_start: float = 0.5  # share of the time after which the learning rates fall; 1 is never
    loss: str = "non-saturating"  # or "relativistic"
    gamma: float = 0.0  # weight of R1 (and of R2 with the relativistic loss)


# Where the ablation starts: the recipe before it took its smaller batch from it.
ABLATED = Recipe(batch_size=64)

# Each changes one idea there; a penalty takes the place of dropout.
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "no labels": {"n_classes": 0},
    "no decay": {"decay_start": 1.0},
    "relativistic, γ 0.05": {"loss": "relativistic", "gamma": 0.05, "dropout": 0.0},
    "relativistic, γ 0.5": {"loss": "relativistic", "gamma": 0.5, "dropout": 0.0},
    "relativistic, γ 5": {"loss": "relativistic", "gamma": 5.0, "dropout": 0.0},
    "R1, γ 0.5": {"gamma": 0.5, "dropout": 0.0},
    "batch 32": {"batch_size": 32},
    "batch 128": {"batch_size": 128},
    "batch 128, rate × 2": {"batch_size": 128, "lr": 2 * gan.LEARNING_RATE},
    "width 16": {"width": 16},
    "width 24": {"width": 24},
    "width 48": {"width": 48},
    "rate × 1/2": {"lr": gan.LEARNING_RATE / 2},
    "rate × 2": {"lr": 2 * gan.LEARNING_RATE},
    "D learns faster": {"d_lr_factor": 2.0},
    "no dropout": {"dropout": 0.0},
    "label smoothing": {"label_smoothing": 0.1},
    "two D steps": {"d_steps": 2},
    "β₁ 0.9": {"beta_1": 0.9},
}


def build(recipe: Recipe, seed: int) -> gan.GAN:
    """Return the compiled, untrained model of a recipe."""
    session.start(seed)
    plain = recipe.loss == "non-saturating" and recipe.gamma == 0
    model = (gan.GAN if plain else OtherLoss)(
        gan.build_generator(recipe.latent_dim, recipe.width, recipe.n_classes),
        gan.build_discriminator(recipe.width, recipe.dropout, recipe.n_classes),
        label_smoothing=recipe.label_smoothing,
        d_steps=recipe.d_steps,
        n_classes=recipe.n_classes,
        seed=seed,
    )
    model.recipe = recipe
    model.compile(g_lr=recipe.lr, d_lr=recipe.d_lr_factor * recipe.lr, beta_1=recipe.beta_1)
    return model


class OtherLoss(gan.GAN):
    """The course's GAN with a gradient penalty, and with the relativistic loss if so wished.

    Relativistic (Jolicoeur-Martineau, *The relativistic discriminator*, 2018): D is asked which of
    two pictures is the real one. With R1 + R2, the squared slopes of the logit at real and at
    generated pictures, this is the loss of Huang et al., *The GAN is dead; long live the GAN!*
    (2024).
    """

    recipe: Recipe

    def d_loss(
        self, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return D's loss with its penalty, and its logits of real and generated pictures."""
        relativistic = self.recipe.loss == "relativistic"
        with tf.GradientTape() as tape:
            tape.watch([real, fake])
            real_logits, fake_logits = self.logits(real, classes), self.logits(fake, classes)
            total = tf.reduce_sum(real_logits) + tf.reduce_sum(fake_logits)
        # A picture's logit depends on that picture alone, so this holds each one's own slope.
        slopes = tape.gradient(total, [real, fake] if relativistic else [real])
        penalty = sum(tf.reduce_mean(tf.reduce_sum(slope**2, [1, 2, 3])) for slope in slopes)
        if relativistic:
            loss = gan.cross_entropy(real_logits - fake_logits, 1.0)
        else:
            loss = gan.cross_entropy(real_logits, 1.0) + gan.cross_entropy(fake_logits, 0.0)
        return loss + self.recipe.gamma / 2 * penalty, real_logits, fake_logits

    def g_loss(self, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Return G's loss, relative to the real pictures if so wished."""
        logits = self.logits(fake, classes)
        if self.recipe.loss == "relativistic":
            logits -= tf.stop_gradient(self.logits(real, classes))
        return gan.cross_entropy(logits, 1.0)


# Training ----------------------------------------------------------------------------------------


def train(
    contestant: str,
    seconds: float,
    seed: int,
    recipe: Recipe | None = None,
    clock: str = "wall",
) -> tuple[keras.Model, dict[str, Any]]:
    """Train on the committed pictures; return the model and what is to be known about the run."""
    (images, labels), _ = data.load_fashion_mnist()
    stopwatch = Stopwatch(seconds, CLOCKS[clock])
    recipe = recipe or Recipe()
    if contestant == "ours":
        model, batch = build(recipe, seed), recipe.batch_size
        callbacks = [stopwatch]
        if recipe.decay_start < 1:
            callbacks.append(ClockDecay(stopwatch, recipe.decay_start))
        model.fit(
            images,
            labels if recipe.n_classes else None,
            epochs=FOR_EVER,
            batch_size=batch,
            callbacks=callbacks,
        )
    else:
        session.start(seed)
        model, batch = KerasExample(), KerasExample.BATCH
        steps = len(images) // batch // 8 * 8
        model.fit(
            gan.batches(images[..., None], np.int32(labels), batch, seed, 0, steps),
            epochs=FOR_EVER,
            steps_per_epoch=steps,
            callbacks=[stopwatch],
            shuffle=False,
            verbose=0,
        )
    pictures = stopwatch.calls * model.steps_per_execution * batch
    return model, {
        "contestant": contestant,
        "seed": seed,
        "seconds": seconds,
        "clock": clock,
        "pictures": pictures,
        "pictures_per_second": round(pictures / seconds),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or session.THREADS,
    }


def write(file: Path, contestant: str, seconds: float, seed: int, clock: str, n: int) -> None:
    """Train and write n ``images`` and ``run``, a JSON text, to one .npz file."""
    model, run = train(contestant, seconds, seed, clock=clock)
    run["generated"] = n
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, images=model.generate(n, seed), run=json.dumps(run))
    print(f"{file}: {run['pictures']:,} pictures seen, {run['pictures_per_second']:,} a second")


# Scores ------------------------------------------------------------------------------------------


def test_pictures(folder: Path) -> np.ndarray:
    """Return all 10,000 test pictures when the folder has them, else the committed 4,000."""
    found = sorted(folder.rglob("t10k-images-idx3-ubyte.gz")) if folder.is_dir() else []
    if found:
        return data.read_idx(found[0].read_bytes())
    _, (images, _) = data.load_fashion_mnist()
    return images


def choice_pictures(folder: Path) -> np.ndarray:
    """Return 10,000 pictures of the training set that are not among the committed 20,000."""
    found = sorted(folder.rglob("train-images-idx3-ubyte.gz")) if folder.is_dir() else []
    if not found:
        raise SystemExit(
            f"There is no Fashion-MNIST in {folder}: choices are made with training pictures that "
            "are not in data/, so install Debian's dataset-fashion-mnist or name its --dataset."
        )
    (committed, _), _ = data.load_fashion_mnist()
    known = {picture.tobytes() for picture in committed}
    others = np.array([p for p in data.read_idx(found[0].read_bytes()) if p.tobytes() not in known])
    return others[np.random.default_rng(0).permutation(len(others))[:N_PICTURES]]


def score(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """Return the scores of one set of features (n, 64) against the real ones."""
    n = min(N_COVERAGE, len(real), len(made))
    return {
        "frechet": scores.frechet_distance(real, made),
        "kernel": scores.kernel_distance(real, made),
        "coverage": scores.precision_recall_coverage(real[:n], made[:n]).coverage,
    }


# The race ----------------------------------------------------------------------------------------


def race(
    folder: Path, seconds: float, seeds: Sequence[int], clock: str, dataset: Path, n: int
) -> dict[str, Any]:
    """Train what is missing in the folder, score everything, print the table, return it all."""
    runs = []
    for seed in seeds:
        for contestant in CONTESTANTS:  # by turns: a slower hour slows both
            file = folder / f"{contestant}_{seed}.npz"
            wanted = {"seconds": seconds, "clock": clock, "generated": n}
            if not (file.exists() and read_run(file).items() >= wanted.items()):
                command = [sys.executable, __file__, "--seconds", str(seconds), "--out", str(file)]
                command += ["--seed", str(seed), "--clock", clock, "--pictures", str(n)]
                command += ["--peer", contestant] if contestant != "ours" else []
                # A process each: nothing that one leaves behind helps or slows down the next.
                subprocess.run(command, check=True)
            runs.append(read_run(file) | {"images": np.load(file)["images"]})
    by_contestant = {c: [run for run in runs if run["contestant"] == c] for c in CONTESTANTS}
    real = test_pictures(dataset)
    (committed, _), _ = data.load_fashion_mnist()
    table: dict[str, Any] = {
        "seconds": seconds,
        "clock": clock,
        "generated_pictures": n,
        "real_pictures": len(real),
        "nets": {},
    }
    for name in ("course", "judge"):
        net = features.load_feature_net(name)
        real_features = net(real)
        for run in runs:
            run[name] = score(real_features, net(run["images"]))
        table["nets"][name] = {
            "floor": score(real_features, net(committed[::2])),
            "ratios": [
                peer[name]["frechet"] / ours[name]["frechet"]
                for ours, peer in zip(*by_contestant.values(), strict=True)
            ],
        }
    table["runs"] = [{k: v for k, v in run.items() if k != "images"} for run in runs]
    show(table)
    return table


def read_run(file: Path) -> dict[str, Any]:
    """Return what a written file says about its run."""
    with np.load(file) as stored:
        return json.loads(str(stored["run"]))


def show(table: dict[str, Any]) -> None:
    """Print the table: medians, and the smallest and largest value in brackets."""
    print(
        f"{table['seconds']:g} s of training each ({table['clock']} clock); "
        f"{table['generated_pictures']:,} generated against {table['real_pictures']:,} real test "
        "pictures; median [smallest, largest] of the seeds"
    )
    columns = {"frechet": "Fréchet distance", "kernel": "kernel distance", "coverage": "coverage"}
    print(f"{'net':8}{'':24}" + "".join(f"{title:>30}" for title in columns.values()), end="")
    print(f"{'pictures/s':>30}")

    def cell(values: Sequence[float], digits: int) -> str:
        middle, low, high = np.median(values), min(values), max(values)
        return f"{f'{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]':>30}"

    digits = {"frechet": 1, "kernel": 0, "coverage": 3}
    for net, facts in table["nets"].items():
        for contestant, title in CONTESTANTS.items():
            mine = [run for run in table["runs"] if run["contestant"] == contestant]
            cells = [cell([run[net][c] for run in mine], digits[c]) for c in columns]
            cells.append(cell([run["pictures_per_second"] for run in mine], 0))
            print(f"{net:8}{title:24}" + "".join(cells))
        floor = [f"{facts['floor'][c]:>30,.{digits[c]}f}" for c in columns]
        print(f"{net:8}{'real training pictures':24}" + "".join(floor))
        ratios = facts["ratios"]
        print(f"{net:8}Fréchet distance, peer over ours, seed by seed: ", end="")
        print(", ".join(f"{ratio:.1f}" for ratio in ratios))


# The ablation ------------------------------------------------------------------------------------


def ablation(
    file: Path, seconds: float, variants: Sequence[str], seeds: Sequence[int], dataset: Path
) -> None:
    """Train every variant from every seed that the file lacks and append a row for each."""
    net = features.load_feature_net("course")
    real = net(choice_pictures(dataset))
    settings = {"seconds": seconds, "clock": "processor", "net": "course", "base": asdict(ABLATED)}
    with history.Run(file, append=True, **settings) as log:
        if log.history.settings != json.loads(json.dumps(settings)):
            raise SystemExit(f"{file} holds runs with other settings: name another file.")
        done = {(row["variant"], row["seed"]) for row in log.history.rows}
        for variant in variants:
            for seed in seeds:
                if (variant, seed) in done:
                    continue
                recipe = replace(ABLATED, **VARIANTS[variant])
                model, run = train("ours", seconds, seed, recipe, "processor")
                row = score(real, net(model.generate(N_PICTURES, seed)))
                present = net(model.generate(N_PICTURES, seed, averaged=False))
                row["frechet_not_averaged"] = scores.frechet_distance(real, present)
                row = {name: round(value, 3) for name, value in row.items()}
                log.log(
                    variant=variant,
                    seed=seed,
                    changes=VARIANTS[variant],
                    pictures=run["pictures"],
                    **row,
                )
                print(log.history.rows[-1], flush=True)


# The command -------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90, help="training seconds of a run")
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="train once; write pictures")
    parser.add_argument("--peer", choices=[name for name in CONTESTANTS if name != "ours"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what a second is")
    parser.add_argument("--seed", type=int, default=1, help="of the one run (--out)")
    parser.add_argument("--pictures", type=int, default=N_PICTURES, help="how many to generate")
    parser.add_argument("--race", type=Path, metavar="FOLDER", help="both, from several seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the race's table here")
    parser.add_argument("--ablation", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("FASHION_MNIST", DEBIAN)),
        help="where the files of Debian's dataset-fashion-mnist are (also: FASHION_MNIST)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.seconds <= 0:
        parser.error("--seconds must be above 0")
    if chosen.pictures < 1000:
        parser.error("--pictures must be at least 1000: the kernel distance takes so many")
    if chosen.race:
        table = race(
            chosen.race, chosen.seconds, chosen.seeds, chosen.clock, chosen.dataset, chosen.pictures
        )
        if chosen.json:
            files.write_whole(chosen.json, json.dumps(table, indent=1) + "\n")
    elif chosen.ablation:
        ablation(chosen.ablation, chosen.seconds, chosen.variants, chosen.seeds, chosen.dataset)
    elif chosen.out:
        contestant = chosen.peer or "ours"
        write(chosen.out, contestant, chosen.seconds, chosen.seed, chosen.clock, chosen.pictures)
    else:
        parser.error("say what to do: --out FILE, --race FOLDER or --ablation FILE")


if __name__ == "__main__":
    main()
