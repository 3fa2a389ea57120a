"""Checkers and hints of lesson 09's exercises (checkerboards, D's step, G's step, copies)."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils import scores
from aigc_utils.checks import (
    Answer,
    HintTable,
    Slips,
    alike,
    demand,
    exercise,
    read_number,
    show_hint,
    show_hints,
    show_pair,
)

HINTS: HintTable = {
    "overlap": (
        "Draw a row of input pixels with stride 2 and kernel 3, and mark which outputs each of "
        "them touches.",
        "Input pixel i touches the outputs i·stride, …, i·stride + kernel − 1. For one output o, "
        "which i are that?",
        "Turn the two bounds round: what must o − i·stride be at least, and what must it stay "
        "below? The row has no ends, so let i begin far enough left of 0.",
    ),
    "discriminator_step": (
        "Ask of each line: which picture should D call real, which weights may move, and in which "
        "mode do the networks run?",
        "softplus(−a) is the loss of a logit a that should be large, softplus(a) of one that "
        "should be small. Which is printed for the real pictures?",
        "Six places change: a sign in each of the two losses, training=True in each of the three "
        "calls, and the list of weights, which holds those of one player too many.",
    ),
    "generator_step": (
        "G learns from D's answers to its own pictures: what must happen inside the tape, so that "
        "the gradient finds its way back to G?",
        "−log σ(a) is softplus(−a). The gradient is taken for one network's weights only, and D "
        "needs no freezing for that.",
        "After the optimiser's step go through zip(averaged.weights, generator.weights) and "
        "`assign` to each average the mixture of its old value and the new weight: which of the "
        "two gets the large share beta?",
    ),
    "copies": (
        "How near to the training set does a picture lie that was honestly never seen?",
        "`scores.nearest_neighbours(queries, references)` gives distances (n, 1) and indices. Use "
        "it twice, both times with the training set as references.",
        "np.quantile turns one set of distances into the threshold; the other set is compared "
        "with it. Which is which?",
    ),
}

Numbers = NDArray[Any]

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · checkerboards ----------------------------------------------------------------------------


@exercise("09")
def overlap(answer: Answer) -> str:
    """Check ``overlap(kernel, stride, size)`` by counting for many kernels and strides."""
    cases = [(4, 2, 6), (5, 2, 7), (3, 2, 9), (2, 3, 8), (3, 1, 5), (6, 3, 7), (7, 3, 11)]
    cases += [(1, 1, 1), (1, 4, 9), (5, 5, 12), (11, 4, 3), (11, 2, 13)]
    answer.compare(cases, _overlap, _OVERLAP_SLIPS)
    return "counts are equal exactly when the stride divides the kernel."


def _overlap(kernel: int, stride: int, size: int, first: int = -99, reach: int = 0) -> Numbers:
    touching = [
        [0 <= o - i * stride < kernel + reach for i in range(first, size)] for o in range(size)
    ]
    return np.sum(touching, axis=1)


_OVERLAP_SLIPS: Slips = [
    (
        partial(_overlap, first=0),
        "Your first pixels have too few: the row has no ends, so input pixels left of 0 reach in, "
        "too.",
    ),
    (
        lambda *case: _overlap(*case) ** 2,
        "You count the pixels of a picture; along one row each output has fewer.",
    ),
    (
        partial(_overlap, reach=1),
        "An input pixel touches `kernel` outputs, and you let it touch one more: the last is "
        "i·stride + kernel − 1.",
    ),
    (partial(_overlap, reach=-1), "An input pixel touches `kernel` outputs, one more than yours."),
    (
        lambda kernel, stride, size: _overlap(stride, kernel, size),
        "kernel and stride have changed places.",
    ),
    (
        lambda kernel, stride, size: np.full(size, kernel / stride),
        "That is the average over all outputs: some have more and some fewer.",
    ),
    (
        lambda kernel, stride, size: np.full(size, kernel // stride),
        "You give every output the same count, and neighbours differ when the stride does not "
        "divide the kernel.",
    ),
    (
        lambda kernel, stride, size: np.full(size, math.ceil(kernel / stride)),
        "You give every output the same count, and neighbours differ when the stride does not "
        "divide the kernel.",
    ),
]


# --- Two small players ----------------------------------------------------------------------------

RATE = 0.3  # of the optimiser, which is plain gradient descent: what moved tells the gradient


@dataclass
class _Game:
    """Two players, a moving average of G, an optimiser for all weights, and a batch."""

    G: Any
    averaged: Any
    D: Any
    optimizer: Any
    real: Any
    z: Any


@functools.cache
def _switch() -> Any:
    """A layer that, like dropout, does something else in training, and always the same."""
    import keras

    class Switch(keras.layers.Layer):
        def call(self, x: Any, training: Any = None) -> Any:
            return x * (1.75 if training else 1.0)

    return Switch


@functools.cache
def _stack() -> Any:
    """A subclassed model that runs its layers in turn."""
    import keras

    class Stack(keras.Model):
        def __init__(self, parts: Sequence[Any]) -> None:
            super().__init__()
            self.parts = list(parts)

        def call(self, x: Any) -> Any:  # Keras passes the mode on to the layers by itself
            for part in self.parts:
                x = part(x)
            return x

    return Stack


def _network(kind: str, inputs: tuple[int, ...], parts: Sequence[Any]) -> Any:
    import keras

    if kind == "sequential":
        return keras.Sequential([keras.Input(inputs), *parts])
    if kind == "subclass":
        network = _stack()(parts)
        network(np.zeros((1, *inputs), "float32"))
        return network
    x = first = keras.Input(inputs)
    for part in parts:
        x = part(x)
    return keras.Model(first, x)


# Kind of model, batch, numbers in z, shape of a picture, and a factor that makes logits large.
_GAMES: list[tuple[Any, ...]] = [
    ("sequential", 5, 2, (3, 4, 1), 1.0),
    ("functional", 7, 3, (6,), 1.0),
    ("subclass", 4, 5, (2, 3, 2), 60.0),
]


def _game(
    kind: str, n: int, latent: int, picture: tuple[int, ...], factor: float, norm: bool
) -> _Game:
    """Return the same game each time: Keras's own generators are neither needed nor used.

    With ``norm`` G normalises over the batch; frozen, it would do so in its other mode.
    """
    import keras
    import tensorflow as tf

    rng = np.random.default_rng([n, latent])
    layers = keras.layers

    def dense(units: int, activation: str | None = None) -> Any:
        return layers.Dense(units, activation, kernel_initializer="zeros")

    def generator() -> Any:
        parts = [dense(6, "tanh"), *([layers.BatchNormalization()] * norm), _switch()()]
        parts += [dense(math.prod(picture)), layers.Reshape(picture)]
        return _network(kind, (latent,), parts)

    judging = [layers.Flatten(), dense(4, "tanh"), _switch()(), dense(1)]
    G, averaged, D = generator(), generator(), _network(kind, picture, judging)
    for network in (G, averaged, D):
        # Positive where it must be: the running variance of batch normalisation.
        drawn = [rng.normal(size=w.shape) for w in network.weights]
        network.set_weights(
            [
                np.abs(w) + 0.3 if "variance" in weight.path else w
                for w, weight in zip(drawn, network.weights, strict=True)
            ]
        )
    D.weights[-2].assign(D.weights[-2] * factor)
    optimizer = keras.optimizers.SGD(RATE)
    # For both, so that a step which moves the wrong weights shows what it moves.
    optimizer.build([*D.trainable_variables, *G.trainable_variables])
    real, z = rng.normal(0.5, 1.0, size=(n, *picture)), rng.normal(size=(n, latent))
    return _Game(G, averaged, D, optimizer, tf.constant(real, "float32"), tf.constant(z, "float32"))


def _flat(arrays: Sequence[Any]) -> Numbers:
    return np.concatenate([np.ravel(np.array(array)) for array in arrays]).astype(np.float64)


def _loss_and_gradient(logits: Callable[[], Any], sign: float, of: Any) -> Numbers:
    """Return mean softplus(sign · logits) and its gradient for a network's weights, in one row."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.math.softplus(sign * logits()))
    return _flat([loss, *tape.gradient(loss, of.trainable_variables)])


