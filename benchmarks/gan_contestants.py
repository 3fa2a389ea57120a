"""Who takes part in the GAN benchmarks, and how each is trained: `gan.py` and `gan_ablation.py`.

Two contestants are the course's GAN, with and without the classes of the training pictures. Two are
examples that Keras publishes, written anew from their architecture and settings. All read the same
20,000 committed pictures and write pictures from the same latent vectors' seeds, with the classes
in turn where a contestant knows classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_utils import data, gan, gan_callbacks, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

N_CLASSES = len(data.CLASS_NAMES)
FOR_EVER = 1_000_000  # epochs; a callback ends the run


# Clocks ------------------------------------------------------------------------------------------

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
        """Share of the training that is over, at most 1."""
        return min(1.0, self.elapsed() / self.seconds)

    def elapsed(self) -> float:
        """Return the seconds of training so far, without the first call."""
        return 0.0 if self.start is None else self.clock() - self.start

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the call and look at the clock."""
        if self.start is None:
            self.start = self.clock()
        else:
            self.calls += 1
        if self.share >= 1:
            self.model.stop_training = True


class Milestones(Stopwatch):
    """Calls ``reached(pictures, seconds)`` at numbers of pictures seen, and stops at the last.

    Seconds are those of two processors. What ``reached`` takes is not counted.
    """

    def __init__(
        self, marks: Sequence[int], batch: int, reached: Callable[[int, float], None]
    ) -> None:
        super().__init__(np.inf, CLOCKS["processor"])
        self.marks, self.batch, self.reached = sorted(marks), batch, reached
        self.pictures = 0

    @property
    def share(self) -> float:
        """Share of the pictures that have been seen, at most 1."""
        return min(1.0, self.pictures / self.marks[-1])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the pictures of this call, and report the marks that they have reached."""
        before = self.pictures
        self.pictures += self.model.steps_per_execution * self.batch
        super().on_train_batch_end(batch, logs)
        for mark in self.marks:
            if before < mark <= self.pictures:
                pause = self.clock()
                self.reached(mark, self.elapsed())
                self.start += self.clock() - pause


class ClockDecay(gan_callbacks.LinearDecay):
    """Lets the learning rates follow a stopwatch, where nobody knows the number of epochs."""

    def __init__(self, stopwatch: Stopwatch, start: float = 0.5) -> None:
        super().__init__(start)
        self.stopwatch = stopwatch

    def progress(self, batch: int) -> float:
        """Return the stopwatch's share."""
        return self.stopwatch.share


# The peers ---------------------------------------------------------------------------------------


