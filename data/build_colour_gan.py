"""Train the colour GAN of lesson 09 and write the record of the run.

    python data/build_colour_gan.py
    python data/build_colour_gan.py --minutes 5      stop after five minutes; the next call goes on

The article's two networks, mended (`aigc_utils.colour`), play the non-saturating game on dyed
training pictures. This writes, beside this script or into --out, ``runs/colour_gan.jsonl``
(losses, D's mean answers, scores), ``runs/colour_gan_frames.npz`` (what a fixed z became during
training, and a sample at the end) and their lines in SHA256SUMS. It takes about five minutes on
one core. Another kind of processor adds in another order and so arrives at other pictures that
are about as good.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
from build import HERE, pack_arrays, record

from aigc_utils import colour, data, features, history, scores, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf

SEED = 9
LATENT, BATCH, STEPS = 64, 8, 2000
RATE, BETA_1 = 3e-4, 0.5
AVERAGE = 0.995  # decay of the generator's moving average, less in the first steps
LOG_EVERY = 50
SCORED = (0, 200, 500, 1000, 1500, 2000)
FRAMES = (0, 100, 300, 600, 1200, 2000)
N_SCORED, N_SHOWN, N_SAMPLE = 1000, 8, 24


class Game:
    """Both networks, their optimisers and the generator's moving average; saves and restores."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(SEED)
        self.generator, self.discriminator = colour.build_generator(), colour.build_discriminator()
        self.average = keras.models.clone_model(self.generator)
        self.average.set_weights(self.generator.get_weights())
        self.g_adam, self.d_adam = (keras.optimizers.Adam(RATE, beta_1=BETA_1) for _ in range(2))
        self.g_adam.build(self.generator.trainable_variables)
        self.d_adam.build(self.discriminator.trainable_variables)
        self.step = 0

    @tf.function
    def train_step(self, real: tf.Tensor, z: tf.Tensor, decay: tf.Tensor) -> dict[str, tf.Tensor]:
        """Let both players learn from one batch, each against the other as it was before."""
        softplus = tf.math.softplus
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            fake = self.generator(z, training=True)
            real_logits = self.discriminator(real, training=True)
            fake_logits = self.discriminator(fake, training=True)
            d_loss = tf.reduce_mean(softplus(-real_logits)) + tf.reduce_mean(softplus(fake_logits))
            g_loss = tf.reduce_mean(softplus(-fake_logits))
        for tape, loss, net, adam in (
            (g_tape, g_loss, self.generator, self.g_adam),
            (d_tape, d_loss, self.discriminator, self.d_adam),
        ):
            weights = net.trainable_variables
            adam.apply(tape.gradient(loss, weights), weights)
        for mean, new in zip(self.average.weights, self.generator.weights, strict=True):
            mean.assign(decay * mean + (1 - decay) * new)
        return {
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "d_fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }

    def set_rate(self) -> None:
        """Hold the learning rate for the first half and let it fall to zero over the second."""
        rate = RATE * min(1.0, 2 * (1 - self.step / STEPS))
        self.g_adam.learning_rate = self.d_adam.learning_rate = rate

    def pictures(self, z: np.ndarray) -> np.ndarray:
        """Return the pictures, uint8 (n, 64, 64, 3), that the average generator makes of z."""
        made = [self.average(z[i : i + 250], training=False) for i in range(0, len(z), 250)]
        return colour.as_pictures(np.concatenate(made))

    def variables(self) -> list:
        """Return everything that training changes, the seeds of the dropout included."""
        parts = (self.generator, self.discriminator, self.average, self.g_adam, self.d_adam)
        return [variable for part in parts for variable in part.variables]


def batches(pictures: np.ndarray, step: int) -> np.ndarray:
    """Return the batch of one step: every epoch runs through all pictures in its own order."""
    per_epoch = len(pictures) // BATCH
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([SEED, epoch]).permutation(len(pictures))
    return colour.as_network_input(pictures[order[place * BATCH : (place + 1) * BATCH]])


def noise(n: int, stream: int) -> np.ndarray:
    """Return n latent vectors, the same ones whenever this stream is asked for."""
    return np.random.default_rng([SEED, 1, stream]).normal(size=(n, LATENT)).astype(np.float32)


class Judge:
    """Scores pictures against the dyed test pictures."""

    def __init__(self) -> None:
        _, (images, labels) = data.load_fashion_mnist()
        self.net = features.load_feature_net()
        self.real = colour.dye(images, labels, seed=1)
        self.real_features = self.net(colour.undye(self.real))

    def __call__(self, pictures: np.ndarray) -> dict[str, float]:
        """Return the distance and coverage of the grey pictures inside, and the hue agreement."""
        found = self.net(colour.undye(pictures))
        shares = scores.precision_recall_coverage(self.real_features[: len(found)], found)
        return {
            "distance": round(scores.frechet_distance(self.real_features, found), 2),
            "coverage": round(shares.coverage, 4),
            "agreement": round(colour.hue_agreement(pictures, self.net), 4),
        }


def train(game: Game, run: history.Run, frames: dict[str, np.ndarray], until: float) -> None:
    """Go on from ``game.step`` to the end, or stop when the clock says ``until``."""
    (images, labels), _ = data.load_fashion_mnist()
    pictures, judge = colour.dye(images, labels), Judge()

    def look() -> None:
        if game.step in FRAMES:
            frames[f"step_{game.step:04d}"] = game.pictures(noise(N_SHOWN, 0))
        if game.step in SCORED:
            row = judge(game.pictures(noise(N_SCORED, 1)))
            run.log(step=game.step, **row)
            print(game.step, row, flush=True)

    if game.step == 0:
        real = colour.dye(images[:N_SCORED], labels[:N_SCORED])
        run.log(**{f"real_{name}": value for name, value in judge(real).items()})
        look()
    sums: dict[str, float] = {}
    while game.step < STEPS and (time.monotonic() < until or game.step % LOG_EVERY):
        game.set_rate()
        decay = tf.constant(min(AVERAGE, (1 + game.step) / (10 + game.step)))
        real, z = batches(pictures, game.step), noise(BATCH, 10 + game.step)
        metrics = game.train_step(real, z, decay)
        game.step += 1
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value) / LOG_EVERY
        if game.step % LOG_EVERY == 0:
            run.log(step=game.step, **{name: round(value, 4) for name, value in sums.items()})
            sums = {}
        look()


