"""The course's GAN: a DCGAN of two small networks, trained with Keras's ``fit`` (lesson 09).

    model = gan.GAN(gan.build_generator(), gan.build_discriminator())
    model.compile()
    model.fit(images, epochs=5)
    pictures = model.generate(100)

The networks are those of Radford, Metz and Chintala, *Unsupervised Representation Learning with
Deep Convolutional Generative Adversarial Networks* (2016), made small; the game is that of lesson
08 with the non-saturating loss. Pictures go in and come out as uint8, as everywhere in the course.
Importing this module calls `session.prepare`: two threads, quiet logs, unless chosen otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_utils import data, gan_files, history, session
from aigc_utils.gan_files import SavedModelError
from aigc_utils.history import TrainingDiverged

session.prepare()
with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

if keras.backend.backend() != "tensorflow":
    raise RuntimeError(
        f"Keras runs on {keras.backend.backend()!r} here, and this train step is written for "
        "TensorFlow: set KERAS_BACKEND=tensorflow before Python starts."
    )

LATENT_DIM = 64
LEARNING_RATE = 2e-3
BETA_1 = 0.5

Images = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.float32]


# The two networks --------------------------------------------------------------------------------


def build_generator(
    latent_dim: int = LATENT_DIM, width: int = 32, n_classes: int = 0
) -> keras.Sequential:
    """Return an untrained generator: z (n, latent_dim) to pictures (n, 28, 28, 1) in [−1, 1].

    With ``n_classes`` it also takes the class, as a one-hot vector behind z.
    A dense layer makes 7 × 7 positions of 2·``width`` channels; two transposed convolutions double
    the sides. Kernel 4 with stride 2 covers every pixel equally often, which removes one cause of
    a chequered pattern, not all: each phase still has weights of its own.
    """
    demand_whole(latent_dim=latent_dim, width=width)
    demand_whole(0, n_classes=n_classes)
    return keras.Sequential(
        [
            keras.Input((latent_dim + n_classes,)),
            # Batch normalisation has a shift of its own, so the layers before it need no bias.
            layers.Dense(int(7 * 7 * 2 * width), use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Reshape((7, 7, 2 * width)),
            layers.Conv2DTranspose(width, 4, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="tanh"),
        ],
        name="generator",
    )


def build_discriminator(
    width: int = 32, dropout: float = 0.3, n_classes: int = 0
) -> keras.Sequential:
    """Return an untrained discriminator: pictures (n, 28, 28, 1) in [−1, 1] to logits (n, 1).

    With ``n_classes`` C the output is (n, 1 + C): the logit of a picture of class y is the first
    number plus the one of its class, which is the projection of Miyato and Koyama, *cGANs with
    Projection Discriminator* (2018), equation 3, with a linear ψ.

    No batch normalisation: it would let the samples of one batch tell on each other. No sigmoid:
    the losses take logits, which cannot overflow.
    """
    demand_whole(width=width)
    demand_whole(0, n_classes=n_classes)
    if not is_between(0, dropout, 1):
        raise ValueError(f"dropout={dropout} is the share of units dropped: it lies in [0, 1).")
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(2 * width, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            # Once, before the last layer: random numbers for whole feature maps are dear.
            layers.Dropout(dropout),
            layers.Dense(int(1 + n_classes)),
        ],
        name="discriminator",
    )


# Pictures and noise ------------------------------------------------------------------------------


def draw_latents(n: int, latent_dim: int = LATENT_DIM, seed: int = 0) -> Latents:
    """Return noise for n pictures, float32 (n, latent_dim), standard normal, always the same."""
    demand_whole(n=n, latent_dim=latent_dim)
    demand_whole(0, seed=seed)
    return np.random.default_rng(seed).standard_normal((n, latent_dim), dtype=np.float32)


def to_signed(images: Any) -> tf.Tensor:
    """Return uint8 pictures as the networks see them: float32 in [−1, 1], the range of tanh."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def to_uint8(pictures: npt.ArrayLike) -> Images:
    """Return pictures in [−1, 1] as uint8, 0 black and 255 white: the inverse of `to_signed`."""
    return ((np.asarray(pictures) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


# The game ----------------------------------------------------------------------------------------


class GAN(keras.Model):
    """Generator and discriminator in one Keras model: ``compile``, ``fit``, ``generate``.

    ``generator`` maps z (n, latent_dim) to pictures in [−1, 1], ``discriminator`` maps those to
    logits (n, 1). ``label_smoothing`` s makes the target of real pictures 1 − s (never above 1, and
    generated ones keep 0; Salimans et al., *Improved Techniques for Training GANs*, 2016).
    ``d_steps``: steps of D for each step of G, every one on real pictures of its own. ``seed``
    decides the noise and the order of the pictures; the weights come from Keras's global seed.
    ``n_classes`` > 0, for networks built with the same number, makes pictures of wanted classes.

    ``averaged`` is the moving average of the generator, which `generate` uses. ``record`` is the
    run so far, one row an epoch: epoch, d_loss, g_loss, d_real = D(x), d_fake = D(G(z)), and what
    callbacks such as `gan_callbacks.Score` add.
    """

    steps_per_execution: int

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        *,
        label_smoothing: float = 0.0,
        d_steps: int = 1,
        n_classes: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(name="gan")
        demand_whole(d_steps=d_steps)
        demand_whole(0, n_classes=n_classes, seed=seed)
        if not is_between(0, label_smoothing, 0.5):
            raise ValueError(
                f"label_smoothing={label_smoothing} must lie in [0, 0.5): the target of real "
                "pictures is 1 minus it, and a target above 1 has no smallest loss."
            )
        _check_networks(generator, discriminator, n_classes)
        self.latent_dim: int = generator.input_shape[-1] - n_classes
        self.generator = generator
        self.discriminator = discriminator
        self.averaged = keras.models.clone_model(generator)
        self.averaged.set_weights(generator.get_weights())
        self.averaged.trainable = False
        # Numbers of NumPy would not go into the JSON text of a saved model.
        self.label_smoothing, self.d_steps = float(label_smoothing), int(d_steps)
        self.n_classes, self.seed = int(n_classes), int(seed)
        self.record = history.History()
        self._steps = self.add_weight(shape=(), dtype="int64", trainable=False, name="steps")
        self._noise = keras.random.SeedGenerator(seed)
        names = ("d_loss", "g_loss", "d_real", "d_fake")
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True

    @property
    def epochs_done(self) -> int:
        """Number of whole epochs that this model has been trained for."""
        return len(self.record.rows)

    def call(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return pictures in [−1, 1] from the generator as it is now, not its average."""
        return self.generator(z, training=training)

    def compile(
        self,
        *,
        d_lr: float = LEARNING_RATE,
        g_lr: float = LEARNING_RATE,
        beta_1: float = BETA_1,
        steps_per_execution: int = 8,
        run_eagerly: bool = False,
    ) -> None:
        """Give each player an Adam of its own, with learning rates ``d_lr`` and ``g_lr``.

        β₁ is 0.5 and not 0.9: momentum of 0.9 remembers an opponent that has moved on since.
        ``steps_per_execution`` steps run in one call of the compiled graph.
        """
        demand_whole(steps_per_execution=steps_per_execution)
        rates = all(is_between(0, rate, math.inf) and rate > 0 for rate in (d_lr, g_lr))
        if not rates or not is_between(0, beta_1, 1):
            raise ValueError(
                f"d_lr={d_lr} and g_lr={g_lr} must be above 0, and beta_1={beta_1} in [0, 1)."
            )
        # Without XLA, which runs these small networks at two thirds of the speed on a CPU.
        super().compile(
            optimizer=None,
            jit_compile=False,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        self.settings = {
            "d_lr": float(d_lr),
            "g_lr": float(g_lr),
            "beta_1": float(beta_1),
            "steps_per_execution": int(steps_per_execution),
            "run_eagerly": bool(run_eagerly),
        }
        self.d_optimizer = keras.optimizers.Adam(d_lr, beta_1=beta_1)
        self.g_optimizer = keras.optimizers.Adam(g_lr, beta_1=beta_1)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)

    def fit(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        *,
        epochs: int = 1,
        batch_size: int = 64,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        checkpoint: str | Path | None = None,
        verbose: int | str = 0,
    ) -> keras.callbacks.History:
        """Train on uint8 pictures (n, height, width) until ``epochs`` epochs are done in all.

        ``labels`` (n,) are the pictures' classes, for a GAN with ``n_classes`` and for no other.
        A model that has done some goes on from there: a second call with the same number does
        nothing. Whatever stops an epoch undoes it: Ctrl-C, a loss that is no number, an error in a
        callback. With ``checkpoint``, the name of an .npz file, every epoch is saved there, and a
        fresh model continues from it when it exists.

        Raises ValueError for unfit pictures and numbers, SavedModelError for a checkpoint that is
        damaged or of another GAN, TrainingDiverged for NaN.
        """
        self._demand_compiled("fit")
        demand_whole(0, epochs=epochs)
        demand_whole(batch_size=batch_size)
        pictures = _check_images(images, self.discriminator.input_shape[1:])
        classes = _check_labels(labels, len(pictures), self.n_classes)
        batch = batch_size * self.d_steps
        if batch > len(pictures):
            raise ValueError(
                f"A step takes batch_size × d_steps = {batch} pictures and there are "
                f"{len(pictures)}."
            )
        if isinstance(callbacks, keras.callbacks.Callback):
            raise ValueError("callbacks is a list, even for one: write callbacks=[…].")
        file = None if checkpoint is None else gan_files.checked_name(checkpoint)
        if file is not None and self.epochs_done == 0 and file.exists():
            _restore(self, *gan_files.read(file))
        # A decay of an earlier run must not go on by itself; its callback sets them again.
        self.d_optimizer.learning_rate = self.settings["d_lr"]
        self.g_optimizer.learning_rate = self.settings["g_lr"]
        per_call = min(int(self.settings["steps_per_execution"]), len(pictures) // batch)
        if per_call != self.steps_per_execution:
            self.steps_per_execution, self.train_function = per_call, None  # compile anew
        steps = len(pictures) // batch // per_call * per_call
        last_epoch = _LastEpoch(self, file)
        try:
            return super().fit(
                batches(pictures, classes, batch, self.seed, self.epochs_done, steps),
                initial_epoch=self.epochs_done,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,
                callbacks=[*callbacks, last_epoch],
                verbose=verbose,
            )
        except KeyboardInterrupt:
            last_epoch.undo()
            print(
                f"Stopped in epoch {self.epochs_done + 1}; the model is back at the end of epoch "
                f"{self.epochs_done}. Call fit again to go on."
            )
            return self.history
        except BaseException:
            last_epoch.undo()
            raise

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Let D learn ``d_steps`` times, then G once; return the means of this epoch so far.

        G's step uses the pictures of D's last step, seen with the new D: they need not be made
        twice. Every call says ``training=True``: without it dropout would be off and batch
        normalisation would use its running averages.
        """
        images, labels = data
        rounds = list(
            zip(*(tf.split(part, self.d_steps) for part in (images, labels)), strict=True)
        )
        for real, classes in rounds[:-1]:
            self._d_step(to_signed(real), self._make(classes), classes)
        real, classes = to_signed(rounds[-1][0]), rounds[-1][1]
        with tf.GradientTape() as tape:
            fake = self._make(classes)
            with tape.stop_recording():
                self._d_step(real, fake, classes)
            g_loss = self.g_loss(real, fake, classes)
        weights = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self._means["g_loss"].update_state(g_loss)
        self._average()
        return {name: mean.result() for name, mean in self._means.items()}

    def d_loss(
        self, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return D's loss in nats, and its logits of the real and the generated pictures, (n,).

        ``real`` and ``fake`` are n pictures each in [−1, 1], of the same classes (n,). Override
        this and `g_loss` to play another game.
        """
        real_logits, fake_logits = self.logits(real, classes), self.logits(fake, classes)
        loss = cross_entropy(real_logits, 1 - self.label_smoothing)
        return loss + cross_entropy(fake_logits, 0.0), real_logits, fake_logits

    def g_loss(self, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Return G's non-saturating loss −log D(G(z)); another game may look at ``real`` too."""
        return cross_entropy(self.logits(fake, classes), 1.0)

    def logits(self, pictures: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Return D's logits (n,) as it trains: is this a real picture (of its class)?"""
        outputs = self.discriminator(pictures, training=True)
        if not self.n_classes:
            return outputs[:, 0]
        return outputs[:, 0] + tf.gather(outputs[:, 1:], classes, axis=1, batch_dims=1)

    def _d_step(self, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            d_loss, real_logits, fake_logits = self.d_loss(real, fake, classes)
        weights = self.discriminator.trainable_variables
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        self._means["d_loss"].update_state(d_loss)
        self._means["d_real"].update_state(tf.sigmoid(real_logits))
        self._means["d_fake"].update_state(tf.sigmoid(fake_logits))

    def _make(self, classes: tf.Tensor) -> tf.Tensor:
        """Return new pictures of these classes, one each, from fresh noise."""
        z = keras.random.normal((classes.shape[0], self.latent_dim), seed=self._noise)
        return self.generator(self._with_classes(z, classes), training=True)

    def _with_classes(self, z: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        return tf.concat([z, tf.one_hot(classes, self.n_classes)], axis=1) if self.n_classes else z

    def _average(self) -> None:
        """Move the averaged generator a little towards the present one.

        By hand, because Keras's averaging belongs to an optimiser and its callback takes only one.
        The decay grows with the steps: the first, bad generators are soon forgotten.
        """
        self._steps.assign_add(1)
        t = tf.cast(self._steps.value, tf.float32)
        rate = 1 - tf.minimum(0.999, (1 + t) / (10 + t))
        for mean, new in zip(self.averaged.variables, self.generator.variables, strict=True):
            mean.assign_add(rate * (new - mean))

    def generate(
        self, n: int, seed: int = 0, labels: npt.ArrayLike | None = None, *, averaged: bool = True
    ) -> Images:
        """Return n pictures, uint8 (n, height, width) or (n, height, width, 3).

        From the averaged generator, or from the present one. The same seed gives the same z.
        ``labels`` as in `decode`.
        """
        z = draw_latents(n, self.latent_dim, seed)
        return self.decode(z, labels, averaged=averaged)

    def decode(
        self, z: npt.ArrayLike, labels: npt.ArrayLike | None = None, *, averaged: bool = True
    ) -> Images:
        """Return the pictures that belong to latent vectors z (n, latent_dim), as `generate` does.

        ``labels`` are the wanted classes (n,); without them the classes come in turn: 0, 1, 2, …
        Raises ValueError for latent vectors of another size, for NaN and for unfit labels.
        """
        latents = _check_latents(z, self.latent_dim)
        if self.n_classes and labels is None:
            labels = np.arange(len(latents)) % self.n_classes
        inputs = self._with_classes(latents, _check_labels(labels, len(latents), self.n_classes))
        network = self.averaged if averaged else self.generator
        # In pieces: the layers inside hold some hundred times as many numbers as a picture.
        pieces = [
            to_uint8(network(inputs[i : i + 500], training=False))
            for i in range(0, len(latents), 500)
        ]
        pictures = np.concatenate(pieces)
        return pictures[..., 0] if pictures.shape[-1] == 1 else pictures

    def save(self, path: str | Path, overwrite: bool = True) -> None:
        """Write everything to one .npz file: networks, optimisers, random states, record.

        `load` it; `gan_files` says why it is not Keras's own format. A reader sees the old file or
        the new one, never half of it. Raises ValueError for another kind of name, FileExistsError
        for a file that exists when ``overwrite`` is False, and RuntimeError before `compile`.
        """
        self._demand_compiled("save")
        path = gan_files.checked_name(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"There is a {path} already: take another name, or overwrite it.")
        config = {
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "gan": self._options(),
            "compile": self.settings,
            "record": self.record.rows,
        }
        gan_files.write(path, config, [variable.numpy() for variable in _state(self)])

    def _options(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "d_steps": self.d_steps,
            "n_classes": self.n_classes,
            "seed": self.seed,
        }

    def _demand_compiled(self, before: str) -> None:
        if not getattr(self, "compiled", False):
            raise RuntimeError(f"This GAN has no optimisers yet: call compile() before {before}().")


def batches(
    images: Images,
    labels: npt.NDArray[np.int32],
    batch: int,
    seed: int,
    first_epoch: int,
    steps: int,
) -> tf.data.Dataset:
    """Return batches of pictures and labels for ever, ``steps`` of them an epoch.

    The order of an epoch depends on seed and epoch alone, so a resumed run sees what an
    uninterrupted one would have seen.
    """
    pictures, classes = tf.constant(images), tf.constant(labels)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), key)
        return tf.data.Dataset.from_tensor_slices(order[: steps * batch]).batch(batch, True)

    epochs = tf.data.Dataset.counter(first_epoch)
    rows = epochs.flat_map(one_epoch)
    return rows.map(lambda i: (tf.gather(pictures, i), tf.gather(classes, i))).prefetch(8)


def cross_entropy(logits: tf.Tensor, target: float) -> tf.Tensor:
    """Return the mean binary cross-entropy in nats of logits (n,) to one target in [0, 1].

    With target 1 for generated pictures this is −log D(G(z)), G's non-saturating loss.
    """
    return tf.reduce_mean(tf.math.softplus(logits) - target * logits)


# Files -------------------------------------------------------------------------------------------


def load(path: str | Path) -> GAN:
    """Read a GAN that `GAN.save` wrote, compiled, ready to generate and to train on.

    Raises FileNotFoundError, and SavedModelError when the file is damaged or something else.
    """
    path = Path(path)
    config, arrays = gan_files.read(path)
    try:
        model = GAN(
            keras.saving.deserialize_keras_object(config["generator"]),
            keras.saving.deserialize_keras_object(config["discriminator"]),
            **config["gan"],
        )
        model.compile(**config["compile"])
    except Exception as error:  # Keras raises many kinds for a configuration that it did not write
        raise gan_files.damaged(path, error) from error
    _restore(model, config, arrays)
    return model


def load_clothes() -> GAN:
    """Return a GAN whose averaged generator is the committed one, trained for forty epochs.

    For `GAN.generate` and `GAN.decode`; its discriminator is untrained. Raises DataError when the
    file is missing or damaged.
    """
    with np.load(data.path("models/clothes_gan.npz")) as file:
        weights = [file[key].astype(np.float32) for key in sorted(file.files)]
    model = GAN(build_generator(), build_discriminator())
    for network in (model.averaged, model.generator):
        network.set_weights(weights)
    return model


def _state(model: GAN) -> list[Any]:
    """Return every variable that training changes, the random states among them."""
    return [*model.variables, *model.d_optimizer.variables, *model.g_optimizer.variables]


def _restore(model: GAN, config: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Bring a compiled model to where a saved one was; raise before anything is changed."""
    variables, options = _state(model), model._options()
    if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
        raise SavedModelError(
            "The saved GAN has other networks than this one: build the same ones, or `load` it."
        )
    for name, value in config["gan"].items():
        if options[name] != value:
            raise SavedModelError(
                f"The saved GAN has {name}={value} and this one {name}={options[name]}: give it "
                "the same, or name another file."
            )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    model.record.rows[:] = config["record"]


# What goes in ------------------------------------------------------------------------------------


def demand_whole(least: int = 1, /, **values: Any) -> None:
    """Raise ValueError, with its name, for a value that is no whole number or below ``least``."""
    for name, value in values.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number, at least {least}.")


def is_between(low: float, value: Any, high: float) -> bool:
    """Return whether ``value`` is a number in [low, high); NaN is in no interval."""
    return isinstance(value, int | float | np.number) and bool(low <= value < high)


def _check_networks(generator: keras.Model, discriminator: keras.Model, n_classes: int) -> None:
    """Raise ValueError unless the two networks can play against each other."""
    if generator.input_shape[-1] <= n_classes:
        raise ValueError(
            f"The generator takes {generator.input_shape[-1]} numbers, which leaves none for z "
            f"beside {n_classes} classes: build it with the same n_classes."
        )
    if generator.output_shape != discriminator.input_shape:
        raise ValueError(
            f"The generator makes pictures of shape {generator.output_shape[1:]} and the "
            f"discriminator takes {discriminator.input_shape[1:]}: build both for one shape."
        )
    if discriminator.output_shape != (None, 1 + n_classes):
        raise ValueError(
            f"The discriminator's output has the shape {discriminator.output_shape} and must "
            f"have (None, {1 + n_classes}): one logit a picture, and one more for each class."
        )


def _check_latents(z: npt.ArrayLike, latent_dim: int) -> Latents:
    """Return latent vectors as float32 (n, latent_dim)."""
    try:
        latents = np.asarray(z, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Latent vectors hold numbers alone: {error}.") from error
    if latents.ndim != 2 or latents.shape[1] != latent_dim or len(latents) == 0:
        raise ValueError(
            f"Latent vectors of this GAN have the shape (n, {latent_dim}), and these have "
            f"{latents.shape}."
        )
    if not np.isfinite(latents).all():
        raise ValueError("The latent vectors hold NaN or infinity: draw them anew.")
    return latents


def _check_labels(labels: npt.ArrayLike | None, n: int, n_classes: int) -> npt.NDArray[np.int32]:
    """Return the classes of n pictures, int32 (n,), all zero for a GAN without classes."""
    if labels is None or not n_classes:
        if labels is not None or n_classes:
            verb = "needs the" if n_classes else "knows no"
            raise ValueError(f"This GAN {verb} classes of its pictures: n_classes is {n_classes}.")
        return np.zeros(n, dtype=np.int32)
    classes = np.asarray(labels)
    if classes.shape != (n,) or not np.isin(classes, np.arange(n_classes)).all():
        raise ValueError(
            f"Labels are whole numbers from 0 to {n_classes - 1}, one for each of the {n} "
            f"pictures; these have the shape {classes.shape}."
        )
    return classes.astype(np.int32)


def _check_images(images: npt.ArrayLike, shape: tuple[int, int, int]) -> Images:
    """Return the pictures with their channel axis: uint8 (n, height, width, channels)."""
    pictures = np.asarray(images)
    height, width, channels = shape
    expected = (height, width) if channels == 1 else (height, width, channels)
    if pictures.shape[1:] != expected or len(pictures) == 0:
        raise ValueError(
            f"This GAN learns pictures of shape (n, {', '.join(map(str, expected))}), and "
            f"these have {pictures.shape}."
        )
    if pictures.dtype != np.uint8:
        raise ValueError(
            f"Pictures are uint8, 0…255, and these are {pictures.dtype}: floats x in [0, 1] "
            "become uint8 with (255 * x).round().astype('uint8')."
        )
    if pictures.max() < 2:
        raise ValueError(
            f"The brightest pixel of these pictures is {pictures.max()}, but white is 255: "
            "they were scaled to 0…1 before they became uint8."
        )
    return pictures.reshape(len(pictures), height, width, channels)


# The callback that `fit` adds -------------------------------------------------------------------


class _LastEpoch(keras.callbacks.Callback):
    """Keeps the record and the last whole epoch; it must be the last callback of all."""

    def __init__(self, model: GAN, checkpoint: Path | None) -> None:
        super().__init__()
        self.set_model(model)
        self.checkpoint = checkpoint
        self._remember()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        bad = [name for name, value in (logs or {}).items() if not math.isfinite(value)]
        if bad:
            raise self._diverged(bad[0])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # The losses are older than the last step's weights.
        if not all(np.isfinite(variable.numpy()).all() for variable in _state(self.model)):
            raise self._diverged("a weight")
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.model.record.rows.append({"epoch": epoch + 1, **values})
        self._remember()
        if self.checkpoint is not None:
            self.model.save(self.checkpoint)

    def undo(self) -> None:
        """Bring the model back to the end of the last whole epoch."""
        values, rows = self._kept
        for variable, value in zip(_state(self.model), values, strict=True):
            variable.assign(value)
        del self.model.record.rows[rows:]

    def _remember(self) -> None:
        values = [variable.numpy() for variable in _state(self.model)]
        self._kept = values, len(self.model.record.rows)  # at once: Ctrl-C may come between

    def _diverged(self, what: str) -> TrainingDiverged:
        done = self.model.epochs_done
        return TrainingDiverged(
            f"{what} is no longer a number in epoch {done + 1}: lower the learning rates; the "
            f"model is back at the end of epoch {done}."
        )
