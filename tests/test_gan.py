"""The course's GAN: it trains, records, averages, resumes exactly, and fails in one sentence."""

import contextlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from aigc_utils import gan, gan_callbacks, session

with session.quiet_stderr():
    import keras

PICTURES = np.random.default_rng(0).integers(0, 256, (96, 28, 28), dtype=np.uint8)
LABELS = np.arange(96) % 3


def tiny(n_classes: int = 0, eager: bool = True, **options) -> gan.GAN:
    """Return a very small GAN; a few eager steps are faster than building their graph."""
    keras.utils.set_random_seed(5)
    model = gan.GAN(
        gan.build_generator(8, 4, n_classes),
        gan.build_discriminator(4, n_classes=n_classes),
        n_classes=n_classes,
        **options,
    )
    model.compile(steps_per_execution=2, run_eagerly=eager)
    return model


def state(model: gan.GAN) -> list[np.ndarray]:
    return [variable.numpy() for variable in model._state()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class InterruptAt(keras.callbacks.Callback):
    """Does what Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_train_batch_end(self, batch, logs=None):
        if self.model.epochs_done == self.epoch:
            raise self.error


@pytest.fixture(scope="module")
def trained() -> gan.GAN:
    model = tiny()
    model.fit(PICTURES, epochs=1, batch_size=32)
    return model


def test_fit_gives_keras_history_record_frames_and_scores():
    model, frames = tiny(eager=False), gan_callbacks.Frames(n=3)
    shown = []
    frames.show = lambda pictures, epoch: shown.append(epoch)
    score = gan_callbacks.Score(PICTURES, n=70)
    result = model.fit(PICTURES, epochs=2, batch_size=48, callbacks=[frames, score])
    names = {"d_loss", "g_loss", "d_real", "d_fake", "frechet", "coverage"}
    assert set(result.history) == names
    assert [row["epoch"] for row in model.record.rows] == [1, 2]
    assert names < set(model.record.rows[0])
    for name in ("d_real", "d_fake", "coverage"):
        assert all(0 <= row[name] <= 1 for row in model.record.rows)
    assert frames.epochs == shown == [0, 1, 2] and frames.frames[0].shape == (3, 28, 28)
    assert not np.array_equal(frames.frames[0], frames.frames[2])


def test_both_networks_learn_and_untrained_losses_are_those_of_theory():
    model = tiny()
    before = [network.get_weights() for network in (model.generator, model.discriminator)]
    model.fit(PICTURES[:8], epochs=1, batch_size=8)
    after = [network.get_weights() for network in (model.generator, model.discriminator)]
    for old, new in zip(before, after, strict=True):
        assert all(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    assert float(gan._cross_entropy(np.zeros(3, "float32"), 1.0)) == pytest.approx(math.log(2))
    # With the target 0.9 the best logit is log 9, and nothing runs away.
    losses = [float(gan._cross_entropy(np.float32([a]), 0.9)) for a in (1.5, math.log(9), 9.0)]
    assert min(losses) == losses[1]


def test_a_generator_step_leaves_the_discriminator_alone_and_the_other_way_round():
    model = tiny()
    model.settings["d_lr"] = 0.0
    d, g = model.discriminator.get_weights(), model.generator.get_weights()
    model.fit(PICTURES, epochs=1, batch_size=48)
    assert same(d, model.discriminator.get_weights())
    assert not same(g, model.generator.get_weights())


def test_more_discriminator_steps_take_pictures_of_their_own():
    model = tiny(d_steps=3)
    model.fit(PICTURES, epochs=1, batch_size=16)
    assert int(model.g_optimizer.iterations) == 2  # 96 pictures / (3 × 16)
    assert int(model.d_optimizer.iterations) == 6
    with pytest.raises(ValueError, match="batch_size × d_steps = 120"):
        model.fit(PICTURES, epochs=2, batch_size=40)


def test_the_average_is_the_average_of_the_formula():
    model = tiny()
    model.compile(steps_per_execution=1, run_eagerly=True)
    mean = [w.copy() for w in model.averaged.get_weights()]
    for t in (1, 2, 3):
        model.fit(PICTURES[:8], epochs=t, batch_size=8)
        decay = min(0.999, (1 + t) / (10 + t))
        new = model.generator.get_weights()
        mean = [decay * m + (1 - decay) * w for m, w in zip(mean, new, strict=True)]
    for ours, theirs in zip(mean, model.averaged.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_curves_are_finer_than_an_epoch_and_agree_with_it():
    model, curves = tiny(), gan_callbacks.Curves()
    model.fit(PICTURES, epochs=2, batch_size=16, callbacks=[curves])
    rows, epochs = curves.history.rows, model.record.rows
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        means = curves.history.column(name).reshape(2, 3).mean(axis=1)
        np.testing.assert_allclose(means, [row[name] for row in epochs], rtol=1e-5)
    assert rows[0]["d_loss"] != rows[1]["d_loss"]


def test_an_interrupted_epoch_leaves_nothing_twice_and_curves_are_shown():
    seen = []
    model, frames = tiny(), gan_callbacks.Frames(n=2)
    curves = gan_callbacks.Curves(show=lambda rows: seen.append(len(rows.rows)))

    class StopsAfterTheFrame(InterruptAt):
        on_train_batch_end = keras.callbacks.Callback.on_train_batch_end

        def on_epoch_end(self, epoch, logs=None):
            if epoch == self.epoch:
                raise self.error

    for stop in ([InterruptAt(1)], [StopsAfterTheFrame(1)], []):
        model.fit(PICTURES, epochs=3, batch_size=16, callbacks=[curves, frames, *stop])
    assert [row["step"] for row in curves.history.rows] == list(range(2, 20, 2))
    assert frames.epochs == [0, 1, 2, 3] and len(frames.frames) == 4
    assert seen == [3, 6, 6, 9]


def test_a_decay_does_not_go_on_without_its_callback(tmp_path):
    model = tiny()
    model.fit(PICTURES, epochs=2, batch_size=16, callbacks=[gan_callbacks.LinearDecay()])
    assert float(model.g_optimizer.learning_rate) < gan.LEARNING_RATE / 2
    model.save(tmp_path / "gan.npz")
    for again in (model, gan.load(tmp_path / "gan.npz")):
        again.fit(PICTURES, epochs=3, batch_size=16)
        assert float(again.g_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)
        assert float(again.d_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)


def test_keras_saves_it_after_each_epoch(tmp_path):
    file = tmp_path / "each.keras"
    model = tiny()
    model.fit(PICTURES, batch_size=48, callbacks=[keras.callbacks.ModelCheckpoint(file)])
    # Keras's callback runs before the epoch is entered into the record.
    assert same(gan.load(file).averaged.get_weights(), model.averaged.get_weights())
    with pytest.raises(FileExistsError, match="take another name"):
        model.save(file, overwrite=False)


def test_the_learning_rates_fall_over_the_second_half():
    model, rates = tiny(), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(model.g_optimizer.learning_rate))

    model.fit(
        PICTURES, epochs=4, batch_size=24, callbacks=[gan_callbacks.LinearDecay(0.5), Watch()]
    )
    assert rates[:4] == pytest.approx([2e-3] * 4)
    assert np.all(np.diff(rates[4:]) < 0) and rates[-1] == pytest.approx(5e-4)


def test_the_same_seed_gives_the_same_pictures(trained):
    assert np.array_equal(trained.generate(5, seed=3), trained.generate(5, seed=3))
    assert not np.array_equal(trained.generate(5, seed=3), trained.generate(5, seed=4))
    assert np.array_equal(trained.generate(5, seed=3)[:2], trained.generate(2, seed=3))
    z = gan.draw_latents(5, 8, seed=3)
    assert np.array_equal(trained.decode(z), trained.generate(5, seed=3))
    assert not np.array_equal(trained.generate(5), trained.generate(5, averaged=False))


def test_few_pictures_first_and_more_later_are_all_seen():
    model = tiny(eager=False)
    model.fit(PICTURES[:8], epochs=1, batch_size=8)  # one step, though two are wished for a call
    model.fit(PICTURES[:32], epochs=2, batch_size=8)
    assert int(model.g_optimizer.iterations) == 1 + 4


def test_uint8_survives_the_way_into_the_networks_and_back():
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(gan.to_uint8(gan.to_signed(every)), every)


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [0, 3])
def test_a_saved_model_goes_on_as_if_it_had_never_stopped(n_classes, tmp_path):
    labels = LABELS if n_classes else None
    whole, first = tiny(n_classes, eager=False), tiny(n_classes, eager=False)
    decay = gan_callbacks.LinearDecay()
    whole.fit(PICTURES, labels, epochs=4, batch_size=8, callbacks=[decay])
    first.fit(PICTURES, labels, epochs=4, batch_size=8, callbacks=[decay, InterruptAt(2)])
    first.save(tmp_path / "gan.npz")
    second = gan.load(tmp_path / "gan.npz")
    assert second.epochs_done == 2
    assert np.array_equal(first.generate(4), second.generate(4))
    second.fit(PICTURES, labels, epochs=4, batch_size=8, callbacks=[decay])
    assert same(state(whole), state(second))
    assert whole.record.rows == second.record.rows


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_epoch_and_a_checkpoint_resumes(tmp_path, capsys):
    file = tmp_path / "run" / "gan.npz"
    whole, first, second = tiny(), tiny(), tiny()
    whole.fit(PICTURES, epochs=3, batch_size=48)
    first.fit(PICTURES, epochs=3, batch_size=48, checkpoint=file, callbacks=[InterruptAt(1)])
    assert first.epochs_done == 1
    assert "Stopped in epoch 2; the model is back at the end of epoch 1" in capsys.readouterr().out
    second.fit(PICTURES, epochs=3, batch_size=48, checkpoint=file)  # another process would do so
    first.fit(PICTURES, epochs=3, batch_size=48)  # this one too
    assert same(state(whole), state(first)) and same(state(whole), state(second))
    done = state(first)
    first.fit(PICTURES, epochs=3, batch_size=48)
    assert same(done, state(first)), "all epochs were done already"
    assert not list(tmp_path.glob("**/*.tmp"))


def test_a_loss_that_is_no_number_is_reported_and_undone():
    model = tiny()
    model.fit(PICTURES, epochs=1, batch_size=48)
    before = state(model)
    model.compile(d_lr=math.inf, steps_per_execution=2, run_eagerly=True)
    with pytest.raises(gan.TrainingDiverged, match="no longer a number in epoch 2: lower the"):
        model.fit(PICTURES, epochs=2, batch_size=48)
    n = len(model.variables)
    assert same(before[:n], state(model)[:n]) and model.epochs_done == 1


def test_classes_are_made_on_request():
    model = tiny(3)
    model.fit(PICTURES, LABELS, epochs=1, batch_size=48)
    z = gan.draw_latents(6, 8)
    assert np.array_equal(model.decode(z), model.decode(z, [0, 1, 2, 0, 1, 2]))
    assert not np.array_equal(model.decode(z, [0] * 6), model.decode(z, [1] * 6))
    with pytest.raises(ValueError, match="needs the classes"):
        model.fit(PICTURES, epochs=2)
    for labels in ([0, 1], [0.5] * 6, [3] * 6):
        with pytest.raises(ValueError, match="whole numbers from 0 to 2, one for each of the 6"):
            model.decode(z, labels)
    with pytest.raises(ValueError, match="knows no classes"):
        tiny().fit(PICTURES, LABELS)


def test_networks_of_other_sizes_play_the_same_game():
    pictures = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    generator = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(192), keras.layers.Reshape((8, 8, 3))]
    )
    discriminator = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model = gan.GAN(generator, discriminator)
    model.compile()
    model.fit(pictures, epochs=1, batch_size=8)
    assert model.generate(2).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"makes pictures of shape .* the discriminator takes"):
        gan.GAN(gan.build_generator(4, 4), discriminator)


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
        trained.fit(pictures, epochs=9)


@pytest.mark.parametrize("z", [np.zeros((2, 9)), np.zeros(8), np.zeros((0, 8))])
def test_unfit_latent_vectors_are_refused(trained, z):
    with pytest.raises(ValueError, match=r"have the shape \(n, 8\), and these have"):
        trained.decode(z)


def test_other_unfit_values_are_refused(trained):
    with pytest.raises(ValueError, match="NaN or infinity"):
        trained.decode(np.full((1, 8), np.nan))
    with pytest.raises(ValueError, match=r"label_smoothing=-0.1 must lie in \[0, 0.5\)"):
        tiny(label_smoothing=-0.1)
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        gan.build_generator(8, 0)
    with pytest.raises(ValueError, match="dropout=1"):
        gan.build_discriminator(4, 1)
    with pytest.raises(ValueError, match="64 pictures are too few for a score with 64 features"):
        gan_callbacks.Score(PICTURES, n=64)
    with pytest.raises(ValueError, match="one logit a picture, and one more for each class"):
        gan.GAN(gan.build_generator(8, 4), gan.build_discriminator(4), n_classes=3)
    fresh = gan.GAN(gan.build_generator(8, 4), gan.build_discriminator(4))
    with pytest.raises(RuntimeError, match="call compile"):
        fresh.fit(PICTURES)
    with pytest.raises(RuntimeError, match=r"call compile\(\) before save"):
        fresh.save("nowhere.npz")
    for wrong in ({"d_lr": -1.0}, {"g_lr": 0.0}, {"beta_1": 1.5}):
        with pytest.raises(ValueError, match="must be above 0, and beta_1"):
            fresh.compile(**wrong)
    with pytest.raises(ValueError, match="steps_per_execution=0"):
        fresh.compile(steps_per_execution=0)
    with pytest.raises(ValueError, match="every=0"):
        gan_callbacks.Score(PICTURES, every=0)


def test_a_damaged_file_is_refused_and_changes_nothing(trained, tmp_path):
    file = tmp_path / "gan.npz"
    trained.save(file)
    raw = bytearray(file.read_bytes())
    for damage in (b"", raw[: len(raw) // 2], raw[:2000] + b"\0" * 99 + raw[2099:]):
        file.write_bytes(damage)
        with pytest.raises(gan.SavedModelError, match=r"gan\.npz is damaged or no saved GAN"):
            gan.load(file)
    for place in range(len(raw) - 60, len(raw)):  # the archive's list of contents
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
        with contextlib.suppress(gan.SavedModelError):  # a byte without a meaning does no harm
            gan.load(file)
    with (tmp_path / "array.npz").open("wb") as other_kind:
        np.save(other_kind, np.zeros(3))
    with pytest.raises(gan.SavedModelError, match="no saved GAN"):
        gan.load(tmp_path / "array.npz")
    np.savez(file, a=np.zeros(3))
    with pytest.raises(gan.SavedModelError, match="no saved GAN"):
        gan.load(file)
    with pytest.raises(FileNotFoundError, match="There is no saved GAN"):
        gan.load(tmp_path / "nothing.npz")
    trained.save(file)
    with pytest.raises(gan.SavedModelError, match="has other networks than this one"):
        other = gan.GAN(gan.build_generator(8, 5), gan.build_discriminator(5))
        other.compile()
        other.fit(PICTURES, epochs=9, checkpoint=file)


@pytest.mark.slow
def test_another_backend_is_refused_in_one_sentence():
    command = [sys.executable, "-c", "import aigc_utils.gan"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Keras runs on 'torch' here" in run.stderr.strip().splitlines()[-1]