@dataclass
class _Step:
    """What one call of a step did: its loss and, from what moved, the gradient it went down."""

    case: str
    learner: str
    taken: Numbers
    iterations: int
    size: int
    terms: Mapping[Any, Numbers]  # loss and gradient of each part of the loss, in every mode


def _judged(
    answer: Answer, game: _Game, args: Sequence[Any], learner: Any, other: Any, terms: Any
) -> _Step:
    """Call the answer once and say what it did; only ``learner`` may have moved."""
    which = {id(game.G): "generator", id(game.D): "discriminator"}
    names = [which[id(player)] for player in (learner, other)]
    weights, still = (_flat(player.trainable_variables) for player in (learner, other))
    loss = read_number(answer(*args), "loss")
    case = answer.case(*args)
    for player, name in zip((learner, other), names, strict=True):
        demand(
            player.trainable and len(player.trainable_variables) > 1,
            f"{case}: the {name} comes back frozen, and never learns again: leave `trainable` as "
            "it was.",
        )
    demand(
        np.array_equal(_flat(other.trainable_variables), still),
        f"{case}: the {names[1]} moved, and in this step only the {names[0]} may: apply the "
        "gradient of its weights alone.",
    )
    moved = weights - _flat(learner.trainable_variables)
    demand(
        math.isfinite(loss) and np.isfinite(moved).all(),
        f"{case}: the loss or the weights are no longer finite: large logits overflow in exp or "
        "become log 0, and softplus takes them as they are.",
    )
    taken = np.array([loss, *(moved / RATE)])
    return _Step(case, names[0], taken, int(game.optimizer.iterations), len(game.z), terms)


