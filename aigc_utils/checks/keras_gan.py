"""Answers to the exercises of lesson 09: checkerboards, smoothing, D's step, copied pictures."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from aigc_utils.checks import answered, demand, praise, show_hint, show_hints

HINTS: dict[str, tuple[str, str, str]] = {
    "overlap": (
        "Draw a row of input pixels with stride 2 and kernel 3, and mark which outputs each of "
        "them touches.",
        "Input pixel i touches the outputs i·stride, …, i·stride + kernel − 1. For one output o, "
        "which i are that?",
        "i counts when 0 ≤ o − i·stride < kernel. The row has no ends, so i runs over negative "
        "numbers, too: from −kernel to size is enough.",
    ),
    "smoothed_equilibrium": (
        "At the equilibrium a real and a generated picture are equally common at every x. Write "
        "down D's loss at one x as a function of D's answer y.",
        "The loss is −(1 − s) log y − s log(1 − y) for the real one and −log(1 − y) for the "
        "generated one. Set its derivative to zero.",
        "y = (1 − s) / 2. Put it back into D's loss. G's loss is −log y: G's own target is not "
        "smoothed.",
    ),
    "discriminator_step": (
        "Ask of each line: which picture should D call real, which weights may move, and in which "
        "mode do the networks run?",
        "softplus(−a) is the loss of a logit a that should be large, softplus(a) of one that "
        "should be small.",
        "Pass training=True in all three calls, use softplus(−real_logits) and "
        "softplus(fake_logits), and take the gradient for discriminator.trainable_variables alone.",
    ),
    "copies": (
        "How near to the training set does a picture lie that was honestly never seen?",
        "`scores.nearest_neighbours(queries, references)` gives distances (n, 1). Use it twice, "
        "both times with the training set as references.",
        "The threshold is np.quantile(held-out distances, level); the answer is the share of "
        "generated distances below it.",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def overlap(answer: Callable[[int, int, int], Any]) -> None:
    """Check ``overlap(kernel, stride, size)`` by counting for many kernels and strides."""
    first = answer(4, 2, 6)
    answered(first, "overlap")
    demand(np.shape(first) == (6,), "`overlap` must return one count for each of `size` pixels.")
    demand(
        not np.array_equal(first, [1, 1, 2, 2, 2, 2]),
        "your first pixels have too few: the row has no ends, so input pixels left of 0 reach "
        "in, too.",
    )
    demand(
        not np.array_equal(first, [4] * 6),
        "you count the pixels of a picture; along one row each output has fewer.",
    )
    demand(
        np.array_equal(first, [2] * 6),
        f"kernel 4 with stride 2 covers every output pixel twice; you say {np.asarray(first)}.",
    )
    for kernel, stride in ((5, 2), (3, 2), (2, 3), (3, 1), (6, 3), (7, 3)):
        counts = [
            sum(0 <= o - i * stride < kernel for i in range(-kernel, o + 1)) for o in range(7)
        ]
        demand(
            np.array_equal(answer(kernel, stride, 7), counts),
            f"kernel {kernel} with stride {stride} gives {counts}, and you say "
            f"{[int(n) for n in answer(kernel, stride, 7)]}.",
        )
    praise("counts are equal exactly when the stride divides the kernel.")


def smoothed_equilibrium(answer: Callable[[float], Any]) -> None:
    """Check ``smoothed_equilibrium(s)`` against a search for the best answer of D."""
    plain = answer(0.0)
    answered(plain, "smoothed_equilibrium")
    demand(
        np.shape(plain) == (3,),
        "`smoothed_equilibrium` must return three numbers: D's answer, D's loss, G's loss.",
    )
    demand(
        np.allclose(plain, [0.5, math.log(4), math.log(2)]),
        "without smoothing the equilibrium is 1/2, log 4 and log 2.",
    )
    for s in (0.1, 0.3):
        y = np.linspace(1e-4, 1 - 1e-4, 99_999)
        loss = -(1 - s) * np.log(y) - s * np.log(1 - y) - np.log(1 - y)
        best = y[loss.argmin()]
        d, d_loss, g_loss = answer(s)
        demand(
            not math.isclose(d, 0.5),
            f"with s = {s} D's best answer is no longer one half: the targets of two equally "
            "common pictures are 1 − s and 0.",
        )
        demand(
            abs(d - best) < 1e-3,
            f"with s = {s} D loses least when it answers {best:.3f}, not {d:.3f}.",
        )
        demand(
            not math.isclose(d_loss, -(1 - s) * math.log(best) - math.log(1 - best), abs_tol=1e-3),
            "your loss of D lacks a term: a real picture with the target 1 − s also pays "
            "−s log(1 − D).",
        )
        demand(
            abs(d_loss - loss.min()) < 1e-3,
            f"with s = {s} D's loss at its best answer is {loss.min():.3f}, not {d_loss:.3f}.",
        )
        demand(
            abs(g_loss + math.log(best)) < 1e-3,
            f"with s = {s} G's loss is −log D = {-math.log(best):.3f}, not {g_loss:.3f}: G's "
            "target stays 1.",
        )
    praise("now you know where to draw the dashed lines.")


def discriminator_step(answer: Callable[..., Any]) -> None:
    """Check ``discriminator_step`` on toy networks that note in which mode they run."""
    import keras

    modes: list[Any] = []

    class Spy(keras.layers.Layer):
        """Passes its input on and notes in which mode it was called."""

        def call(self, x: Any, training: Any = None) -> Any:
            modes.append(training)
            return x

    keras.utils.set_random_seed(1)
    z = keras.random.normal((16, 3))
    real = keras.random.normal((16, 2)) + 3.0

    def players() -> tuple[Any, Any, Any]:
        keras.utils.set_random_seed(2)
        G = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), Spy()])
        D = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), Spy()])
        # Built for both, so that a step which moves the wrong weights shows what it moves.
        adam = keras.optimizers.Adam(0.01)
        adam.build([*D.trainable_variables, *G.trainable_variables])
        modes.clear()
        return G, D, adam

    def values(network: Any) -> list[np.ndarray]:
        return [np.array(weight) for weight in network.trainable_variables]

    G, D, adam = players()
    g_before, d_before = values(G), values(D)
    softplus = keras.ops.softplus
    expected = float(
        keras.ops.mean(softplus(-D(real, training=True)))
        + keras.ops.mean(softplus(D(G(z, training=True), training=True)))
    )
    modes.clear()
    loss = answer(G, D, adam, real, z)
    answered(loss, "discriminator_step")
    seen = list(modes)
    demand(np.shape(loss) == (), "`discriminator_step` must return one number: D's loss.")
    demand(
        all(np.array_equal(a, b) for a, b in zip(values(G), g_before, strict=True)),
        "the generator moved: in D's step only D's weights may change.",
    )
    demand(
        not all(np.array_equal(a, b) for a, b in zip(values(D), d_before, strict=True)),
        "D did not move: apply the gradient to the discriminator's weights.",
    )
    demand(
        seen and all(mode is True for mode in seen),
        "a network was called without training=True: dropout would be off and batch normalisation "
        "would use running averages.",
    )
    demand(
        abs(float(loss) - expected) < 1e-4,
        f"D's loss on the test batch is {expected:.3f}, and yours is {float(loss):.3f}: which "
        "pictures should get a large logit?",
    )
    for _ in range(40):
        last = float(answer(G, D, adam, real, z))
    demand(last < expected, "after forty of your steps D's loss is higher than before.")
    praise("D learns, G stays where it is, and both run in training mode.")


def copies(answer: Callable[..., Any]) -> None:
    """Check ``copies(generated, training, held_out, level)`` on honest and copying generators."""
    rng = np.random.default_rng(0)
    training, held_out, honest = (rng.normal(size=(n, 4)) for n in (800, 400, 400))

    def share(made: np.ndarray, level: float = 0.05) -> float:
        result = answer(made, training, held_out, level)
        answered(result, "copies")
        demand(np.ndim(result) == 0, "`copies` must return one number, a share.")
        return float(result)

    of_honest = share(honest)
    demand(0 <= of_honest <= 1, f"a share lies between 0 and 1, and yours is {of_honest:.2f}.")
    demand(share(training[:200]) > 0.99, "a generator that returns training pictures gives 1.")
    near = training[:200] + 1e-3 * rng.normal(size=(200, 4))
    demand(
        share(near) > 0.99,
        "training pictures with a trace of noise are still copies: compare distances with a "
        "threshold, not with 0.",
    )
    demand(
        of_honest < 0.12,
        f"for an honest generator about {0.05:.0%} may fall below the threshold, and you call "
        f"{of_honest:.0%} copies: the threshold is a low quantile of the held-out distances.",
    )
    demand(
        share(held_out[:200] + 1e-3) < 0.12,
        "pictures near the held-out ones are no copies: both distances are measured to the "
        "training set.",
    )
    demand(
        of_honest > 0.01 and share(honest, 0.5) > 0.35,
        "with a larger level more pictures must fall below the threshold, for an honest generator "
        "about that share.",
    )
    half = np.concatenate([training[:200], honest[:200]])
    demand(
        0.45 < share(half) < 0.6,
        "when every second picture is a copy, the share must be a little above one half.",
    )
    praise("copies ring the alarm, relatives do not.")
