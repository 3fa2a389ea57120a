"""The course's GAN: it plays the game, resumes exactly, and fails in one sentence."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from aigc_utils import convolution, gan, gan_callbacks, gan_files, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

COLOURS = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3), dtype=np.uint8)
PICTURES = np.random.default_rng(0).integers(0, 256, (96, 28, 28), dtype=np.uint8)
LABELS = np.arange(96) % 3


def networks(n_classes: int = 0) -> tuple[keras.Sequential, keras.Sequential]:
    """Return networks for 4×4 colour pictures: batch normalisation and dropout, little else."""
    keras.utils.set_random_seed(5)
    generator = keras.Sequential(
        [
            keras.Input((3 + n_classes,)),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.Dense(48, activation="tanh"),
            layers.Reshape((4, 4, 3)),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Flatten(),
            layers.Dense(8, activation="leaky_relu"),
            layers.Dropout(0.3),
            layers.Dense(1 + n_classes),
        ]
    )
    return generator, discriminator


def small(n_classes: int = 0, **options) -> gan.GAN:
    """Return a GAN of these networks that runs step by step: quicker for a step or two."""
    model = gan.GAN(*networks(n_classes), n_classes=n_classes, **options)
    model.compile(d_lr=3e-3, g_lr=2e-3, steps_per_execution=2, run_eagerly=True)
    return model


def state(model: gan.GAN) -> list[np.ndarray]:
    optimizers = [*model.d_optimizer.variables, *model.g_optimizer.variables]
    return [variable.numpy() for variable in (*model.variables, *optimizers)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Fresh:
    """One compiled GAN, as new at every call: compiling takes longer than what a test trains."""

    def __init__(self) -> None:
        self.model = gan.GAN(*networks(), seed=7)
        self.model.compile(steps_per_execution=2)
        self.start = state(self.model)

    def __call__(self) -> gan.GAN:
        model = self.model
        optimizers = [*model.d_optimizer.variables, *model.g_optimizer.variables]
        for variable, value in zip((*model.variables, *optimizers), self.start, strict=True):
            variable.assign(value)
        model.record.rows.clear()
        return model


@pytest.fixture(scope="module")
def fresh() -> Fresh:
    return Fresh()


@pytest.fixture(scope="module")
def trained() -> gan.GAN:
    """Return a GAN of the course's own networks, with three classes, after two epochs."""
    keras.utils.set_random_seed(5)
    model = gan.GAN(gan.build_generator(8, 4, 3), gan.build_discriminator(4, 0.3, 3), n_classes=3)
    model.compile(steps_per_execution=2)
    frames = gan_callbacks.Frames(n=3)
    score = gan_callbacks.Score(PICTURES, n=70, every=2)
    shown: list[int] = []
    frames.show = lambda pictures, epoch: shown.append(epoch)
    model.fit(PICTURES, LABELS, epochs=2, batch_size=24, callbacks=[frames, score])
    model.frames, model.score, model.shown = frames, score, shown
    return model


class At(keras.callbacks.Callback):
    """Does something in the last batches of an epoch, such as what Ctrl-C does."""

    def __init__(self, epoch: int, action) -> None:
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_train_batch_end(self, batch, logs=None):
        if self.model.epochs_done == self.epoch and batch == self.params["steps"] - 1:
            self.action()


def raises(error: BaseException):
    def action():
        raise error

    return action


# The networks ------------------------------------------------------------------------------------


def test_the_networks_have_the_layers_that_their_docstrings_promise():
    generator, discriminator = gan.build_generator(8, 4, 2), gan.build_discriminator(4, 0.5, 2)
    assert generator.input_shape == (None, 10) and discriminator.output_shape == (None, 3)
    assert generator.output_shape == discriminator.input_shape == (None, 28, 28, 1)
    z = np.float32(100 * gan.draw_latents(5, 10))
    shown = {flag: generator(z, training=flag).numpy() for flag in (True, False)}
    assert 0.9 < np.abs(shown[False]).max() <= 1, "tanh at the end"
    alone = generator(z[:2], training=True).numpy()
    assert not np.allclose(alone, shown[True][:2], atol=1e-3), "batch statistics in training"
    pictures = shown[True]
    judged = [discriminator(pictures, training=True).numpy() for _ in range(2)]
    assert not np.allclose(*judged), "dropout in training"
    np.testing.assert_allclose(
        discriminator(pictures[:1]).numpy(), discriminator(pictures).numpy()[:1], atol=1e-5
    )  # and nothing that one picture of a batch tells on another
    few = gan.build_discriminator(4, 0.0)
    np.testing.assert_array_equal(few(pictures, training=True), few(pictures, training=False))


