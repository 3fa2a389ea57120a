"""Answers to the exercises of lesson 08: the game's value, its optimum, its circling, its modes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from aigc_utils.checks import answered, demand, praise, show_hint, show_hints

HINTS: dict[str, tuple[str, str, str]] = {
    "js_divergence": (
        "Write a helper for the Kullback–Leibler divergence first; you need it twice.",
        "Compare both p and q with their average m = (p + q) / 2, which is positive wherever "
        "either of them is.",
        "A term with p = 0 counts 0: let `np.log` see the ratio 1 there, with `np.where`. Do not "
        "forget the one half in front of each of the two divergences.",
    ),
    "smoothed_optimum": (
        "Fix one x and write down what D pays there: how often x comes from the data, how often "
        "from the model, and the cross-entropy for the target in each case.",
        "The loss at x is −[A log y + B log(1 − y)]; collect in A all that multiplies log y.",
        "A = real_target·p_data + fake_target·p_model, and A + B = p_data + p_model; "
        "the maximum lies at y = A / (A + B).",
    ),
    "dirac_step": (
        "Print (θ, ψ) of the first three steps from (1, 0). Who pushes whom, and which way?",
        "The generator descends V, so its step has a minus; the penalty is paid by the "
        "discriminator, so it must pull ψ towards 0.",
        "∂V/∂ψ = −θ σ(ψθ), ∂V/∂θ = −ψ σ(ψθ), and the penalty γψ²/2 has the derivative γψ. "
        "Compute both new numbers from the old ones.",
    ),
    "lost_modes": (
        "Two questions for each sample: which centre is nearest, and is it near enough to count?",
        "The fair share is a share of all samples, also of those that belong to no mode.",
        "`np.bincount(nearest[close], minlength=len(centres))` counts every mode, also the empty "
        "ones; compare it with a quarter of len(samples) / len(centres).",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def js_divergence(answer: Callable[..., Any]) -> None:
    """Check ``js_divergence(p, q)``: zero, log 2, symmetry, empty cells, and a written-out sum."""
    half = np.array([0.5, 0.5, 0.0, 0.0])
    value = answer(half, half)
    answered(value, "js_divergence")
    demand(np.ndim(value) == 0, "`js_divergence` must return one number, not an array.")
    demand(
        not math.isnan(value),
        "your divergence is NaN where a probability is 0: 0 · log 0 counts as 0 here.",
    )
    demand(
        math.isclose(value, 0, abs_tol=1e-9),
        f"a distribution has divergence 0 from itself; yours gives {value:.3f}.",
    )
    apart = answer(half, half[::-1])
    demand(
        not math.isclose(apart, 1, abs_tol=1e-6),
        "two distributions that never meet give 1 in your function: that is in bits; use the "
        "natural logarithm for nats.",
    )
    demand(
        not math.isclose(apart, 2 * math.log(2), abs_tol=1e-6),
        "your divergence is twice too large: each of the two terms has a factor one half.",
    )
    demand(
        math.isclose(apart, math.log(2), abs_tol=1e-6),
        f"two distributions that never meet must give log 2 = 0.693, and yours give {apart:.3f}.",
    )
    p, q = np.array([0.7, 0.2, 0.1, 0.0]), np.array([0.1, 0.1, 0.3, 0.5])
    demand(
        math.isclose(answer(p, q), answer(q, p), abs_tol=1e-9),
        "the divergence must not change when p and q change places: compare both with "
        "their average.",
    )
    m = (p + q) / 2
    expected = sum(
        0.5 * a * math.log(a / c) for r in (p, q) for a, c in zip(r, m, strict=True) if a > 0
    )
    demand(
        math.isclose(answer(p, q), expected, abs_tol=1e-9),
        f"for p = {p} and q = {q} the divergence is {expected:.4f}, not {answer(p, q):.4f}.",
    )
    praise("0 for twins, log 2 for strangers, and an empty cell does no harm.")


def smoothed_optimum(answer: Callable[..., Any]) -> None:
    """Check ``smoothed_optimum(p_data, p_model, real_target, fake_target)`` against a search."""
    p_data, p_model = np.array([0.4, 0.1, 0.0, 0.3]), np.array([0.1, 0.3, 0.5, 0.3])
    plain = answer(p_data, p_model, 1.0, 0.0)
    answered(plain, "smoothed_optimum")
    demand(np.shape(plain) == (4,), "the answer must have one number for each x of the densities.")
    demand(
        np.allclose(plain, p_data / (p_data + p_model)),
        "with the plain targets 1 and 0 the optimum must be p_data / (p_data + p_model).",
    )
    one_sided = np.asarray(answer(p_data, p_model, 0.9, 0.0))
    demand(
        not np.allclose(one_sided, 0.9 * p_data / (0.9 * p_data + p_model)),
        "you weighted the real samples by 0.9 instead of giving them the target 0.9: the missing "
        "0.1 still counts as a vote for fake, so the denominator stays p_data + p_model.",
    )
    demand(
        np.allclose(one_sided, _best_by_search(p_data, p_model, 0.9, 0.0), atol=1e-3),
        "with the targets 0.9 and 0 another D has a lower loss than yours.",
    )
    two_sided = np.asarray(answer(p_data, p_model, 0.9, 0.2))
    demand(
        not np.allclose(two_sided, one_sided),
        "your optimum ignores `fake_target`: a fake sample with target 0.2 votes 0.2 for real.",
    )
    demand(
        np.allclose(two_sided, _best_by_search(p_data, p_model, 0.9, 0.2), atol=1e-3),
        "with the targets 0.9 and 0.2 another D has a lower loss than yours.",
    )
    praise("no other D beats yours, for hard and for soft targets.")


def dirac_step(answer: Callable[..., Any]) -> None:
    """Check ``dirac_step(theta, psi, learning_rate, gamma)`` step by step and on a long run."""
    first = answer(1.0, 0.0, 0.1, 0.0)
    answered(first, "dirac_step")
    demand(np.shape(first) == (2,), "`dirac_step` must return the two numbers (theta, psi).")
    demand(
        math.isclose(first[1], -0.05),
        "from θ = 1, ψ = 0 the discriminator must step to ψ = −0.05: it ascends V, whose slope "
        f"there is −1/2; yours steps to {first[1]:.3f}.",
    )
    demand(
        math.isclose(first[0], 1.0),
        "both players must move from the old point: θ may not see the new ψ within the same step.",
    )
    theta, _ = answer(1.0, -1.0, 0.1, 0.0)
    demand(
        theta < 1.0,
        "your generator climbs V together with the discriminator and runs away from the data: "
        "the two play against each other.",
    )
    expected = 1.0 - 0.1 / (1 + math.exp(1.0))
    demand(
        math.isclose(theta, expected),
        f"from θ = 1, ψ = −1 the generator must step to {expected:.4f}, not to {theta:.4f}.",
    )
    demand(
        math.isclose(answer(1.0, -1.0, 0.1, 1.0)[0], expected),
        "the penalty belongs to the discriminator's step; the generator does not pay it.",
    )
    pull = answer(0.0, 1.0, 0.1, 1.0)[1] - answer(0.0, 1.0, 0.1, 0.0)[1]
    demand(pull < 0, "your penalty pushes ψ away from 0: it is a cost, so its slope is subtracted.")
    demand(
        math.isclose(pull, -0.1),
        f"your penalty is off by a factor {abs(pull) / 0.1:.1f}: the derivative of γψ²/2 is γψ.",
    )
    point = np.array([1.0, 0.0])
    for _ in range(500):
        point = np.array(answer(*point, 0.1, 1.0))
    demand(np.hypot(*point) < 1e-3, "with γ = 1 your game does not reach the equilibrium (0, 0).")
    praise("without the penalty the game circles, and with γ = 1 it comes to rest at (0, 0).")


def lost_modes(answer: Callable[..., Any]) -> None:
    """Check ``lost_modes(samples, centres, reach)`` on clouds whose lost modes are known."""
    rng = np.random.default_rng(0)
    centres = 3.0 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [2, 2]])

    def cloud(counts: list[int]) -> np.ndarray:
        centre = np.repeat(np.arange(len(counts)), counts)
        return centres[centre] + 0.1 * rng.normal(size=(len(centre), 2))

    def lost(samples: np.ndarray, reach: float = 0.5) -> list[int]:
        result = answer(samples, centres, reach)
        answered(result, "lost_modes")
        return [int(mode) for mode in result]

    found = lost(cloud([100] * 5))
    demand(not found, f"in a cloud with every mode you report mode {found[:1]} as lost.")
    demand(
        lost(cloud([200, 0, 150, 150, 0])) == [1, 4],
        "modes 1 and 4 of a cloud without them must be reported, in this order: an empty last "
        "mode must be counted too.",
    )
    demand(
        lost(cloud([200, 3, 150, 150, 100])) == [1],
        "3 samples of 603 do not make a mode alive: below a quarter of the fair share it is lost.",
    )
    demand(
        lost(cloud([200, 40, 150, 150, 60])) == [],
        "a mode that is rare but has more than a quarter of its fair share is not lost.",
    )
    between = np.zeros((300, 2)) + 0.1 * rng.normal(size=(300, 2))
    demand(
        lost(between) == [0, 1, 2, 3, 4],
        "a cloud between the modes belongs to none of them: a sample counts only within `reach` "
        "of a centre.",
    )
    stray = np.vstack([between, between, between, cloud([10] * 5)])
    demand(
        lost(stray) == [0, 1, 2, 3, 4],
        "when 900 of 950 samples are off, 10 a mode are too few: the fair share is a "
        "share of all samples.",
    )
    praise("empty, starved and missed modes are all reported, and no living one.")


def _best_by_search(
    p_data: np.ndarray, p_model: np.ndarray, real_target: float, fake_target: float
) -> np.ndarray:
    """Return the D of lowest cross-entropy at each x by trying 9,999 values."""
    y = np.linspace(0.0001, 0.9999, 9999)[:, None]

    def cross_entropy(target: float) -> np.ndarray:
        loss: np.ndarray = -target * np.log(y) - (1 - target) * np.log(1 - y)
        return loss

    loss = p_data * cross_entropy(real_target) + p_model * cross_entropy(fake_target)
    best: np.ndarray = y[loss.argmin(axis=0), 0]
    return best
