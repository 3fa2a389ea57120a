"""A ring of eight Gaussians, and the two small networks that play for it (lesson 08).

    run = ring.train()                 # 2,000 rounds of a healthy game
    ring.report(run.frames[-1].cloud)  # modes, coverage, duplicates, alarms

In the plane everything can be seen: samples, the discriminator as a map, the pull that it has on
every sample, and the best discriminator beside it. Samples and clouds have the shape (n, 2).
Importing this module calls `session.prepare`: two threads, quiet logs, unless chosen otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from aigc_utils import plots, scores, session

session.prepare()
with session.quiet_stderr():
    import keras
    import tensorflow as tf

MODES, RADIUS, SPREAD = 8, 2.0, 0.1
LATENT_DIM, BATCH = 8, 128
BLUR = 0.15
"""Standard deviation of the noise that `best_logits` adds to both sides, to get densities."""

_ANGLES = 2 * np.pi * np.arange(MODES) / MODES
CENTRES = (RADIUS * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)).astype("float32")

_AXIS = np.linspace(-3, 3, 61, dtype="float32")
GRID = np.stack(np.meshgrid(_AXIS, _AXIS), axis=-1).reshape(-1, 2)
"""The 61 × 61 points of the plane at which maps are drawn, row by row, shape (3721, 2)."""

Points = npt.NDArray[np.floating[Any]]


def draw_real(n: int) -> tf.Tensor:
    """Return n points of the ring, float32 (n, 2): a mode at random, and noise around it."""
    mode = tf.random.uniform((n,), maxval=MODES, dtype=tf.int32)
    return tf.gather(CENTRES, mode) + SPREAD * tf.random.normal((n, 2))


def network(n_inputs: int, width: int, n_outputs: int, activation: str) -> keras.Sequential:
    """Return an untrained network with two hidden layers; its outputs have no activation."""
    hidden = [keras.layers.Dense(width, activation=activation) for _ in range(2)]
    return keras.Sequential([keras.Input((n_inputs,)), *hidden, keras.layers.Dense(n_outputs)])


def non_saturating(real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return D's loss and G's loss in nats, given D's logits of real and generated samples."""
    d_loss = tf.reduce_mean(tf.math.softplus(-real)) + tf.reduce_mean(tf.math.softplus(fake))
    return d_loss, tf.reduce_mean(tf.math.softplus(-fake))