def test_our_numpy_convolution_runs_both_networks():
    """A transposed convolution is the way back of a convolution, as lesson 07 derives."""
    generator, discriminator = gan.build_generator(8, 4), gan.build_discriminator(4)
    z = gan.draw_latents(3, 8)
    w = iter(generator.get_weights())

    def normalised(x):
        scale, shift, mean, variance = (next(w) for _ in range(4))
        return np.maximum((x - mean) / np.sqrt(variance + 1e-3) * scale + shift, 0)

    x = normalised(z @ next(w)).reshape(3, 7, 7, 8)
    for channels in (4, 1):
        kernel = next(w)  # of the convolution that leads back: from `channels` to x's
        side = np.zeros((3, 2 * x.shape[1], 2 * x.shape[2], channels))
        x, *_ = convolution.conv2d_backward(x, side, kernel, stride=2, padding="same")
        x = normalised(x) if channels == 4 else np.tanh(x + next(w))
    np.testing.assert_allclose(generator(z), x, atol=1e-5)
    w = iter(discriminator.get_weights())
    for _ in range(2):
        x = convolution.conv2d(x, next(w), next(w), stride=2, padding="same")
        x = np.where(x > 0, x, 0.2 * x)
    logits = x.reshape(3, -1) @ next(w) + next(w)
    np.testing.assert_allclose(discriminator(generator(z)), logits, atol=1e-4)


def test_the_seed_of_the_session_decides_weights_and_draws():
    """Keras takes its weights from Python's generator, and what it draws from one of its own."""

    def weights(seed):
        session.start(seed)
        return [*gan.build_generator(4, 2).get_weights(), *gan.build_discriminator(2).get_weights()]

    def draws(seed):
        session.start(seed)
        return [keras.random.normal((3,)).numpy()], [tf.random.normal((3,)).numpy()]

    assert same(weights(3), weights(3)) and not same(weights(3), weights(4))
    for again, drawn, other in zip(draws(3), draws(3), draws(4), strict=True):
        assert same(again, drawn) and not same(drawn, other)


def test_uint8_survives_the_way_into_the_networks_and_back():
    every = np.arange(256, dtype=np.uint8)
    signed = gan.to_signed(every).numpy()
    assert signed.dtype == np.float32 and signed[[0, 255]].tolist() == [-1, 1]
    assert np.array_equal(gan.to_uint8(signed), every)
    assert gan.to_uint8([-1.2, 1.2]).tolist() == [0, 255]


# The game ----------------------------------------------------------------------------------------


def test_the_order_of_the_pictures_is_new_in_each_epoch_and_known_beforehand():
    pictures, labels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10, 20)

    def epochs(first, seed=1):
        rows = gan.batches(pictures, np.int32(labels), 3, seed, first, 3).take(6)
        shown, classes = (
            np.concatenate(part) for part in zip(*rows.as_numpy_iterator(), strict=True)
        )
        np.testing.assert_array_equal(shown.ravel() + 10, classes)  # each keeps its label
        return shown.ravel()[:9].tolist(), shown.ravel()[9:].tolist()

    one, two = epochs(0)
    assert len(set(one)) == len(set(two)) == 9, "no picture comes twice in an epoch"
    assert sorted(one) != one and one != two
    assert epochs(0) == (one, two) and epochs(1)[0] == two
    assert epochs(0, seed=2)[0] != one