def _explain(
    steps: Sequence[_Step],
    choices: Sequence[tuple[Any, ...]],
    result: Callable[..., Numbers],
    sentences: Callable[..., list[str]],
) -> None:
    """Demand the right step; say which mistakes, few before many, give what came in all cases."""
    right = tuple(options[0] for options in choices)
    ways = sorted(
        itertools.product(*choices),
        key=lambda way: sum(a != b for a, b in zip(way, right, strict=True)),
    )
    # The gradient is read off weights in float32, so it is less exact than the loss.
    for way in ways:
        if all(alike(step.taken, result(step, *way), 1e-3) for step in steps):
            demand(way == right, next(iter(sentences(*way)), ""))
            return
    for step in steps:
        expected = result(step, *right)
        demand(
            step.iterations <= 1,
            f"{step.case}: the optimiser took {step.iterations} steps: add the losses up and take "
            "one.",
        )
        demand(
            step.taken[1:].any(),
            f"{step.case}: the {step.learner} did not move: apply the gradient to its weights.",
        )
        want, have = show_pair(float(expected[0]), float(step.taken[0]))
        demand(
            alike(step.taken[0], expected[0], 1e-4),
            f"{step.case}: the loss must be {want}, and is {have}.",
        )
        demand(
            not alike(step.taken[1:], -expected[1:], 1e-3),
            "The loss is right, but your step climbs: the optimiser descends by itself.",
        )
        demand(
            alike(step.taken[1:], expected[1:], 1e-3),
            f"{step.case}: the loss is right, but the weights move otherwise than down its "
            "gradient.",
        )


# --- 2 · D's step ---------------------------------------------------------------------------------


@exercise("09", seconds=10)
def discriminator_step(answer: Answer) -> str:
    """Check ``discriminator_step(generator, discriminator, optimizer, real, z)`` -> D's loss."""
    steps = []
    for shape in [(*shape, False) for shape in _GAMES]:
        game = _game(*shape)
        args = (game.G, game.D, game.optimizer, game.real, game.z)
        steps.append(_judged(answer, game, args, game.D, game.G, _d_terms(*shape)))
    # Sign and mode of each part of the loss, the right one first; None where a part is left out.
    signs, modes = (1, -1, None), (True, False)
    scales = ("mean", "half", "sum")
    _explain(steps, (signs, signs, modes, modes, modes, scales), _d_result, _d_sentences)
    return "D learns, G stays where it is, and both run in training mode."


@functools.cache
def _d_terms(*shape: Any) -> Mapping[Any, Numbers]:
    game = _game(*shape)
    terms: dict[Any, Numbers] = {}
    for g_mode in (True, False):
        fake = game.G(game.z, training=g_mode)
        for mode, sign in itertools.product((True, False), (1, -1)):
            terms["real", sign, mode] = _loss_and_gradient(
                partial(game.D, game.real, training=mode), -sign, game.D
            )
            terms["fake", sign, g_mode, mode] = _loss_and_gradient(
                partial(game.D, fake, training=mode), sign, game.D
            )
    return terms


def _d_result(
    step: _Step, real: Any, fake: Any, g_mode: bool, real_mode: bool, fake_mode: bool, scale: str
) -> Numbers:
    total = np.zeros_like(step.taken)
    if real is not None:
        total = total + step.terms["real", real, real_mode]
    if fake is not None:
        total = total + step.terms["fake", fake, g_mode, fake_mode]
    return total * {"mean": 1, "half": 0.5, "sum": step.size}[scale]