def squared_slope(D: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Return ‖∇ₓ D(x)‖² of each sample, shape (n,)."""
    return tf.reduce_sum(_slope(D, x) ** 2, axis=1)


def _slope(D: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(D(x))  # samples do not mix inside D: each keeps its own slope
    return tape.gradient(total, x)


@dataclass
class Game:
    """The rules of one game; `start` makes the players, seeded.

    ``gamma`` weighs R1, the slope of D's logit at real points (Mescheder et al., *Which Training
    Methods for GANs do actually Converge?*, 2018). ``noise`` is the size of z.
    """

    d_steps: int = 1
    g_steps: int = 1
    d_rate: float = 2e-3
    g_rate: float = 2e-3
    d_width: int = 64
    gamma: float = 0.0
    noise: float = 1.0
    seed: int = 8

    def start(self) -> Game:
        """Make both networks and an Adam for each; return the game."""
        keras.utils.set_random_seed(self.seed)
        self.G = network(LATENT_DIM, 64, 2, "relu")
        self.D = network(2, self.d_width, 1, "leaky_relu")
        self.g_adam = keras.optimizers.Adam(self.g_rate, beta_1=0.5)
        self.d_adam = keras.optimizers.Adam(self.d_rate, beta_1=0.5)
        self.g_adam.build(self.G.trainable_variables)
        self.d_adam.build(self.D.trainable_variables)
        return self

    def draw_noise(self, n: int) -> tf.Tensor:
        """Return n latent vectors z, float32 (n, LATENT_DIM)."""
        return self.noise * tf.random.normal((n, LATENT_DIM))

    def d_step(self) -> tf.Tensor:
        """Let the discriminator learn from one batch; return its loss without the penalty."""
        real, fake = draw_real(BATCH), self.G(self.draw_noise(BATCH))
        with tf.GradientTape() as tape:
            loss, _ = non_saturating(self.D(real), self.D(fake))
            cost = loss
            if self.gamma:
                cost += self.gamma / 2 * tf.reduce_mean(squared_slope(self.D, real))
        weights = self.D.trainable_variables
        self.d_adam.apply(tape.gradient(cost, weights), weights)
        return loss

    def g_step(self) -> tf.Tensor:
        """Let the generator learn from one batch; return its loss."""
        z = self.draw_noise(BATCH)
        with tf.GradientTape() as tape:
            fake = self.D(self.G(z))
            _, loss = non_saturating(fake, fake)
        weights = self.G.trainable_variables
        self.g_adam.apply(tape.gradient(loss, weights), weights)
        return loss


class Frame(NamedTuple):
    """One moment of a game: what both players do at the same z and the same places."""

    round: int
    cloud: Points  # G's samples of 1,000 fixed z, (1000, 2)
    logits: Points  # D's logit at each point of GRID, (3721,)
    pull: Points  # the direction in which G's loss falls, for each sample, (1000, 2)


class Run(NamedTuple):
    """A game that was played: the players, 11 moments, and (D's loss, G's loss) after each part."""

    game: Game
    frames: list[Frame]
    losses: Points


def train(
    rounds: int = 2000,
    n_frames: int = 10,
    show: Callable[[Frame], None] | None = None,
    **rules: Any,
) -> Run:
    """Play a game with the rules of `Game` and return it; ``show`` sees each frame at once."""
    game = Game(**rules).start()

    @tf.function
    def play(n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        d_loss = g_loss = 0.0
        for _ in tf.range(n):
            for _ in tf.range(game.d_steps):
                d_loss = game.d_step()
            for _ in tf.range(game.g_steps):
                g_loss = game.g_step()
        return d_loss, g_loss

    z = game.draw_noise(1000)
    frames, losses = [look(game, z, 0)], []
    for part in range(1, n_frames + 1):
        losses.append(play(tf.constant(rounds // n_frames)))
        frames.append(look(game, z, part * (rounds // n_frames)))
        if show is not None:
            show(frames[-1])
    return Run(game, frames, np.array(losses, dtype=float))


def look(game: Game, z: tf.Tensor, done: int = 0) -> Frame:
    """Return the frame of a game after ``done`` rounds, at the latent vectors z (1000, 8)."""
    cloud = game.G(z)
    # −log D falls by 1 − D for each unit of the logit, and the logit grows along its slope.
    pull = (1 - tf.sigmoid(game.D(cloud))) * _slope(game.D, cloud)
    return Frame(done, cloud.numpy(), game.D(GRID).numpy()[:, 0], pull.numpy())


def best_logits(cloud: Points, points: Points = GRID) -> tuple[Points, Points]:
    """Return log p_data/p_model and the density (p_data + p_model)/2 at each point, (n,) both.

    ``cloud`` are generated samples. A finite sample has no density, so both sides are seen through
    the same Gaussian blur, BLUR wide: the ring's density is then known in closed form, and the
    generator's is the mean of one Gaussian for each sample.
    """
    p_data = _mixture(points, CENTRES, np.hypot(SPREAD, BLUR))
    p_model = _mixture(points, cloud, BLUR)
    return np.log(p_data) - np.log(p_model), (p_data + p_model) / 2


def _mixture(points: Points, centres: Points, spread: float) -> Points:
    squared = ((points[:, None].astype(float) - centres) ** 2).sum(axis=-1)
    bells = np.exp(-squared / (2 * spread**2)).mean(axis=1)
    return bells / (2 * np.pi * spread**2) + 1e-300  # 0 has no logarithm


def second_opinion(game: Game, steps: int = 2000, seed: int = 0) -> float:
    """Return the loss in nats of a fresh D of 64 units, trained against the frozen generator.

    A D that has caught up has the loss log 4 − 2·JSD; one that has not has more. So this is an
    upper bound that says how far G is, whatever the D of the game believes. The loss is that of
    20,000 samples of either kind.
    """
    judge = Game(seed=seed).start()
    judge.G, judge.noise = game.G, game.noise

    @tf.function
    def play(n: tf.Tensor) -> None:
        for _ in tf.range(n):
            judge.d_step()

    for _ in range(10):
        play(tf.constant(steps // 10))
    real, fake = draw_real(20_000), game.G(game.draw_noise(20_000))
    return float(non_saturating(judge.D(real), judge.D(fake))[0])


# Alarms ------------------------------------------------------------------------------------------

REACH = 4 * SPREAD
"""A sample within this distance of a centre counts as one of that mode."""

NEAR = SPREAD / 4
"""Two samples within this distance are duplicates, to the eye one dot."""


def duplicate_rate(cloud: Points) -> float:
    """Return the share of pairs of samples that are nearer than NEAR."""
    distances = np.linalg.norm(cloud[:, None] - cloud, axis=-1)
    return float((distances[np.triu_indices(len(cloud), k=1)] < NEAR).mean())


def report(cloud: Points, reference: Points) -> dict[str, Any]:
    """Return each mode's share of the cloud, coverage, duplicates, and the alarms that ring.

    ``reference`` are real points; of either set the first 500 are compared.
    """
    distances, nearest = scores.nearest_neighbours(cloud, CENTRES)
    share = np.bincount(nearest[distances < REACH], minlength=MODES) / len(cloud)
    living = int((share >= 0.25 / MODES).sum())
    cloud, real = cloud[:500], reference[:500]
    coverage = scores.precision_recall_coverage(real, cloud).coverage
    duplicates = duplicate_rate(cloud) / duplicate_rate(real)
    rings = {
        "histogram": living < MODES,
        "coverage": coverage < 0.35,
        "duplicates": duplicates > 10,
    }
    alarms = [name for name, rang in rings.items() if rang]
    return dict(share=share, living=living, coverage=coverage, duplicates=duplicates, alarms=alarms)


# Pictures ----------------------------------------------------------------------------------------


def draw_cloud(ax: Axes, cloud: Points, title: str = "", color: str = plots.BLUE) -> None:
    """Draw samples as dots, and the ring's centres as grey discs of two spreads."""
    ax.scatter(cloud[:, 0], cloud[:, 1], s=3, color=color, lw=0, zorder=2)
    for centre in CENTRES:
        ax.add_patch(Circle(tuple(centre), 2 * SPREAD, color=plots.GREY, alpha=0.25, lw=0))
    ax.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title, fontsize=9)


