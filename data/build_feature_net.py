"""Train the feature nets of lesson 09 and write their weights and checksums.

    python data/build_feature_net.py course
    python data/build_feature_net.py judge
    python data/build_feature_net.py transformer

The first two are `aigc_utils.features.build_classifier`, as in lesson 07, and differ in their seed
alone; the third is `aigc_utils.features.build_transformer`. All are trained for 30 epochs on all
20,000 pictures; each epoch moves every one by up to one pixel. Each command writes
``models/feature_net/NAME.npz`` beside this script, or into --out, and its line in SHA256SUMS. It
takes two to five minutes on 2 cores. Another kind of processor adds in another order and so arrives
at slightly different weights.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from build import HERE, pack_arrays, record

from aigc_utils import data, features, files, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf

NETS = {
    "course": (features.build_classifier, 1),
    "judge": (features.build_classifier, 2),
    "transformer": (features.build_transformer, 3),
}
EPOCHS = 30
BATCH = 128
LEARNING_RATE = 2e-3


def train(pictures: np.ndarray, labels: np.ndarray, name: str, epochs: int) -> keras.Model:
    """Train a fresh net; the learning rate falls to zero along a cosine."""
    build, seed = NETS[name]
    rng = session.start(seed)
    model = build()
    steps = epochs * -(-len(pictures) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        steps_per_execution=20,
    )
    for _ in range(epochs):
        model.fit(features.shifted(pictures, rng), labels, batch_size=BATCH, verbose=0)
    return model


def packed(model: keras.Model) -> bytes:
    """Return the weights as an archive of float16 arrays, in the order of `get_weights`."""
    weights = model.get_weights()
    return pack_arrays({f"{i:02d}": w.astype(np.float16) for i, w in enumerate(weights)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="fewer give another net")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    chosen = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    (images, labels), (test_images, test_labels) = data.load_fashion_mnist()
    model = train(features.as_network_input(images), labels, chosen.name, chosen.epochs)
    raw = packed(model)
    name = f"models/feature_net/{chosen.name}.npz"
    file = chosen.out / name
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, raw)
    digest = hashlib.sha256(raw).hexdigest()
    before = record(chosen.out, name, digest)
    right = features.FeatureNet(model).classify(test_images) == test_labels
    verdicts = {None: "added to SHA256SUMS", digest: "the bytes that SHA256SUMS names"}
    verdict = verdicts.get(before, "other bytes than before; SHA256SUMS now names them")
    print(f"{name}: {len(raw):,} bytes, {verdict}.")
    print(f"It classifies {right.mean():.2%} of the test pictures correctly.")


if __name__ == "__main__":
    main()
