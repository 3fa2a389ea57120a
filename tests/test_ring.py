"""`aigc_utils.ring`: densities against sums, alarms against known clouds, games against rules."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

from aigc_utils import ring


@pytest.fixture(scope="module")
def run():
    return ring.train(rounds=20, n_frames=2)


def real(n, seed=0):
    rng = np.random.default_rng(seed)
    return ring.CENTRES[rng.integers(0, ring.MODES, n)] + ring.SPREAD * rng.normal(size=(n, 2))


def test_real_points_lie_around_all_centres():
    points = ring.draw_real(4000).numpy()
    nearest = np.linalg.norm(points[:, None] - ring.CENTRES, axis=-1)
    assert np.bincount(nearest.argmin(1), minlength=8).min() > 400
    assert nearest.min(1).mean() == pytest.approx(ring.SPREAD * np.sqrt(np.pi / 2), rel=0.05)


def test_a_game_starts_with_its_seed_and_moves_both_players(run):
    fresh = ring.Game().start()
    for player, trained in ((fresh.G, run.game.G), (fresh.D, run.game.D)):
        assert any(
            np.abs(a - b).max() > 1e-3
            for a, b in zip(player.get_weights(), trained.get_weights(), strict=True)
        )
    again = ring.Game().start()
    assert np.array_equal(again.G.get_weights()[0], fresh.G.get_weights()[0])


def test_each_step_moves_one_player_alone():
    game = ring.Game().start()
    for step, still, moving in ((game.d_step, game.G, game.D), (game.g_step, game.D, game.G)):
        before = [network.get_weights() for network in (still, moving)]
        step()
        assert all(map(np.array_equal, before[0], still.get_weights()))
        assert not all(map(np.array_equal, before[1], moving.get_weights()))


def test_steps_of_each_player_are_those_of_the_rules():
    run = ring.train(rounds=4, n_frames=2, d_steps=3, g_steps=2, d_width=4)
    assert int(run.game.d_adam.iterations) == 12 and int(run.game.g_adam.iterations) == 8


def test_r1_flattens_d_at_real_points():
    slopes = []
    for gamma in (0.0, 10.0):
        game = ring.train(rounds=40, n_frames=1, gamma=gamma, d_rate=1e-2, d_width=16).game
        slopes.append(float(tf.reduce_mean(ring.squared_slope(game.D, ring.draw_real(500)))))
    assert slopes[1] < slopes[0] / 3


def test_frames_show_the_same_z_and_the_pull_lowers_gs_loss(run):
    assert [frame.round for frame in run.frames] == [0, 10, 20]
    frame = run.frames[-1]
    assert frame.cloud.shape == frame.pull.shape == (1000, 2) and len(frame.logits) == len(
        ring.GRID
    )

    def g_loss(points):
        return float(tf.reduce_mean(tf.math.softplus(-run.game.D(points.astype("float32")))))

    h = 1e-2
    rise = (g_loss(frame.cloud + h * frame.pull) - g_loss(frame.cloud - h * frame.pull)) / (2 * h)
    assert rise == pytest.approx(-(frame.pull**2).sum(1).mean(), rel=0.05)


def test_best_logits_are_the_ratio_of_two_blurred_densities():
    logits, density = ring.best_logits(real(2000))  # G makes what is real: nothing to tell apart
    assert np.average(np.abs(logits), weights=density) < 0.3
    cell = (6 / 60) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=0.01)
    logits, _ = ring.best_logits(np.zeros((10, 2)), np.array([[0.0, 0.0], [2.0, 0.0]]))
    assert logits[0] < -10 and logits[1] > 10


def test_second_opinion_tells_a_good_generator_from_a_bad_one():
    class Perfect:
        def __call__(self, z):
            return ring.draw_real(len(z))

    class Dot(Perfect):
        def __call__(self, z):
            return tf.zeros((len(z), 2))

    losses = []
    for generator in (Perfect(), Dot()):
        game = ring.Game().start()
        game.G = generator
        losses.append(ring.second_opinion(game, steps=100))
    assert losses[0] == pytest.approx(np.log(4), abs=0.05) and losses[1] < 0.3


@pytest.mark.parametrize(
    ("change", "alarms"),
    [
        (lambda cloud: cloud, []),
        (lambda cloud: cloud[cloud[:, 0] > 1.8], ["histogram", "coverage"]),
        (
            lambda cloud: np.where(np.arange(len(cloud))[:, None] % 4, cloud, cloud[0]),
            ["duplicates"],
        ),
        (lambda cloud: 1.18 * cloud, ["coverage"]),
    ],
)
def test_alarms_ring_for_what_they_are_for(change, alarms):
    found = ring.report(change(real(2000, seed=1)), real(1000))
    assert found["alarms"] == alarms


def test_pictures_are_drawn(run):
    figure, axes = plt.subplots(1, 4)
    ring.draw_game(axes[0], axes[1], run.frames[-1])
    ring.draw_share(axes[2], np.full(8, 1 / 8))
    ring.draw_cloud(axes[3], run.frames[-1].cloud, "cloud")
    assert len(axes[0].images) == len(axes[1].images) == 1
    assert "cloud" in (axes[3].get_title(loc=side) for side in ("left", "center"))
    plt.close(figure)
