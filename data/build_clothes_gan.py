"""Train lesson 09's grey GAN for forty epochs and keep its averaged generator.

    python data/build_clothes_gan.py

The networks and rates are those that the lesson trains for three epochs. Nine tenths of the 20,000
training pictures train; every tenth one is held out, and the distance is measured to those: no test
picture serves a choice. This writes ``models/clothes_gan.npz`` (the generator's weights),
``runs/clothes_gan.jsonl`` (losses, D's mean answers, scores) beside this script, or into --out, and
their lines in SHA256SUMS. It takes about ten minutes on one core. Another kind of processor adds in
another order and so arrives at another generator that is about as good.
"""

import json
from pathlib import Path

import numpy as np
from build import out_folder, pack_arrays, write

from aigc_utils import data, gan, gan_callbacks, session

with session.quiet_stderr():
    import tensorflow as tf

SEED, EPOCHS, BATCH, SCORE_EVERY = 9, 40, 32, 4


def main() -> None:
    out = out_folder(__doc__)
    tf.config.experimental.enable_op_determinism()
    session.start(SEED)
    (images, _), _ = data.load_fashion_mnist()
    held_out = np.arange(len(images)) % 10 == 0
    model = gan.GAN(gan.build_generator(), gan.build_discriminator(), seed=SEED)
    model.compile()
    score = gan_callbacks.Score(images[held_out], n=2000, every=SCORE_EVERY)
    callbacks = [score, gan_callbacks.LinearDecay(0.5)]
    model.fit(images[~held_out], epochs=EPOCHS, batch_size=BATCH, callbacks=callbacks, verbose=2)
    keep(model, out)


def keep(model: gan.GAN, out: Path) -> None:
    """Write the averaged generator, float16, and the record of a trained model."""
    weights = model.averaged.get_weights()
    arrays = {f"{i:02d}": weight.astype(np.float16) for i, weight in enumerate(weights)}
    settings = dict(seed=SEED, epochs=EPOCHS, batch=BATCH, rate=gan.LEARNING_RATE)
    rows = [{k: round(v, 4) for k, v in row.items()} for row in model.record.rows]
    raw = "".join(json.dumps(row) + "\n" for row in [{"settings": settings}, *rows]).encode()
    write(out, "models/clothes_gan.npz", pack_arrays(arrays))
    write(out, "runs/clothes_gan.jsonl", raw)


if __name__ == "__main__":
    main()