def _d_sentences(
    real: Any, fake: Any, g_mode: bool, real_mode: bool, fake_mode: bool, scale: str
) -> list[str]:
    said = []
    if (real, fake) == (-1, -1):
        said.append(
            "D learns to call real pictures generated and generated ones real: both signs are "
            "wrong."
        )
    if real is None or fake is None:
        said.append("One half of D's loss is missing: it learns from real and generated pictures.")
    if real == -1:
        said.append("D learns to call real pictures generated: softplus of what is small there?")
    if fake == -1:
        said.append("D learns to call generated pictures real: softplus of what is small there?")
    without = "called without training=True: dropout and batch normalisation work otherwise then."
    if not g_mode:
        said.append(f"The generator was {without}")
    if not real_mode or not fake_mode:
        what = "real" if fake_mode else "generated" if real_mode else "real and generated"
        said.append(f"For the {what} pictures the discriminator was {without}")
    if scale == "half":
        said.append(
            "The loss and the step are half as large as asked: add the two means, without a factor."
        )
    if scale == "sum":
        said.append("You add up over the batch: D's loss is a mean over pictures.")
    return said


# --- 3 · G's step ---------------------------------------------------------------------------------


@exercise("09", seconds=10)
def generator_step(answer: Answer) -> str:
    """Check ``generator_step(generator, averaged, discriminator, optimizer, z, beta)``."""
    steps, found = [], []
    for shape, beta in zip(_GAMES, (0.9, 0.75, 0.98), strict=True):
        shape = (*shape, True)
        game = _game(*shape)
        args = (game.G, game.averaged, game.D, game.optimizer, game.z, beta)
        before = _flat(game.G.weights), _flat(game.averaged.weights)
        learns = np.concatenate([np.full(w.shape, w.trainable).ravel() for w in game.G.weights])
        steps.append(_judged(answer, game, args, game.G, game.D, _g_terms(*shape)))
        found.append((game, args, before, learns, beta))
    kinds, modes = ("asked", "saturating", "D's"), (True, False)
    _explain(steps, (kinds, modes, modes, ("mean", "sum")), _g_result, _g_sentences)
    _judge_average(answer, found)
    return "G learns through D, D stays where it is, and the average follows slowly."


@functools.cache
def _g_terms(*shape: Any) -> Mapping[Any, Numbers]:
    game = _game(*shape)
    return {
        (sign, g_mode, d_mode): _loss_and_gradient(
            partial(_answers, game, g_mode, d_mode), sign, game.G
        )
        # Inference first: training moves the running averages, which inference uses.
        for g_mode, d_mode, sign in itertools.product((False, True), (True, False), (1, -1))
    }


def _answers(game: _Game, g_mode: bool, d_mode: bool) -> Any:
    return game.D(game.G(game.z, training=g_mode), training=d_mode)


def _g_result(step: _Step, kind: str, g_mode: bool, d_mode: bool, scale: str) -> Numbers:
    sign = -1 if kind == "asked" else 1
    term = step.terms[sign, g_mode, d_mode] * (-1 if kind == "saturating" else 1)
    return term * (step.size if scale == "sum" else 1)


def _g_sentences(kind: str, g_mode: bool, d_mode: bool, scale: str) -> list[str]:
    said = []
    if kind == "saturating":
        said.append(
            "That is the saturating loss, log(1 − D(G(z))), whose gradient dies when D is sure: "
            "G's loss is −log D(G(z))."
        )
    if kind == "D's":
        said.append("That is D's loss: G wants its pictures to be called real.")
    without = "called without training=True: dropout and batch normalisation work otherwise then."
    if not g_mode:
        said.append(f"The generator was {without}")
    if not d_mode:
        said.append(f"The discriminator was {without}")
    if scale == "sum":
        said.append("You add up over the batch: G's loss is a mean over pictures.")
    return said