def by_hand(labels, *, steps, d_steps, smoothing, seed, d_lr, g_lr, beta_1, batch):
    """Play the game of lesson 08 with plain gradients; return G, D, G's average and the means."""
    n_classes = int(labels.max()) + 1
    G, D = networks(n_classes)
    noise = keras.random.SeedGenerator(seed)
    d_adam, g_adam = (keras.optimizers.Adam(rate, beta_1=beta_1) for rate in (d_lr, g_lr))
    mean = [np.array(variable) for variable in G.variables]
    told = []

    def logits(x, y):
        own, of_class = tf.split(D(x, training=True), [1, n_classes], axis=1)
        return own[:, 0] + tf.reduce_sum(of_class * tf.one_hot(y, n_classes), axis=1)

    def make(y):
        z = keras.random.normal((batch, 3), seed=noise)
        return G(tf.concat([z, tf.one_hot(y, n_classes)], axis=1), training=True)

    rows = gan.batches(COLOURS, labels, batch * d_steps, seed, 0, steps)
    for t, (pictures, classes) in enumerate(rows.take(steps), start=1):
        for i in range(d_steps):
            x = tf.cast(pictures[i * batch : (i + 1) * batch], tf.float32) / 127.5 - 1
            y = classes[i * batch : (i + 1) * batch]
            with tf.GradientTape() as g_tape:
                fake = make(y)
                with g_tape.stop_recording(), tf.GradientTape() as d_tape:
                    p, q = tf.sigmoid(logits(x, y)), tf.sigmoid(logits(fake, y))
                    target = 1 - smoothing
                    each = target * tf.math.log(p) + (1 - target) * tf.math.log(1 - p)
                    d_loss = -tf.reduce_mean(each + tf.math.log(1 - q))
                with g_tape.stop_recording():
                    d_adam.apply(d_tape.gradient(d_loss, D.trainable_variables),
                                 D.trainable_variables)  # fmt: skip
                    told.append(dict(d_loss=d_loss, d_real=np.mean(p), d_fake=np.mean(q)))
                if i < d_steps - 1:
                    continue
                g_loss = -tf.reduce_mean(tf.math.log(tf.sigmoid(logits(fake, y))))
        told[-1]["g_loss"] = g_loss
        g_adam.apply(g_tape.gradient(g_loss, G.trainable_variables), G.trainable_variables)
        decay = min(0.999, (1 + t) / (10 + t))
        mean = [decay * m + (1 - decay) * np.array(new)
                for m, new in zip(mean, G.variables, strict=True)]  # fmt: skip
    names = ("d_loss", "g_loss", "d_real", "d_fake")
    means = {name: np.mean([row[name] for row in told if name in row]) for name in names}
    return G, D, mean, means


def test_fit_plays_the_game_that_is_written_out_by_hand():
    """Smoothing, classes, dropout, batch statistics, both rates, both signs and the average."""
    rates = dict(d_lr=5e-3, g_lr=2e-3, beta_1=0.4)
    labels = np.int32(np.arange(32) % 2)
    G, D, mean, means = by_hand(labels, steps=4, d_steps=2, smoothing=0.2, seed=7, batch=4, **rates)
    model = gan.GAN(*networks(2), n_classes=2, label_smoothing=0.2, d_steps=2, seed=7)
    model.compile(**rates, steps_per_execution=4)
    model.fit(COLOURS, labels, epochs=1, batch_size=4)
    for ours, theirs in ((model.generator, G), (model.discriminator, D)):
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
    for a, b in zip(model.averaged.variables, mean, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert model.record.rows == [{"epoch": 1, **{k: pytest.approx(v) for k, v in means.items()}}]


def test_untrained_losses_are_those_of_theory():
    assert float(gan.cross_entropy(np.zeros(3, "float32"), 1.0)) == pytest.approx(math.log(2))
    # With the target 0.9 the best logit is log 9, and nothing runs away.
    losses = [float(gan.cross_entropy(np.float32([a]), 0.9)) for a in (1.5, math.log(9), 9.0)]
    assert min(losses) == losses[1]


def test_few_pictures_first_and_more_later_are_all_seen():
    model = small()
    model.fit(COLOURS[:8], epochs=1, batch_size=8)  # one step, though two are wished for a call
    model.fit(COLOURS, epochs=2, batch_size=8)
    assert int(model.g_optimizer.iterations) == 1 + 4


def test_the_record_has_a_row_an_epoch_with_the_scores_of_its_callbacks(trained):
    names = {"epoch", "d_loss", "g_loss", "d_real", "d_fake"}
    first, second = trained.record.rows
    assert set(first) == names and set(second) == names | {"frechet", "coverage"}
    assert trained.epochs_done == second["epoch"] == 2
    assert all(0 <= row[name] <= 1 for row in (first, second) for name in ("d_real", "d_fake"))


# What comes out ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_pictures(trained):
    assert np.array_equal(trained.generate(5, seed=3), trained.generate(5, seed=3))
    assert not np.array_equal(trained.generate(5, seed=3), trained.generate(5, seed=4))
    assert np.array_equal(trained.generate(5, seed=3)[:2], trained.generate(2, seed=3))
    z = gan.draw_latents(5, 8, seed=3)
    assert np.array_equal(trained.decode(z), trained.generate(5, seed=3))
    assert np.abs(gan.draw_latents(4000).mean()) < 0.01
    assert gan.draw_latents(4000).std() == pytest.approx(1, abs=0.01)


def test_pictures_come_from_the_average_or_from_the_generator_as_it_is(trained):
    z = gan.draw_latents(4, 8)
    inputs = np.concatenate([z, np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]], axis=1)
    for averaged, network in ((True, trained.averaged), (False, trained.generator)):
        expected = gan.to_uint8(network(inputs, training=False))[..., 0]
        np.testing.assert_array_equal(trained.decode(z, averaged=averaged), expected)
    np.testing.assert_array_equal(gan.to_uint8(trained(inputs))[..., 0], expected)
    assert not np.array_equal(trained.decode(z), expected)


