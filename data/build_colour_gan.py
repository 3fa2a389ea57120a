"""Train the colour GAN of lesson 09 and write the record of the run.

    python data/build_colour_gan.py

The article's two networks, mended (`aigc_utils.colour`), play the game of `aigc_utils.gan` on dyed
training pictures. This writes, beside this script or into --out, ``runs/colour_gan.jsonl``
(losses, D's mean answers, scores), ``runs/colour_gan_frames.npz`` (what a fixed z became during
training, and a sample at the end) and their lines in SHA256SUMS. It takes about a quarter of an
hour on one core. Another kind of processor adds in another order and so arrives at other pictures
that are about as good.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from build import out_folder, pack_arrays, write

from aigc_utils import colour, data, features, gan, gan_callbacks, history, scores, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf

SEED = 9
BATCH, EPOCHS = 16, 3
G_RATE, D_RATE = 5e-4, 2.5e-4  # D is ahead anyway
LOG_EVERY = 10  # calls of the compiled graph, of eight steps each
SNAPSHOT_AT = (104, 312, 624, 1248, 2496, 3744)  # steps, whole calls
MEANS = ("d_loss", "g_loss", "d_real", "d_fake")
N_SCORED, N_SHOWN, N_SAMPLE = 1000, 8, 24


class Judge:
    """Scores pictures against the dyed test pictures."""

    def __init__(self) -> None:
        _, (images, labels) = data.load_fashion_mnist()
        self.net = features.load_feature_net()
        self.real_features = self.net(colour.undye(colour.dye(images, labels, seed=1)))

    def __call__(self, pictures: np.ndarray) -> dict[str, float]:
        """Return the distance and coverage of the grey pictures inside, and the hue agreement."""
        found = self.net(colour.undye(pictures))
        shares = scores.precision_recall_coverage(self.real_features[: len(found)], found)
        return {
            "distance": round(scores.frechet_distance(self.real_features, found), 2),
            "coverage": round(shares.coverage, 4),
            "agreement": round(colour.hue_agreement(pictures, self.net), 4),
        }


class Snapshots(keras.callbacks.Callback):
    """Keeps pictures of a fixed z, and scores, before training and after the steps SNAPSHOT_AT."""

    def __init__(self, judge: Judge, run: history.Run) -> None:
        super().__init__()
        self.judge, self.run = judge, run
        self.frames: dict[str, np.ndarray] = {}

    def take(self, step: int) -> None:
        """Keep what the averaged generator makes now."""
        self.frames[f"step_{step:04d}"] = self.model.generate(N_SHOWN, seed=0)
        row = {"step": step, **self.judge(self.model.generate(N_SCORED, seed=1))}
        self.run.log(**row)
        print(row, flush=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take one of the untrained generator."""
        self.take(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take one when it is time."""
        step = self.model.epochs_done * self.params["steps"] + batch + 1
        if step in SNAPSHOT_AT:
            self.take(step)


def main() -> None:
    out = out_folder(__doc__)
    tf.config.experimental.enable_op_determinism()
    session.start(SEED)
    (images, labels), _ = data.load_fashion_mnist()
    model = gan.GAN(colour.build_generator(), colour.build_discriminator(), seed=SEED)
    model.compile(d_lr=D_RATE, g_lr=G_RATE)
    settings = dict(seed=SEED, batch=BATCH, epochs=EPOCHS, d_rate=D_RATE, g_rate=G_RATE)
    judge, curves = Judge(), gan_callbacks.Curves()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run.jsonl"
        with history.Run(log, **settings) as run:
            real = judge(colour.dye(images[:N_SCORED], labels[:N_SCORED]))
            run.log(**{f"real_{name}": value for name, value in real.items()})
            snapshots = Snapshots(judge, run)
            callbacks = [curves, snapshots, gan_callbacks.LinearDecay()]
            pictures = colour.dye(images, labels)
            model.fit(pictures, epochs=EPOCHS, batch_size=BATCH, callbacks=callbacks)
            rows = curves.history.rows
            for i in range(0, len(rows), LOG_EVERY):
                few = rows[i : i + LOG_EVERY]
                means = {name: np.mean([row[name] for row in few]) for name in MEANS}
                rounded = {name: round(float(mean), 4) for name, mean in means.items()}
                run.log(step=few[-1]["step"], **rounded)
        out.mkdir(parents=True, exist_ok=True)
        frames = snapshots.frames | {"sample": model.generate(N_SAMPLE, seed=2)}
        write(out, "runs/colour_gan.jsonl", log.read_bytes())
        write(out, "runs/colour_gan_frames.npz", pack_arrays(frames))


if __name__ == "__main__":
    main()
