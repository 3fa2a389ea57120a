"""Train lesson 09's GAN with three seeds for each setting of its knobs and write what that did.

    python data/build_gan_knobs.py
    python data/build_gan_knobs.py --minutes 5       stop after five minutes; the next call goes on

Each run changes one knob of the same small recipe and goes four times through the same 3,000
pictures, in whole batches: 352 steps of G, and 64 with four steps of D for each.
This writes ``runs/gan_knobs.jsonl`` beside this script, or into --out, and its line in SHA256SUMS:
a row for each epoch with the losses and D's mean answers, and for the last one the distance and
the coverage. It takes about twelve minutes on one core. Another kind of processor adds in another
order: expect other last digits.
"""

import argparse
import tempfile
import time
from pathlib import Path

from build import HERE, write

from aigc_utils import data, gan, gan_callbacks, history, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf

BASE = dict(
    d_lr=2e-3, g_lr=2e-3, beta_1=0.5, width=16, latent_dim=64,
    label_smoothing=0.0, dropout=0.3, d_steps=1, seed=1,
)  # fmt: skip
KNOBS: dict[str, dict[str, float]] = {
    "base": {},
    "both rates 2e-4": {"d_lr": 2e-4, "g_lr": 2e-4},
    "both rates 2e-2": {"d_lr": 2e-2, "g_lr": 2e-2},
    "d_lr 1e-2": {"d_lr": 1e-2},
    "beta_1 0.9": {"beta_1": 0.9},
    "width 4": {"width": 4},
    "latent_dim 2": {"latent_dim": 2},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
    "dropout 0": {"dropout": 0.0},
    "d_steps 4": {"d_steps": 4},
}
RUNS: dict[str, dict[str, float]] = {
    name if seed == 1 else f"{name}, seed {seed}": knobs | {"seed": seed}
    for seed in (1, 2, 3)
    for name, knobs in KNOBS.items()
}
PICTURES, EPOCHS, BATCH, N_SCORED = 3_000, 4, 32, 1000


def train(knobs: dict[str, float]) -> list[dict[str, float]]:
    """Train with these knobs; return a row for each epoch."""
    (images, _), (test_images, _) = data.load_fashion_mnist()
    k = BASE | knobs
    keras.utils.set_random_seed(k["seed"])
    model = gan.GAN(
        gan.build_generator(k["latent_dim"], k["width"]),
        gan.build_discriminator(k["width"], k["dropout"]),
        label_smoothing=k["label_smoothing"],
        d_steps=k["d_steps"],
        seed=k["seed"],
    )
    model.compile(d_lr=k["d_lr"], g_lr=k["g_lr"], beta_1=k["beta_1"])
    score = gan_callbacks.Score(test_images, n=N_SCORED, every=4)
    model.fit(images[:PICTURES], epochs=EPOCHS, batch_size=BATCH, callbacks=[score])
    return [{name: round(value, 4) for name, value in row.items()} for row in model.record.rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1e6, help="stop then, and go on next time")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    parser.add_argument(
        "--partial",
        type=Path,
        metavar="FILE",
        default=Path(tempfile.gettempdir()) / "aigc_gan_knobs.jsonl",
        help="keeps the finished runs of an unfinished record",
    )
    chosen = parser.parse_args()
    until = time.monotonic() + 60 * chosen.minutes
    tf.config.experimental.enable_op_determinism()
    settings = dict(base=BASE, pictures=PICTURES, batch=BATCH, n_scored=N_SCORED)
    with history.Run(chosen.partial, append=True, **settings) as run:
        if run.history.settings != settings:
            raise SystemExit(f"{chosen.partial} holds runs of other settings: delete it first.")
        done = {row["run"] for row in run.history.rows if row["epoch"] == EPOCHS}
        for name, knobs in RUNS.items():
            if name in done:
                continue
            if time.monotonic() > until:
                print("stopped; call again to go on")
                return
            for row in train(knobs):
                run.log(run=name, **row)
            print(name, row, flush=True)
    raw = chosen.partial.read_bytes()
    write(chosen.out, "runs/gan_knobs.jsonl", raw)
    chosen.partial.unlink()


if __name__ == "__main__":
    main()