def test_more_pictures_than_a_piece_are_joined(trained):
    z = np.tile(gan.draw_latents(3, 8), (200, 1))
    many = trained.decode(z)
    assert many.shape == (600, 28, 28)
    assert np.abs(many[597:].astype(int) - many[:3]).max() <= 1


def test_classes_are_made_on_request(trained):
    z = gan.draw_latents(6, 8)
    assert np.array_equal(trained.decode(z), trained.decode(z, [0, 1, 2, 0, 1, 2]))
    assert not np.array_equal(trained.decode(z, [0] * 6), trained.decode(z, [1] * 6))
    assert np.array_equal(trained.generate(6, 0, [1] * 6), trained.decode(z, [1] * 6))


# Stopping and going on ---------------------------------------------------------------------------


def test_a_saved_model_goes_on_as_if_it_had_never_stopped(fresh, tmp_path):
    decay = gan_callbacks.LinearDecay()
    model = fresh()
    model.fit(COLOURS, epochs=4, batch_size=8, callbacks=[decay])
    whole, pictures, rows = state(model), model.generate(4), [*model.record.rows]
    model = fresh()
    stop = At(2, raises(KeyboardInterrupt()))
    model.fit(COLOURS, epochs=4, batch_size=8, callbacks=[decay, stop])
    model.save(tmp_path / "gan.npz")
    loaded = gan.load(tmp_path / "gan.npz")
    assert loaded.epochs_done == 2 and np.array_equal(model.generate(4), loaded.generate(4))
    loaded.fit(COLOURS, epochs=4, batch_size=8, callbacks=[decay])
    assert same(whole, state(loaded)) and loaded.record.rows == rows
    assert np.array_equal(loaded.generate(4), pictures)
    assert float(loaded.g_optimizer.learning_rate) < gan.LEARNING_RATE / 2
    loaded.fit(COLOURS, epochs=5, batch_size=8)  # a decay does not go on without its callback
    assert float(loaded.g_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)
    assert float(loaded.d_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)


def test_ctrl_c_keeps_the_last_epoch_and_a_checkpoint_resumes(fresh, tmp_path, capsys):
    file = tmp_path / "run" / "gan.npz"
    model = fresh()
    model.fit(COLOURS, epochs=3, batch_size=8)
    whole = state(model)
    model = fresh()
    stop = At(1, raises(KeyboardInterrupt()))
    model.fit(COLOURS, epochs=3, batch_size=8, checkpoint=file, callbacks=[stop])
    assert model.epochs_done == 1
    assert "Stopped in epoch 2; the model is back at the end of epoch 1" in capsys.readouterr().out
    model.fit(COLOURS, epochs=3, batch_size=8)
    assert same(whole, state(model))
    model = fresh()  # another process would find the file
    model.fit(COLOURS, epochs=3, batch_size=8, checkpoint=file)
    assert same(whole, state(model)) and gan.load(file).epochs_done == 3
    model.fit(COLOURS, epochs=3, batch_size=8)
    assert same(whole, state(model)), "all epochs were done already"
    assert [found.name for found in file.parent.iterdir()] == ["gan.npz"]


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit("mine"), MemoryError("mine")])
def test_an_error_in_a_callback_undoes_the_unfinished_epoch(fresh, error):
    model = fresh()
    model.fit(COLOURS, epochs=1, batch_size=8)
    before, rows = state(model), [*model.record.rows]
    with pytest.raises(type(error), match="mine"):
        model.fit(COLOURS, epochs=2, batch_size=8, callbacks=[At(1, raises(error))])
    assert same(before, state(model)) and model.record.rows == rows