def _judge_average(answer: Answer, found: Sequence[Any]) -> None:
    pairs = [(_flat(game.averaged.weights), _flat(game.G.weights), *rest) for game, *rest in found]

    def explains(right: Callable[..., Numbers]) -> bool:
        return all(
            alike(got, right(*before, now, learns, beta), 1e-4)
            for got, now, _, before, learns, beta in pairs
        )

    if explains(_averaged):
        return
    for slip, sentence in _AVERAGE_SLIPS:
        demand(not explains(slip), sentence)
    for got, now, args, before, learns, beta in pairs:
        right = _averaged(before[0], before[1], now, learns, beta)
        for i in np.flatnonzero(~np.isclose(got, right, rtol=1e-4, atol=1e-5)):
            want, have = show_pair(right[i], got[i])
            demand(
                False,
                f"{answer.case(*args)}: a weight of `averaged` must be {want} and is {have}: beta "
                "times its old value and 1 − beta times the generator's new weight.",
            )


def _averaged(old: Numbers, mean: Numbers, new: Numbers, learns: Numbers, beta: float) -> Numbers:
    return beta * mean + (1 - beta) * new


_AVERAGE_SLIPS: Slips = [
    (lambda old, mean, new, learns, beta: mean, "`averaged` did not move."),
    (
        lambda old, mean, new, learns, beta: (1 - beta) * mean + beta * new,
        "The average jumps to the new weights: beta belongs to its old value, 1 − beta to the new "
        "weight.",
    ),
    (
        lambda old, mean, new, learns, beta: np.where(
            learns, beta * mean + (1 - beta) * old, beta * mean + (1 - beta) * new
        ),
        "The average follows the weights from before the step: take it after the optimiser's step.",
    ),
    (
        lambda old, mean, new, learns, beta: beta * mean + (1 - beta) * old,
        "The average follows the weights from before the step: take it after the optimiser's step.",
    ),
    (
        lambda old, mean, new, learns, beta: np.where(learns, beta * mean + (1 - beta) * new, mean),
        "Only what learns is averaged: the running averages of batch normalisation must follow, "
        "too, so go through `weights`.",
    ),
    (
        lambda old, mean, new, learns, beta: np.where(learns, beta * mean + (1 - beta) * new, new),
        "The running averages of batch normalisation are copied: they follow like all others.",
    ),
    (lambda old, mean, new, learns, beta: new, "`averaged` is a copy of the generator now."),
    (
        lambda old, mean, new, learns, beta: mean + new,
        "The average must be a mixture: beta of the old, 1 − beta of the new.",
    ),
    (
        lambda old, mean, new, learns, beta: mean + (1 - beta) * new,
        "The average grows without end: its old value must be multiplied by beta.",
    ),
]


# --- 4 · copies -----------------------------------------------------------------------------------


@exercise("09")
def copies(answer: Answer) -> str:
    """Check ``copies(generated, training, held_out, level)`` on honest and copying generators."""
    _demand_share(answer)
    answer.compare(_copy_cases(), _copies, _COPY_SLIPS)
    # Distances that are whole numbers: 5 is the threshold, and one sample lies just there.
    grid = np.array([[0.0, 0.0], [100.0, 0.0]])
    held_out = np.array([[3.0, 4.0], [100.0, 5.0], [97.0, 4.0], [-4.0, 3.0], [0.0, -5.0]])
    generated = np.array([[0.0, 5.0], [3.0, 0.0], [-5.0, 0.0], [104.0, 3.0], [0.0, 60.0]])
    answer.compare(
        [(generated, grid, held_out, 0.5)],
        _copies,
        [
            (
                partial(_copies, below=np.less_equal),
                "A sample that lies exactly at the threshold does not lie below it.",
            )
        ],
    )
    return "copies ring the alarm, relatives do not."


def _demand_share(answer: Answer) -> None:
    """Demand one number from 0 to 1 for a plain case."""
    case = _copy_cases()[0]
    share = read_number(answer(*case), "copies")
    demand(
        0 <= share <= 1,
        f"{answer.case(*case)} is {share:.4g}, and a share lies between 0 and 1.",
    )


@functools.cache
def _copy_cases() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(9)
    training, held_out, honest = (rng.normal(size=(n, 3)) for n in (113, 83, 71))
    near = training[:37] + 1e-3 * rng.normal(size=(37, 3))
    narrow, few, drawn = (rng.normal(size=(n, 1)) for n in (19, 31, 23))
    cases: list[tuple[Any, ...]] = [
        (np.concatenate([near, honest]), training, held_out, 0.1),
        (honest, training, held_out, 0.45),
        (training[5:44], training, held_out, 0.07),
        (held_out[:29] + 1e-3, training, held_out, 0.15),
        (np.concatenate([training[:10], near, honest[:9]]), training, held_out),
        (3 * drawn, narrow, few, 0.7),
        (np.concatenate([near, 40 + honest]), training, held_out, 0.2),
        (honest.astype("float32"), training.astype("float32"), held_out.astype("float32"), 0.3),
        # The training set holds a held-out sample as well: the smallest distance is 0.
        (near, np.concatenate([training, held_out[:1]]), held_out, 0.0),
    ]
    return [(_clear_of_threshold(*case), *case[1:]) for case in cases]