class KerasExample(keras.Model):
    """The GAN of Keras's guides, or its conditional sister, written anew from what is published.

    Sources: F. Chollet, "GAN overriding `Model.train_step`" (keras.io, 2019) and the last section
    of the guide "Customizing what happens in `fit()` with TensorFlow" (2023): 28×28 pictures in
    [0, 1], z of 128, batch 64, two Adams with 3e-4, target 1 for generated pictures and 0 for
    real ones, each plus 0.05 times U(0, 1). S. Paul, "Conditional GAN" (keras.io, 2021): the same
    without that noise on the targets; G reads z and the class as ten numbers, D ten more channels.

    In their favour: 8 steps a call; no XLA, which would be Keras's default but is slower here;
    every pixel of D's ten channels tells the class, as the second example's comments say, where
    its code lays the class out in a band of three rows.
    """

    BATCH = 64
    LATENT_DIM = 128

    def __init__(self, n_classes: int = 0) -> None:
        super().__init__()
        self.n_classes = n_classes
        width = 128 + n_classes
        self.generator = keras.Sequential(
            [
                keras.Input((self.LATENT_DIM + n_classes,)),
                layers.Dense(7 * 7 * width),
                layers.LeakyReLU(0.2),
                layers.Reshape((7, 7, width)),
                layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
                layers.LeakyReLU(0.2),
                layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
            ]
        )
        self.discriminator = keras.Sequential(
            [
                keras.Input((28, 28, 1 + n_classes)),
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
        images, classes = data
        n = images.shape[0]
        real = tf.cast(images, tf.float32) / 255
        both = tf.concat(
            [self._seen(self._make(n, classes), classes), self._seen(real, classes)], 0
        )
        targets = tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], axis=0)
        if not self.n_classes:
            targets += 0.05 * tf.random.uniform((2 * n, 1))
        with tf.GradientTape() as tape:
            d_loss = self.loss_of(targets, self.discriminator(both))
        self._apply(tape, d_loss, 0, self.discriminator)
        with tf.GradientTape() as tape:
            logits = self.discriminator(self._seen(self._make(n, classes), classes))
            g_loss = self.loss_of(tf.zeros((n, 1)), logits)
        self._apply(tape, g_loss, 1, self.generator)
        return {"d_loss": d_loss, "g_loss": g_loss}

    def _make(self, n: int, classes: tf.Tensor) -> tf.Tensor:
        return self.generator(self._asked(tf.random.normal((n, self.LATENT_DIM)), classes))

    def _asked(self, z: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Return G's inputs: z, and after it the class as ten numbers where classes are known."""
        return tf.concat([z, tf.one_hot(classes, self.n_classes)], 1) if self.n_classes else z

    def _seen(self, pictures: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Return D's inputs: the pictures, and a channel for each class where classes are known."""
        if not self.n_classes:
            return pictures
        channels = tf.one_hot(classes, self.n_classes)[:, None, None, :]
        return tf.concat([pictures, tf.tile(channels, [1, *pictures.shape[1:3], 1])], axis=-1)

    def _apply(self, tape: tf.GradientTape, loss: tf.Tensor, i: int, network: keras.Model) -> None:
        weights = network.trainable_variables
        self.optimizers[i].apply(tape.gradient(loss, weights), weights)

    def generate(self, n: int, seed: int) -> np.ndarray:
        """Return n pictures, uint8 (n, 28, 28), of the classes in turn."""
        z = self._asked(gan.draw_latents(n, self.LATENT_DIM, seed), np.arange(n) % N_CLASSES)
        pieces = [self.generator(z[i : i + 500]) for i in range(0, n, 500)]
        return gan.to_uint8(2 * np.concatenate(pieces)[..., 0] - 1)


# Ours --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """One way to train ours; the defaults are what the race runs."""

    n_classes: int = N_CLASSES  # 0: without labels
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


def build(recipe: Recipe, seed: int, kind: type[gan.GAN] = gan.GAN) -> gan.GAN:
    """Return the compiled, untrained model of a recipe."""
    session.start(seed)
    model = kind(
        gan.build_generator(recipe.latent_dim, recipe.width, recipe.n_classes),
        gan.build_discriminator(recipe.width, recipe.dropout, recipe.n_classes),
        label_smoothing=recipe.label_smoothing,
        d_steps=recipe.d_steps,
        n_classes=recipe.n_classes,
        seed=seed,
    )
    model.compile(g_lr=recipe.lr, d_lr=recipe.d_lr_factor * recipe.lr, beta_1=recipe.beta_1)
    return model


def fit(model: gan.GAN, recipe: Recipe, stopwatch: Stopwatch) -> None:
    """Train ours on the committed pictures until the stopwatch ends it."""
    (images, labels), _ = data.load_fashion_mnist()
    callbacks: list[keras.callbacks.Callback] = [stopwatch]
    if recipe.decay_start < 1:
        callbacks.append(ClockDecay(stopwatch, recipe.decay_start))
    known = labels if recipe.n_classes else None
    model.fit(images, known, epochs=FOR_EVER, batch_size=recipe.batch_size, callbacks=callbacks)


def fit_peer(model: KerasExample, seed: int, stopwatch: Stopwatch) -> None:
    """Train a peer on the committed pictures until the stopwatch ends it."""
    (images, labels), _ = data.load_fashion_mnist()
    steps = len(images) // model.BATCH // 8 * 8
    model.fit(
        gan.batches(images[..., None], np.int32(labels), model.BATCH, seed, 0, steps),
        epochs=FOR_EVER,
        steps_per_epoch=steps,
        callbacks=[stopwatch],
        shuffle=False,
        verbose=0,
    )


# All four ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """Its name in tables, whether it knows the pictures' classes, and whether it is ours."""

    title: str
    knows_classes: bool
    ours: bool

    @property
    def batch(self) -> int:
        """Return the pictures of one step."""
        return Recipe().batch_size if self.ours else KerasExample.BATCH

    def build(self, seed: int) -> keras.Model:
        """Return the untrained model."""
        n_classes = N_CLASSES if self.knows_classes else 0
        if self.ours:
            return build(Recipe(n_classes=n_classes), seed)
        session.start(seed)
        return KerasExample(n_classes)

    def fit(self, model: keras.Model, seed: int, stopwatch: Stopwatch) -> None:
        """Train the model until the stopwatch ends it."""
        if self.ours:
            fit(model, Recipe(n_classes=model.n_classes), stopwatch)
        else:
            fit_peer(model, seed, stopwatch)


CONTESTANTS = {
    "ours": Contestant("the course's GAN, classes known", True, True),
    "keras-conditional": Contestant("Keras's Conditional GAN example", True, False),
    "ours-unlabelled": Contestant("the course's GAN, no classes", False, True),
    "keras-dcgan": Contestant("Keras's DCGAN example", False, False),
}