def test_ctrl_c_between_a_row_and_its_weights_takes_the_row_back(fresh, monkeypatch):
    model, remember, calls = fresh(), gan._LastEpoch._remember, []

    def interrupted(last_epoch):
        calls.append(len(model.record.rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        remember(last_epoch)

    monkeypatch.setattr(gan._LastEpoch, "_remember", interrupted)
    model.fit(COLOURS, epochs=2, batch_size=8)
    assert calls == [0, 1] and model.record.rows == []
    assert int(model.g_optimizer.iterations) == 0


def test_a_full_disk_leaves_the_epoch_and_the_old_file(fresh, tmp_path, monkeypatch):
    file = tmp_path / "gan.npz"
    model = fresh()
    model.fit(COLOURS, epochs=1, batch_size=8, checkpoint=file)
    raw = file.read_bytes()

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        model.fit(COLOURS, epochs=2, batch_size=8, checkpoint=file)
    assert model.epochs_done == 2 and model.record.rows[-1]["epoch"] == 2
    assert file.read_bytes() == raw and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("batch", "what"), [(1, "d_fake"), (3, "a weight")])
def test_a_number_that_is_none_is_reported_and_undone(fresh, batch, what):
    """The last batch's weights are seen by no loss."""
    model = fresh()
    model.fit(COLOURS, epochs=1, batch_size=8)
    before = state(model)

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, done, logs=None):
            if done == batch:
                kernel = model.discriminator.layers[-1].kernel
                kernel.assign(np.nan * kernel)

    with pytest.raises(gan.TrainingDiverged) as caught:
        model.fit(COLOURS, epochs=2, batch_size=8, callbacks=[Spoil()])
    assert str(caught.value) == (
        f"{what} is no longer a number in epoch 2: lower the learning rates; the model is back at "
        "the end of epoch 1."
    )
    assert same(before, state(model)) and model.epochs_done == 1


# Files -------------------------------------------------------------------------------------------


def test_keras_names_are_refused_because_keras_could_not_load_them(fresh, tmp_path):
    model = fresh()
    for name in ("each.keras", "each.h5", "each"):
        with pytest.raises(ValueError, match=f"let its name end in .npz, not '{name}'"):
            model.save(tmp_path / name)
    before = state(model)
    with pytest.raises(ValueError, match=r"fit\(…, checkpoint='gan.npz'\) saves every epoch"):
        keeper = keras.callbacks.ModelCheckpoint(tmp_path / "each.keras")
        model.fit(COLOURS, batch_size=8, callbacks=[keeper])
    with pytest.raises(ValueError, match=r"\.npz"):
        model.fit(COLOURS, batch_size=8, checkpoint=tmp_path / "each.keras")
    assert same(before, state(model)) and not list(tmp_path.iterdir())
    model.save(tmp_path / "gan.npz")
    with pytest.raises(FileExistsError, match="take another name"):
        model.save(tmp_path / "gan.npz", overwrite=False)


def content(file) -> tuple[str, list[bytes]]:
    config, arrays = gan_files.read(file)
    return json.dumps(config), [array.tobytes() for array in arrays]


def test_a_wrong_byte_is_refused_or_means_nothing(fresh, tmp_path):
    file = tmp_path / "gan.npz"
    fresh().save(file)
    raw, whole = file.read_bytes(), content(file)
    rng, refused = np.random.default_rng(0), 0
    ends = range(len(raw) - 200, len(raw))  # the archive's list of contents
    for place in (*rng.integers(0, len(raw), 200), *ends):
        wrong = raw[place] ^ (1 << int(rng.integers(8)))
        file.write_bytes(raw[:place] + bytes([wrong]) + raw[place + 1 :])
        try:
            assert content(file) == whole  # a date, say
        except gan.SavedModelError as error:
            assert "gan.npz is damaged or no saved GAN" in str(error)
            refused += 1
    assert refused > 200


