"""What Keras calls while the GAN trains: each sees every epoch once, interrupted or not."""

import numpy as np
import pytest

from aigc_utils import features, gan, gan_callbacks, scores, session

with session.quiet_stderr():
    import keras
    from keras import layers

PICTURES = np.random.default_rng(0).integers(0, 256, (24, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def built():
    keras.utils.set_random_seed(5)
    generator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(784, activation="tanh"), layers.Reshape((28, 28, 1))]
    )
    discriminator = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(1)])
    model = gan.GAN(generator, discriminator)
    model.compile(d_lr=1e-3, g_lr=2e-3, steps_per_execution=2)
    model.start = model.generator.get_weights(), model.discriminator.get_weights()
    return model


@pytest.fixture
def model(built):
    built.generator.set_weights(built.start[0])
    built.averaged.set_weights(built.start[0])
    built.discriminator.set_weights(built.start[1])
    built.record.rows.clear()
    return built


def test_frames_are_of_one_z_before_and_after_every_epoch(model):
    shown = []
    frames = gan_callbacks.Frames(
        n=3, seed=2, show=lambda pictures, epoch: shown.append((pictures.tobytes(), epoch))
    )
    present = gan_callbacks.Frames(n=3, seed=2, averaged=False)
    before = model.generate(3, seed=2)
    model.fit(PICTURES, epochs=2, batch_size=4, callbacks=[frames, present])
    assert frames.epochs == [0, 1, 2]
    assert shown == [(f.tobytes(), i) for i, f in enumerate(frames.frames)]
    assert np.array_equal(frames.frames[0], before)
    assert np.array_equal(frames.frames[2], model.generate(3, seed=2))
    assert np.array_equal(present.frames[2], model.generate(3, seed=2, averaged=False))
    assert not np.array_equal(frames.frames[1], frames.frames[2])


def test_curves_are_finer_than_an_epoch_and_agree_with_it(model):
    curves = gan_callbacks.Curves()
    model.fit(PICTURES, epochs=2, batch_size=4, callbacks=[curves])
    rows, epochs = curves.history.rows, model.record.rows
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        means = curves.history.column(name).reshape(2, 3).mean(axis=1)
        np.testing.assert_allclose(means, [row[name] for row in epochs], rtol=1e-5)
    assert rows[0]["d_loss"] != rows[1]["d_loss"]


def test_an_interrupted_epoch_leaves_nothing_twice_and_curves_are_shown(model):
    seen = []
    frames = gan_callbacks.Frames(n=2)
    curves = gan_callbacks.Curves(show=lambda rows: seen.append(len(rows.rows)))

    class Stop(keras.callbacks.Callback):
        def __init__(self, after: str) -> None:
            super().__init__()
            self.after = after

        def on_train_batch_end(self, batch, logs=None):
            if self.after == "batch" and self.model.epochs_done == 1:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs=None):
            if self.after == "frame" and epoch == 1:
                raise KeyboardInterrupt

    for after in ("batch", "frame", "nothing"):
        model.fit(PICTURES, epochs=3, batch_size=4, callbacks=[curves, frames, Stop(after)])
    assert [row["step"] for row in curves.history.rows] == list(range(2, 20, 2))
    assert frames.epochs == [0, 1, 2, 3] and len(frames.frames) == 4
    assert seen == [3, 6, 6, 9]


def test_both_learning_rates_fall_over_the_second_half(model):
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            adams = model.d_optimizer, model.g_optimizer
            rates.append([float(adam.learning_rate) for adam in adams])

    decay = gan_callbacks.LinearDecay(0.5)
    model.fit(PICTURES, epochs=2, batch_size=4, callbacks=[decay, Watch()])
    factors = [1, 1, 1, 1, 2 / 3, 1 / 3]
    np.testing.assert_allclose(rates, [[1e-3 * f, 2e-3 * f] for f in factors], rtol=1e-6)


def test_a_score_is_that_of_the_same_pictures_scored_by_hand(model):
    real = np.random.default_rng(1).integers(0, 256, (90, 28, 28), dtype=np.uint8)
    real[:30] = model.generate(30, seed=9)  # so that some are covered, and some are not
    net = features.load_feature_net("judge")
    score = gan_callbacks.Score(real, n=70, seed=4, every=2, net=net)
    logs = [{}, {}]
    score.set_model(model)
    for epoch in (0, 1):
        score.on_epoch_end(epoch, logs[epoch])
    made, theirs = net(model.generate(70, seed=4)), net(real)
    coverage = scores.precision_recall_coverage(theirs[:70], made).coverage
    assert 0.1 < coverage < 0.9
    assert logs == [{}, {
        "frechet": pytest.approx(scores.frechet_distance(theirs, made)),
        "coverage": coverage,
    }]  # fmt: skip
    other = gan_callbacks.Score(real, n=70, seed=4)  # the course's own net
    other.set_model(model)
    other.on_epoch_end(0, course := {})
    assert course["frechet"] != pytest.approx(logs[1]["frechet"], rel=1e-3)


def test_unfit_values_are_refused():
    for sentence, call in (
        (r"start=1 is a share of the training", lambda: gan_callbacks.LinearDecay(1)),
        (r"start=late is a share of the training", lambda: gan_callbacks.LinearDecay("late")),
        (r"n=0 must be a whole number", lambda: gan_callbacks.Frames(n=0)),
        (r"seed=-1 must be a whole number", lambda: gan_callbacks.Frames(seed=-1)),
        (r"every=0 must be a whole number", lambda: gan_callbacks.Score(PICTURES, every=0)),
        (r"24 pictures are too few for a score with 64", lambda: gan_callbacks.Score(PICTURES)),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
