"""Try what lesson 07 says about augmentation, heads, depth and transfer, three seeds each.

    python data/build_cnn_choices.py

Every network trains on 3,000 training pictures for 12 epochs and is scored on 2,000 other ones, out
of the training set: no test picture serves a choice. This writes ``runs/cnn_choices.jsonl`` beside
this script, or into --out, and its line in SHA256SUMS: a row for each training with its question,
its choice, its seed, its learning rate and its validation accuracy. It takes about ten minutes on
one core. Another kind of processor adds in another order: expect other last digits.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from build import out_folder, write

from aigc_utils import data, features, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

SEEDS = (1, 2, 3)
N_TRAIN, N_VALIDATION, EPOCHS, BATCH, RATE = 3_000, 2_000, 12, 64, 3e-3
SHOTS = (5, 50)  # labelled pictures of each new class
OLD = {  # five classes to learn from; the other five are new
    "related classes": (0, 2, 3, 5, 7),  # T-shirt, pullover, dress, sandal, sneaker
    "other things": (0, 1, 2, 3, 4),  # all but shirts, bags and shoes
}

Arrays = tuple[np.ndarray, np.ndarray]
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def unmoved(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pictures as they are."""
    return pictures


def mirrored(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pictures moved by up to a pixel, half of them left for right."""
    moved = features.shifted(pictures, rng)
    return np.where(rng.random(len(moved))[:, None, None, None] < 0.5, moved[:, :, ::-1], moved)


def upside_down(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pictures moved by up to a pixel, half of them upside down."""
    moved = features.shifted(pictures, rng)
    return np.where(rng.random(len(moved))[:, None, None, None] < 0.5, moved[:, ::-1], moved)


def with_head(pooled: bool) -> keras.Sequential:
    """Return lesson 07's network, or the same with global average pooling before the last layer."""
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for channels, halved in ((16, True), (32, True), (64, False)):
        model.add(layers.Conv2D(channels, 3, padding="same", use_bias=False))
        if halved:
            model.add(layers.MaxPooling2D(2))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    if pooled:
        model.add(layers.GlobalAveragePooling2D(name="features"))
    else:
        model.add(layers.Flatten())
        model.add(layers.Dropout(0.4))
        model.add(layers.Dense(64, name="features"))
        model.add(layers.ReLU())
    model.add(layers.Dense(10))
    return model


def deep(depth: int, residual: bool) -> keras.Model:
    """Return a network with ``depth`` convolutions of 16 channels on 7 × 7 places.

    With ``residual`` every two of them are added to their input (He et al., 2016, figure 2).
    """
    picture = keras.Input((28, 28, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(picture)
    x = layers.MaxPooling2D(4)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for _ in range(depth // 2):
        kept = x
        for last in (False, True):
            x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            if last and residual:
                x = layers.Add()([x, kept])
            x = layers.ReLU()(x)
    return keras.Model(picture, layers.Dense(10)(layers.Flatten()(x)))


def fit(model: keras.Model, train: Arrays, rate: float, augment: Augment, seed: int) -> None:
    """Train with Adam along a cosine; the pictures are augmented anew before each epoch."""
    rng = np.random.default_rng(seed)
    steps = EPOCHS * -(-len(train[0]) // BATCH)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        steps_per_execution=min(16, -(-len(train[0]) // BATCH)),
    )
    for _ in range(EPOCHS):
        model.fit(augment(train[0], rng), train[1], batch_size=BATCH, verbose=0)


def accuracy(model: keras.Model, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of right answers, to four digits."""
    right = model.predict(pictures, batch_size=500, verbose=0).argmax(axis=1) == labels
    return round(float(right.mean()), 4)


def choices() -> Iterator[tuple[str, str, float, Callable[[], keras.Model], Augment]]:
    """Yield question, choice, learning rate, network and augmentation of every training."""
    for name, augment in (
        ("as they are", unmoved),
        ("moved", features.shifted),
        ("moved, mirrored", mirrored),
        ("moved, upside down", upside_down),
    ):
        yield "augmentation", name, RATE, lambda: with_head(False), augment
    for rate in (RATE, 1e-2):
        yield "head", "global average pooling", rate, lambda: with_head(True), features.shifted
    yield "head", "flatten, dense 64", 1e-2, lambda: with_head(False), features.shifted
    for depth in (8, 32):
        for rate in (1e-3, RATE):
            for kind in ("plain", "residual"):
                yield (
                    f"depth {depth}",
                    kind,
                    rate,
                    lambda d=depth, k=kind: deep(d, k == "residual"),
                    features.shifted,
                )


def transfer(
    train: Arrays, validation: Arrays, old: tuple[int, ...], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield rows: five new classes with few labels, from pixels, features, or fine-tuned weights.

    Features are compared by the nearest class mean. The new and the fine-tuned network are trained
    alike; the latter starts with the convolutions that learned the ``old`` classes.
    """
    is_old = np.isin(train[1], old)
    new = [c for c in range(10) if c not in old]
    asked = ~np.isin(validation[1], old)
    keras.utils.set_random_seed(seed)
    learned, untrained = with_head(False), with_head(False)
    fit(learned, (train[0][is_old], train[1][is_old]), RATE, features.shifted, seed)
    rows = np.random.default_rng(seed).permutation(len(train[0]))
    for shots in SHOTS:
        few = np.concatenate([rows[train[1][rows] == c][:shots] for c in new])
        known, wanted = (train[0][few], train[1][few]), (validation[0][asked], validation[1][asked])
        found = {
            "pixels": by_nearest_mean(lambda x: x.reshape(len(x), -1), known, wanted),
            "untrained features": by_nearest_mean(body(untrained), known, wanted),
            "learned features": by_nearest_mean(body(learned), known, wanted),
        }
        often = np.resize(few, 640)  # as many steps as if there were more, each moved anew
        for name in ("new network", "fine-tuned"):
            keras.utils.set_random_seed(seed)
            model = with_head(False)
            if name == "fine-tuned":
                for layer, source in zip(model.layers[:-4], learned.layers[:-4], strict=True):
                    layer.set_weights(source.get_weights())
            fit(model, (train[0][often], train[1][often]), RATE, features.shifted, seed)
            found[name] = accuracy(model, *wanted)
        for name, share in found.items():
            yield dict(choice=name, shots=shots, accuracy=share)


def body(model: keras.Sequential) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from pictures to the network's features."""
    cut = keras.Model(model.inputs[0], model.get_layer("features").output)
    return lambda x: cut.predict(x, batch_size=500, verbose=0)


def by_nearest_mean(
    describe: Callable[[np.ndarray], np.ndarray], known: Arrays, wanted: Arrays
) -> float:
    """Return the accuracy of naming the class whose mean description is nearest."""
    classes = np.unique(known[1])
    points, asked = describe(known[0]), describe(wanted[0])
    means = np.stack([points[known[1] == c].mean(axis=0) for c in classes])
    guess = classes[((asked[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)]
    return round(float((guess == wanted[1]).mean()), 4)


def main() -> None:
    out = out_folder(__doc__)
    tf.config.experimental.enable_op_determinism()
    session.start()
    (images, labels), _ = data.load_fashion_mnist()
    order = np.random.default_rng(7).permutation(len(images))  # the file's end is not balanced
    pictures, labels = features.as_network_input(images[order]), labels[order].astype(int)
    validation = pictures[:N_VALIDATION], labels[:N_VALIDATION]
    rest = slice(N_VALIDATION, N_VALIDATION + N_TRAIN)
    train = pictures[rest], labels[rest]
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for question, choice, rate, build_it, augment in choices():
            keras.utils.set_random_seed(seed)
            model = build_it()
            fit(model, train, rate, augment, seed)
            rows.append(dict(question=question, choice=choice, seed=seed, rate=rate))
            rows[-1]["accuracy"] = accuracy(model, *validation)
            rows[-1]["parameters"] = model.count_params()
            print(rows[-1], flush=True)
            keras.backend.clear_session()
        for name, old in OLD.items():
            for row in transfer(train, validation, old, seed):
                rows.append(dict(question=f"transfer from {name}", seed=seed, **row))
                print(rows[-1], flush=True)
    settings = dict(n_train=N_TRAIN, n_validation=N_VALIDATION, epochs=EPOCHS, batch=BATCH)
    raw = "".join(json.dumps(row) + "\n" for row in [{"settings": settings}, *rows]).encode()
    write(out, "runs/cnn_choices.jsonl", raw)


if __name__ == "__main__":
    main()