def _clear_of_threshold(made: Numbers, training: Numbers, held_out: Numbers, *level: float) -> Any:
    """Leave out what lies between two held-out distances that a kind of quantile may choose."""
    honest, place = np.sort(_nearest(held_out, training)), (*level, 0.01)[0] * len(held_out)
    low, high = (honest[int(np.clip(p, 0, len(honest) - 1))] for p in (place - 2, place + 2))
    distances = _nearest(made, training)
    outside = (distances < low - 1e-4) | (distances > high + 1e-4) | (low == 0)
    return made[outside]


def _nearest(queries: Numbers, references: Numbers) -> Numbers:
    return scores.nearest_neighbours(queries, references)[0][:, 0]


def _copies(
    generated: Numbers,
    training: Numbers,
    held_out: Numbers,
    level: float = 0.01,
    threshold: Callable[[Numbers, float], Any] = np.quantile,
    below: Callable[[Numbers, Any], Any] = np.less,
    made_from: Callable[[Numbers, Numbers, Numbers], Numbers] = lambda g, t, h: _nearest(g, t),
    honest_from: Callable[[Numbers, Numbers, Numbers], Numbers] = lambda g, t, h: _nearest(h, t),
) -> float:
    sets = generated, training, held_out
    return float(np.mean(below(made_from(*sets), threshold(honest_from(*sets), level))))


_COPY_SLIPS: Slips = [
    (
        partial(_copies, threshold=lambda honest, level: 1e-12),
        "Only exact copies are counted, but training pictures with a trace of noise are copies, "
        "too: compare distances with the threshold, not with 0.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: honest.mean()),
        "The threshold is the mean of the held-out distances, and a low quantile was asked for.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: np.median(honest)),
        "The threshold is the median of the held-out distances, and `level` was asked for.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: honest.min()),
        "The threshold is the smallest held-out distance or little more, as if `level` were 0: it "
        "is a share, from 0 to 1, and np.quantile takes it as it is.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: level),
        "`level` is a share of the held-out distances, not a distance.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: level * honest.mean()),
        "`level` is the share of held-out distances below the threshold, not a part of a distance.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: np.quantile(honest, 1 - level)),
        "That is the quantile 1 − level: nearly all honest samples would count as copies.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: np.quantile(honest, 0.01)),
        "`level` is not used: the threshold is always the quantile 0.01.",
    ),
    (
        partial(_copies, threshold=lambda honest, level: np.quantile(honest, 0.05)),
        "`level` is not used: the threshold is always the quantile 0.05.",
    ),
    (
        partial(_copies, below=np.greater),
        "That is the share of samples that lie farther away: copies lie nearer.",
    ),
    (
        partial(_copies, below=np.greater_equal),
        "That is the share of samples that lie farther away: copies lie nearer.",
    ),
    (
        partial(_copies, made_from=lambda g, t, h: _nearest(g, h)),
        "Generated samples are compared with the held-out ones: a copy lies near the training set.",
    ),
    (
        partial(_copies, honest_from=lambda g, t, h: _nearest(h, g)),
        "Held-out samples are compared with the generated ones: how near to the *training* set "
        "do honest ones lie?",
    ),
    (
        partial(_copies, honest_from=lambda g, t, h: _nearest(g, t)),
        "The threshold comes from the generated samples themselves, so that the answer is always "
        "about `level`: take it from the held-out ones.",
    ),
    (
        partial(_copies, honest_from=lambda g, t, h: _nearest(t, h)),
        "The threshold asks how far training samples are from held-out ones: ask the other way "
        "round.",
    ),
    (
        partial(_copies, made_from=lambda g, t, h: _nearest(t, g)),
        "That is a share of the training samples: ask for each *generated* sample how near the "
        "training set is.",
    ),
    (
        partial(_copies, made_from=lambda g, t, h: _nearest(h, t)),
        "That is a share of the held-out samples: compare the generated ones with the threshold.",
    ),
]