def test_contents_that_were_changed_are_refused(fresh, tmp_path):
    """As by a disk or a hand that leaves the archive itself in order."""
    file = tmp_path / "gan.npz"
    fresh().save(file)
    with np.load(file) as stored:
        arrays = dict(stored)

    def written(**changes):
        np.savez(file, **{**arrays, **changes})
        return file

    moved = arrays["000"] + 1e-3
    for changes in (
        {"000": moved},
        {"000": arrays["000"].astype(np.float64)},
        {"config": np.array(str(arrays["config"]).replace("[]", "[{}]"))},
    ):
        with pytest.raises(gan.SavedModelError, match="damaged"):
            gan.load(written(**changes))
    del arrays["sha256"]  # as files were before
    assert np.array_equal(gan_files.read(written(**{"000": moved}))[1][0], moved)
    for bad in (np.nan, np.inf):
        with pytest.raises(gan.SavedModelError, match="damaged"):
            gan.load(written(**{"000": np.full_like(moved, bad)}))


def test_files_of_other_kinds_are_refused(fresh, tmp_path):
    file = tmp_path / "gan.npz"
    fresh().save(file)
    raw = file.read_bytes()
    (tmp_path / "folder.npz").mkdir()
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "half.npz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "zeros.npz").write_bytes(raw[:900] + b"\0" * 99 + raw[999:])
    for name in ("folder.npz", "array.npy", "arrays.npz", "empty.npz", "half.npz", "zeros.npz"):
        with pytest.raises(gan.SavedModelError, match=f"{name} is damaged or no saved GAN"):
            gan.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="There is no saved GAN"):
        gan.load(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        {"generator": "os.system"},
        {"generator": {"module": "os", "class_name": "system", "config": ["true"]}},
        {"generator": {"module": "builtins", "class_name": "eval", "config": "1 + 1"}},
    ],
)
def test_a_foreign_configuration_is_refused_in_a_sentence(tmp_path, config):
    gan_files.write(tmp_path / "gan.npz", config, [np.zeros(3)])
    with pytest.raises(gan.SavedModelError, match="damaged or no saved GAN"):
        gan.load(tmp_path / "gan.npz")


def test_a_checkpoint_of_another_gan_is_refused_and_changes_nothing(fresh, tmp_path):
    file = tmp_path / "gan.npz"
    model = fresh()
    model.fit(COLOURS, epochs=1, batch_size=8, checkpoint=file)
    other = small(seed=7, n_classes=2)
    before = state(other)
    with pytest.raises(gan.SavedModelError, match="has other networks than this one"):
        other.fit(COLOURS, np.zeros(32, int), epochs=9, batch_size=8, checkpoint=file)
    assert same(before, state(other)) and other.epochs_done == 0
    with pytest.raises(gan.SavedModelError, match="has seed=7 and this one seed=0: give it"):
        small().fit(COLOURS, epochs=9, batch_size=8, checkpoint=file)


# Bad input: one sentence each --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (PICTURES.astype("float32") / 255, r"are uint8, 0…255, and these are float32"),
        (np.full((9, 28, 28), np.nan), r"are uint8, 0…255, and these are float64"),
        (PICTURES[:, :27], r"shape \(n, 28, 28\), and these have \(96, 27, 28\)"),
        (PICTURES[:0], r"shape \(n, 28, 28\), and these have \(0, 28, 28\)"),
        (PICTURES // 200, r"brightest pixel of these pictures is 1, but white is 255"),
    ],
)
def test_unfit_pictures_are_refused(trained, pictures, sentence):
    with pytest.raises(ValueError, match=sentence):
        trained.fit(pictures, LABELS, epochs=9)


@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        (np.zeros((2, 9)), r"have the shape \(n, 8\), and these have \(2, 9\)"),
        (np.zeros(8), r"have the shape \(n, 8\), and these have \(8,\)"),
        (np.zeros((0, 8)), r"have the shape \(n, 8\), and these have \(0, 8\)"),
        (np.full((1, 8), np.nan), "NaN or infinity"),
        ("z", "hold numbers alone"),
        ([[1, 2], [3]], "hold numbers alone"),
    ],
)
def test_unfit_latent_vectors_are_refused(trained, z, sentence):
    with pytest.raises(ValueError, match=sentence):
        trained.decode(z)


