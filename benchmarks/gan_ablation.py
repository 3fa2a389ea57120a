"""What each idea of the GAN that races in `gan.py` is worth, failures too.

    python benchmarks/gan_ablation.py FILE.jsonl --seconds 60 [--variants NAME …] [--seeds 1 2]

Changes one idea at a time, at equal *processor* seconds, so that a busy machine does no harm, and
appends a row for each run that the file lacks. Distances are those of the net ``course`` to 10,000
training pictures that are not among the 20,000 to train on: the test pictures have no part in it.
(The variants with a gradient penalty also drop dropout, which "no dropout" tries alone.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from gan import N_PICTURES, SEEDS, add_dataset, dataset_file, score
from gan_contestants import CLOCKS, Recipe, Stopwatch, build, fit

from aigc_utils import data, features, gan, history, scores, session

with session.quiet_stderr():
    import tensorflow as tf

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


def build_variant(recipe: Recipe, seed: int) -> gan.GAN:
    """Return the compiled, untrained model of a recipe, with another loss where it names one."""
    if recipe.loss == "non-saturating" and recipe.gamma == 0:
        return build(recipe, seed)
    model = build(recipe, seed, OtherLoss)
    model.recipe = recipe
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


def choice_pictures(folder: Path) -> np.ndarray:
    """Return 10,000 pictures of the training set that are not among the committed 20,000."""
    found = dataset_file(folder, "train")
    if found is None:
        raise SystemExit(
            f"There is no Fashion-MNIST in {folder}: choices are made with training pictures that "
            "are not in data/, so install Debian's dataset-fashion-mnist or name its --dataset."
        )
    (committed, _), _ = data.load_fashion_mnist()
    known = {picture.tobytes() for picture in committed}
    others = np.array([p for p in data.read_idx(found.read_bytes()) if p.tobytes() not in known])
    return others[np.random.default_rng(0).permutation(len(others))[:N_PICTURES]]


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
                model = build_variant(recipe, seed)
                stopwatch = Stopwatch(seconds, CLOCKS["processor"])
                fit(model, recipe, stopwatch)
                row = score(real, net(model.generate(N_PICTURES, seed)))
                present = net(model.generate(N_PICTURES, seed, averaged=False))
                row["frechet_not_averaged"] = round(scores.frechet_distance(real, present), 2)
                log.log(
                    variant=variant,
                    seed=seed,
                    changes=VARIANTS[variant],
                    pictures=stopwatch.calls * model.steps_per_execution * recipe.batch_size,
                    **row,
                )
                print(log.history.rows[-1], flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--seconds", type=float, default=60, help="training seconds of a run")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    add_dataset(parser)
    chosen = parser.parse_args(arguments)
    if chosen.seconds <= 0:
        parser.error("--seconds must be above 0")
    ablation(chosen.file, chosen.seconds, chosen.variants, chosen.seeds, chosen.dataset)


if __name__ == "__main__":
    main()