def draw_share(ax: Axes, share: Points) -> None:
    """Draw the share of samples near each mode, (MODES,), with the fair share dashed."""
    ax.bar(range(MODES), share, color=plots.BLUE)
    ax.axhline(1 / MODES, color="black", lw=0.8, ls="--")
    ax.set(xlabel="mode", ylim=(0, 1), xticks=range(MODES))


def draw_answers(
    ax: Axes, logits: Points, title: str = "", seen: npt.NDArray[np.bool_] | None = None
) -> None:
    """Draw a discriminator's answers at GRID: red for real, blue for generated, white for 1/2.

    Where ``seen`` (as long as GRID) is False the map stays grey.
    """
    answers = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    if seen is not None:
        answers = np.where(seen, answers, np.nan)
    side = len(_AXIS)
    ax.set_facecolor("#bbbbbb")
    ax.imshow(
        answers.reshape(side, side),
        cmap="RdBu_r",
        vmin=0,
        vmax=1,
        origin="lower",
        extent=(-3, 3, -3, 3),
        interpolation="bilinear",
    )
    ax.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    ax.set_title(title, fontsize=9)


def draw_game(above: Axes, below: Axes, frame: Frame) -> None:
    """Draw D with the pull on 80 of G's samples above, and the best D for this G below it."""
    draw_answers(above, frame.logits, f"round {frame.round}")
    few = slice(0, 80)
    above.quiver(
        *frame.cloud[few].T, *frame.pull[few].T, angles="xy", scale_units="xy", scale=2, width=0.009
    )
    logits, density = best_logits(frame.cloud)
    draw_answers(below, logits, "", seen=density > 0.005)