def test_unfit_labels_are_refused(trained, fresh):
    for labels in ([0, 1], [0.5] * 6, [3] * 6, ["a"] * 6):
        with pytest.raises(ValueError, match="whole numbers from 0 to 2, one for each of the 6"):
            trained.decode(np.zeros((6, 8)), labels)
    with pytest.raises(ValueError, match="needs the classes"):
        trained.fit(PICTURES, epochs=9)
    with pytest.raises(ValueError, match="knows no classes"):
        fresh().fit(COLOURS, LABELS[:32])


WHOLE = "must be a whole number, at least"


@pytest.mark.parametrize(
    ("sentence", "call"),
    [
        (rf"width=0 {WHOLE} 1", lambda m: gan.build_generator(8, 0)),
        (rf"width=4.0 {WHOLE} 1", lambda m: gan.build_discriminator(4.0)),
        (rf"n_classes=-1 {WHOLE} 0", lambda m: gan.build_generator(8, 4, -1)),
        (r"dropout=1 is the share", lambda m: gan.build_discriminator(4, 1)),
        (r"dropout=half is the share", lambda m: gan.build_discriminator(4, "half")),
        (r"label_smoothing=-0.1 must lie in \[0, 0.5\)", lambda m: small(label_smoothing=-0.1)),
        (r"label_smoothing=None must lie", lambda m: small(label_smoothing=None)),
        (rf"d_steps=1.5 {WHOLE} 1", lambda m: small(d_steps=1.5)),
        (rf"seed='1' {WHOLE} 0", lambda m: small(seed="1")),
        (r"leaves none for z beside 3 classes", lambda m: gan.GAN(*networks(), n_classes=3)),
        (r"one logit a picture, and one more", lambda m: gan.GAN(*networks(), n_classes=2)),
        (
            r"makes pictures of shape .* the discriminator takes",
            lambda m: gan.GAN(gan.build_generator(4, 2), networks()[1]),
        ),
        (r"d_lr=-1 .* must be above 0", lambda m: m.compile(d_lr=-1)),
        (r"g_lr=0.0 must be above 0", lambda m: m.compile(g_lr=0.0)),
        (r"d_lr=nan .* must be above 0", lambda m: m.compile(d_lr=math.nan)),
        (r"g_lr=fast must be above 0", lambda m: m.compile(g_lr="fast")),
        (r"beta_1=1.5 in \[0, 1\)", lambda m: m.compile(beta_1=1.5)),
        (rf"steps_per_execution=0 {WHOLE} 1", lambda m: m.compile(steps_per_execution=0)),
        (rf"batch_size=1.5 {WHOLE} 1", lambda m: m.fit(COLOURS, batch_size=1.5)),
        (rf"batch_size=0 {WHOLE} 1", lambda m: m.fit(COLOURS, batch_size=0)),
        (rf"epochs='2' {WHOLE} 0", lambda m: m.fit(COLOURS, epochs="2")),
        (r"batch_size × d_steps = 33", lambda m: m.fit(COLOURS, batch_size=33)),
        (
            r"write callbacks=\[…\]",
            lambda m: m.fit(COLOURS, batch_size=8, callbacks=gan_callbacks.Frames()),
        ),
        (rf"n=2.5 {WHOLE} 1", lambda m: m.generate(2.5)),
        (rf"n=True {WHOLE} 1", lambda m: m.generate(True)),
        (rf"seed=-1 {WHOLE} 0", lambda m: m.generate(2, seed=-1)),
    ],
)
def test_other_unfit_values_are_refused(fresh, sentence, call):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(fresh())
    assert "\n" not in str(caught.value)


def test_without_optimisers_there_is_no_training_and_no_file():
    model = gan.GAN(*networks())
    with pytest.raises(RuntimeError, match=r"call compile\(\) before fit"):
        model.fit(COLOURS)
    with pytest.raises(RuntimeError, match=r"call compile\(\) before save"):
        model.save("nowhere.npz")


@pytest.mark.slow
def test_another_backend_is_refused_in_one_sentence():
    command = [sys.executable, "-c", "import aigc_utils.gan"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Keras runs on 'torch' here" in run.stderr.strip().splitlines()[-1]
