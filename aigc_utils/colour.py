"""Colour pictures of clothes, the article's networks for them, and a score (lesson 09).

The article that lesson 09 repairs generates 64×64 colour pictures, but brings none. These are
made from Fashion-MNIST: each class of clothes is dyed in a hue of its own and stands before a
dark wall of any hue. So there is something to learn that no loss mentions: which hue belongs to
which garment. `hue_agreement` measures it, and the grey picture inside goes to a feature net.
Importing this module calls `session.prepare`: two threads, quiet logs, unless chosen otherwise.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from aigc_utils import data, session

session.prepare()
with session.quiet_stderr():
    import keras
    from keras import layers

SIZE = 64
"""Height and width of the colour pictures."""

WALL = 0.3
"""Brightness of the background; the garment's brightest points have 1."""

_HUES = len(data.CLASS_NAMES)
_JITTER = 0.02  # a dye differs by up to this much from its class's hue; two hues are 0.1 apart

Pictures = npt.NDArray[np.uint8]


class Classifier(Protocol):
    """What the score needs to know about clothes: a `features.FeatureNet` will do."""

    def classify(self, images: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the class of each grey picture, uint8 (n, 28, 28)."""
        ...


def dye(images: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int = 0) -> Pictures:
    """Return colour pictures, uint8 (n, 64, 64, 3), of grey ones, uint8 (n, 28, 28).

    A garment of class c gets the hue c / 10, up to ``0.02`` off; the wall behind it any hue.
    The brightest channel carries the grey picture. Same input and seed, same bytes.
    """
    grey, classes = np.asarray(images), np.asarray(labels)
    if grey.ndim != 3 or grey.shape[1:] != (28, 28) or grey.dtype != np.uint8:
        raise ValueError(f"pictures to dye are uint8 (n, 28, 28), not {grey.dtype} {grey.shape}")
    if classes.shape != grey.shape[:1]:
        raise ValueError(f"{len(grey)} pictures need {len(grey)} labels, not {classes.shape}")
    rng = np.random.default_rng(seed)
    hues = classes / _HUES + rng.uniform(-_JITTER, _JITTER, len(grey))
    walls = rng.uniform(size=len(grey))
    coloured = np.empty((len(grey), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(grey), 1000):
        rows = slice(start, start + 1000)
        shade = _doubled(np.pad(grey[rows] / np.float32(255), ((0, 0), (2, 2), (2, 2))))
        cover = np.minimum(8 * shade, 1)[..., None]  # 0 where the wall is, 1 on the garment
        garment, wall = tint(hues[rows], 0.75), tint(walls[rows], 0.5)
        colour = cover * garment[:, None, None] + (1 - cover) * wall[:, None, None]
        light = WALL + (1 - WALL) * shade[..., None]
        coloured[rows] = np.rint(255 * colour * light)
    return coloured


def undye(pictures: npt.ArrayLike) -> Pictures:
    """Return the grey pictures, uint8 (n, 28, 28), inside colour ones, uint8 (n, 64, 64, 3)."""
    light = _checked(pictures).max(axis=-1) / np.float32(255)
    halves = light.reshape(len(light), SIZE // 2, 2, SIZE // 2, 2).mean(axis=(2, 4))
    shade = (halves[:, 2:-2, 2:-2] - WALL) / (1 - WALL)
    return np.rint(255 * shade.clip(0, 1)).astype(np.uint8)


def garment_hues(pictures: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the hue in [0, 1) of what is brighter than the wall in each picture, shape (n,).

    NaN where nothing is brighter.
    """
    rgb = _checked(pictures).astype(np.float64)
    bright = rgb.max(axis=-1) > 255 * (WALL + 0.15)
    red, green, blue = (rgb * bright[..., None]).sum(axis=(1, 2)).T
    # Red, green and blue point to the corners of a triangle; the angle of their sum is the hue.
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    return np.where(bright.any(axis=(1, 2)), angle / (2 * np.pi) % 1, np.nan)


def hue_agreement(pictures: npt.ArrayLike, net: Classifier) -> float:
    """Return how often a garment has the hue of its class, averaged over the ten classes.

    The class is what ``net`` sees in the grey picture; one that never occurs counts 0, so a
    generator that makes one kind of garment only gets 0.1 at best, as does one that dyes by
    chance. Real pictures get about the accuracy of the net, 0.9.
    """
    named = net.classify(undye(pictures))
    nearest = np.rint(garment_hues(pictures) * _HUES) % _HUES  # NaN agrees with nothing
    agrees = [(nearest[named == c] == c).mean() for c in range(_HUES) if (named == c).any()]
    return float(sum(agrees) / _HUES)


def tint(hues: npt.ArrayLike, saturation: float) -> npt.NDArray[np.float32]:
    """Return full-brightness colours, float32 (n, 3) in [0, 1], of hues (n,) on a circle of 1."""
    # The piecewise linear wheel: red at 0, green at 1/3, blue at 2/3.
    distance = np.abs((np.asarray(hues)[:, None] - np.arange(3) / 3 + 0.5) % 1 - 0.5)
    pure = np.clip(2 - 6 * distance, 0, 1)
    return (1 - saturation * (1 - pure)).astype(np.float32)


def build_generator(latent_dim: int = 64) -> keras.Sequential:
    """Return the article's generator, mended: z (n, latent_dim) to pictures (n, 64, 64, 3).

    Its base of 8×8×256 and its four transposed convolutions are the article's. New are the input's
    shape, batch normalisation, kernels that the stride divides, and tanh at the end.
    """
    model = keras.Sequential([keras.Input((latent_dim,))], name="generator")
    model.add(layers.Dense(8 * 8 * 256, use_bias=False))
    model.add(layers.Reshape((8, 8, 256)))
    for channels, kernel, stride in ((128, 3, 1), (128, 4, 2), (64, 4, 2)):
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
        model.add(layers.Conv2DTranspose(channels, kernel, stride, padding="same", use_bias=False))
    model.add(layers.BatchNormalization(momentum=0.9))
    model.add(layers.ReLU())
    model.add(layers.Conv2DTranspose(3, 4, 2, padding="same", activation="tanh"))
    return model


def build_discriminator() -> keras.Sequential:
    """Return the article's discriminator, mended: pictures (n, 64, 64, 3) to logits (n, 1).

    Its two convolutions of 64 and 128 channels are the article's. New are the input's size, leaky
    activations, dropout, kernels that the stride divides, and no sigmoid at the end.
    """
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3))], name="discriminator")
    for channels in (64, 128):
        model.add(layers.Conv2D(channels, 4, 2, padding="same"))
        model.add(layers.LeakyReLU(0.2))
        model.add(layers.Dropout(0.3))
    model.add(layers.Flatten())
    model.add(layers.Dense(1))
    return model


def _doubled(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Double height and width of (n, h, w); the mean of each 2×2 block is the old pixel."""
    for axis in (1, 2):
        steps = np.diff(images, axis=axis)
        edge = np.zeros_like(np.take(images, [0], axis=axis))
        left, right = np.concatenate([edge, steps], axis), np.concatenate([steps, edge], axis)
        # The gentler of the two slopes, and none at a peak: no new value leaves the old range.
        slope = np.where(left * right > 0, np.sign(left), 0) * np.minimum(abs(left), abs(right))
        pair = np.stack([images - slope / 4, images + slope / 4], axis + 1)
        shape = list(images.shape)
        shape[axis] *= 2
        images = pair.reshape(shape)
    return images


def _checked(pictures: npt.ArrayLike) -> Pictures:
    array = np.asarray(pictures)
    if array.ndim != 4 or array.shape[1:] != (SIZE, SIZE, 3) or array.dtype != np.uint8:
        raise ValueError(
            f"colour pictures are uint8 (n, 64, 64, 3), and these are {array.dtype} {array.shape}: "
            "`gan.to_uint8` makes them from a generator's output"
        )
    return array