def write(folder: Path, name: str, raw: bytes) -> None:
    """Write a file and its line in SHA256SUMS, and say whether its bytes are those of before."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    before = record(folder, name, digest)
    print(f"{name}: {len(raw):,} bytes, {'as' if before == digest else 'not as'} in SHA256SUMS.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1e6, help="stop then, and go on next time")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    parser.add_argument(
        "--partial",
        type=Path,
        metavar="FOLDER",
        default=Path(tempfile.gettempdir()) / "aigc_colour_gan",
        help="keeps what an unfinished run needs to go on",
    )
    chosen = parser.parse_args()
    until = time.monotonic() + 60 * chosen.minutes
    tf.config.experimental.enable_op_determinism()
    chosen.partial.mkdir(parents=True, exist_ok=True)
    state, log = chosen.partial / "state.npz", chosen.partial / "run.jsonl"
    game, frames = Game(), {}
    if state.exists():
        with np.load(state) as saved:
            game.step = int(saved["step"])
            for i, variable in enumerate(game.variables()):
                variable.assign(saved[f"v{i}"])
            frames = {name: saved[name] for name in saved.files if name.startswith("step_")}
        print(f"going on from step {game.step}", flush=True)
    settings = dict(seed=SEED, latent_dim=LATENT, batch=BATCH, steps=STEPS, rate=RATE)
    settings |= dict(beta_1=BETA_1, average=AVERAGE, n_scored=N_SCORED)
    with history.Run(log, append=state.exists(), **settings) as run:
        if run.history.settings != settings:
            raise SystemExit(f"{chosen.partial} holds a run of other settings: delete it first.")
        train(game, run, frames, until)
    if game.step < STEPS:
        values = {f"v{i}": variable.numpy() for i, variable in enumerate(game.variables())}
        np.savez(state, step=game.step, **values, **frames)
        print(f"stopped at step {game.step} of {STEPS}; call again to go on")
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    frames["sample"] = game.pictures(noise(N_SAMPLE, 2))
    write(chosen.out, "runs/colour_gan.jsonl", log.read_bytes())
    write(chosen.out, "runs/colour_gan_frames.npz", pack_arrays(frames))
    state.unlink(missing_ok=True)
    log.unlink()


if __name__ == "__main__":
    main()
