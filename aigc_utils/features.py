"""The course's clothes classifier and the features that lesson 09 scores pictures with.

Lesson 07 builds this network and trains it for twelve epochs; the committed weights are the same
network trained longer (``data/build_feature_net.py``). Its *features* are the 64 outputs of the
penultimate layer before the activation; after the ReLU four in five of them would be zero. A third
net, a small vision transformer, looks at pictures in another way: what convolutions overlook, or
flatter, it may not.
Importing this module calls `session.prepare`: two threads, quiet logs, unless chosen otherwise.
"""

import numpy as np
import numpy.typing as npt

from aigc_utils import data, session

session.prepare()
with session.quiet_stderr():
    import keras
    from keras import layers

N_FEATURES = 64
_PATCH, _WIDTH, _BLOCKS, _HEADS = 7, 64, 4, 4  # of the transformer
_BATCH = 500


def build_classifier() -> keras.Sequential:
    """Return the untrained network of lesson 07: pictures (n, 28, 28, 1) in [0, 1] to 10 logits.

    Three convolutions, two poolings, 64 features, 10 classes; the layer ``"features"`` is the
    penultimate one, before its activation. The initial weights come from Keras's global seed.
    """
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for channels, pooled in ((16, True), (32, True), (64, False)):
        # Batch normalisation has a shift of its own, so the convolution needs no bias. Its running
        # averages remember ten steps: Keras's hundred lag behind in the first epochs.
        model.add(layers.Conv2D(channels, 3, padding="same", use_bias=False))
        if pooled:
            model.add(layers.MaxPooling2D(2))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.4))
    model.add(layers.Dense(N_FEATURES, name="features"))
    model.add(layers.ReLU())
    model.add(layers.Dense(len(data.CLASS_NAMES), name="logits"))
    return model


class _Positions(layers.Layer):
    """Adds a learned vector to each token, so that the transformer knows where a patch was."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, tokens: keras.KerasTensor) -> keras.KerasTensor:
        return tokens + self.table


def build_transformer() -> keras.Model:
    """Return an untrained vision transformer with the same inputs, features and logits.

    The 16 patches of 7 × 7 pixels are tokens; four pre-norm blocks of attention and MLP let each
    look at all; their mean gives the 64 features. Source: Dosovitskiy et al., *An image is worth
    16×16 words* (2020), made small, with the mean in place of a class token.
    """
    inputs = keras.Input((28, 28, 1))
    patches = layers.Conv2D(_WIDTH, _PATCH, strides=_PATCH)(inputs)
    x = _Positions()(layers.Reshape((-1, _WIDTH))(patches))
    for _ in range(_BLOCKS):
        read = layers.LayerNormalization()(x)
        x += layers.MultiHeadAttention(_HEADS, _WIDTH // _HEADS, dropout=0.1)(read, read)
        hidden = layers.Dense(4 * _WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x += layers.Dense(_WIDTH)(layers.Dropout(0.1)(hidden))
    mean = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    found = layers.Dense(N_FEATURES, name="features")(mean)
    logits = layers.Dense(len(data.CLASS_NAMES), name="logits")(layers.ReLU()(found))
    return keras.Model(inputs, logits)


def shifted(pictures: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the pictures, (n, height, width, 1), each moved by up to one pixel either way.

    Zeros come in at the border. This is the data augmentation of lesson 07 and of the committed
    nets. There are no mirror images: shoes point one way, and a feature net should mind.
    """
    height, width = pictures.shape[1:3]
    padded = np.pad(pictures[..., 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = rng.integers(0, 3, (2, len(pictures)))
    return windows[np.arange(len(pictures)), down, right][..., None]


class FeatureNet:
    """A trained classifier: call it for features, ``probabilities`` and ``classify`` for classes.

    Pictures are uint8, shape (n, 28, 28), 0 black and 255 white; anything else is a ValueError.
    ``model`` is the Keras network, which takes them as float32 (n, 28, 28, 1) in [0, 1].
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        outputs = [model.get_layer("features").output, model.get_layer("logits").output]
        self._both = keras.Model(model.inputs[0], outputs)

    def __call__(self, images: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the features before the activation, float64 (n, 64)."""
        return self._run(images)[0]

    def probabilities(self, images: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the probability of each class, float64 (n, 10); rows sum to one."""
        logits = self._run(images)[1]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def classify(self, images: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the most probable class of each picture, int64 (n,), an index of CLASS_NAMES."""
        return self._run(images)[1].argmax(axis=1)

    def _run(
        self, images: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        pictures = as_network_input(images)
        # Called in pieces and not with `predict`, which traces anew for other numbers of pictures.
        pieces = [
            [keras.ops.convert_to_numpy(out) for out in self._both(pictures[i : i + _BATCH])]
            for i in range(0, len(pictures), _BATCH)
        ]
        features, logits = (np.concatenate(part) for part in zip(*pieces, strict=True))
        return features.astype(np.float64), logits.astype(np.float64)


def as_network_input(images: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return uint8 pictures (n, 28, 28) as the network reads them: float32 (n, 28, 28, 1), 0 to 1.

    Raises ValueError for another shape or type, and when there is no picture at all.
    """
    pictures = np.asarray(images)
    if pictures.ndim != 3 or pictures.shape[1:] != (28, 28) or len(pictures) == 0:
        raise ValueError(
            f"pictures have the shape (n, 28, 28), n at least 1, and these have {pictures.shape}"
        )
    if pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures are uint8, 0…255, and these are {pictures.dtype}: floats x in [0, 1] become "
            "uint8 with (255 * x).round().astype('uint8')"
        )
    return np.divide(pictures[..., None], 255, dtype=np.float32)


def load_feature_net(name: str = "course") -> FeatureNet:
    """Return a committed net: ``"course"``, ``"judge"`` or ``"transformer"``.

    The second is the first trained from another seed, the third another kind of network. Make
    choices (of settings, of the best epoch) with the first, and let the others judge what you have
    chosen. Raises DataError when the file is missing or damaged.
    """
    with np.load(data.path(f"models/feature_net/{name}.npz")) as file:
        weights = [file[key].astype(np.float32) for key in sorted(file.files)]
    model = build_transformer() if name == "transformer" else build_classifier()
    model.set_weights(weights)
    return FeatureNet(model)
