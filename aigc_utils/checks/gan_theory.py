"""Checkers and hints of lesson 08's exercises (divergence, best D, the Dirac-GAN, lost modes)."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils.checks import (
    Answer,
    CheckFailed,
    HintTable,
    Slips,
    alike,
    demand,
    exercise,
    read_array,
    read_number,
    read_several,
    show_hint,
    show_hints,
)
from aigc_utils.checks.core import Found
from aigc_utils.checks.reading import cut

HINTS: HintTable = {
    "js_divergence": (
        "Write a helper for the Kullback–Leibler divergence first; you need it twice.",
        "Compare both p and q with their average m = (p + q) / 2, which is positive wherever "
        "either of them is.",
        "A term with p = 0 counts 0. Which cells must the sum leave out, or which ratio can "
        "`np.log` see there without harm (`np.where`)? And what stands before each divergence?",
    ),
    "smoothed_optimum": (
        "Fix one x and write down what D pays there: how often x comes from the data, how often "
        "from the model, and the cross-entropy for the target in each case.",
        "The loss at x is −[A log y + B log(1 − y)]; collect in A all that multiplies log y, and "
        "in B all that multiplies log(1 − y).",
        "Set the slope in y to zero: A / y = B / (1 − y). Two terms stand in A, one from each "
        "density; what is left of A + B when all four are added up?",
    ),
    "dirac_step": (
        "Print (θ, ψ) of the first three steps from (1, 0). Who pushes whom, and which way?",
        "The generator descends V, so its step has a minus; the penalty is paid by the "
        "discriminator, so it must pull ψ towards 0.",
        "∂V/∂ψ = −θ σ(ψθ) and ∂V/∂θ = −ψ σ(ψθ): compare each sign with the one in the code. And "
        "which ψ does the line for θ read?",
    ),
    "lost_modes": (
        "Two questions for each sample: which centre is nearest, and is it near enough to count?",
        "The fair share is a share of all samples, also of those that belong to no mode.",
        "`np.bincount` counts how often each number occurs, and its `minlength` keeps the last "
        "modes when they are empty. Which samples may be counted?",
    ),
}

Array = NDArray[Any]

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def _settled(got: Any, expected: Any, most: float) -> Any:
    """Return ``expected`` where ``got`` differs from it by no more than an allowed error."""
    return expected if np.abs(got - expected).max() <= most else got


# --- 1 · divergence -------------------------------------------------------------------------------


@exercise("08")
def js_divergence(answer: Answer) -> str:
    """Check ``js_divergence(p, q)``, in nats, of two arrays of one shape that each sum to one."""
    rng = np.random.default_rng(8)
    half = np.array([0.5, 0.5, 0.0, 0.0])
    spread, narrow = rng.dirichlet(np.ones(7)), rng.dirichlet(np.full(7, 0.2))
    cases = [
        (spread, narrow),
        (narrow, spread),
        (np.array([0.7, 0.2, 0.1, 0.0, 0.0]), np.array([0.1, 0.1, 0.3, 0.5, 0.0])),
        (np.array([0.0, 0.0, 0.25, 0.75]), np.array([0.25, 0.0, 0.0, 0.75])),
        (rng.dirichlet(np.ones(15)).reshape(3, 5), rng.dirichlet(np.ones(15)).reshape(3, 5)),
        (np.array([0.999, 0.001]), np.array([0.001, 0.999])),
        (half, half[::-1]),
        (half, half),
        (np.array([1.0]), np.array([1.0])),
    ]
    found: list[Found] = []
    for p, q in cases:
        value = read_number(answer(p, q), "js_divergence")
        empty = bool(((p == 0) | (q == 0)).any())
        demand(
            not (math.isnan(value) and empty),
            f"{answer.case(p, q)} is nan, and a 0 stands in p or q: 0 · log 0 counts as 0 here.",
        )
        expected = _divergence(p, q)
        found.append(((p, q), _settled(value, expected, 1e-6), expected))
    answer.judge(found, _DIVERGENCE_SLIPS)
    return "0 for twins, log 2 for strangers, and an empty cell does no harm."


def _kl(p: Array, m: Array) -> float:
    terms = (
        a * math.log(a / c) if c else math.inf for a, c in zip(p.flat, m.flat, strict=True) if a
    )
    return float(sum(terms))


def _divergence(
    p: Array, q: Array, parts: tuple[float, float] = (0.5, 0.5), of_m: float = 0.5
) -> float:
    m = of_m * (p + q)
    return parts[0] * _kl(p, m) + parts[1] * _kl(q, m)


_DIVERGENCE_SLIPS: Slips = [
    (
        lambda p, q: _divergence(p, q) / math.log(2),
        "Two distributions that never meet have 1 in your function: that is in bits; nats come "
        "from the natural logarithm.",
    ),
    (lambda p, q: _divergence(p, q) / math.log(10), "Nats come from the natural logarithm."),
    (
        partial(_divergence, parts=(1, 1)),
        "Twice too large: each of the two divergences has a factor one half.",
    ),
    (lambda p, q: _divergence(p, q) / 2, "Twice too small: one half too many."),
    (
        partial(_divergence, parts=(1, 0)),
        "Only p is compared with the average: q must be, too, and each counts one half.",
    ),
    (
        partial(_divergence, parts=(0.5, 0)),
        "Only p is compared with the average: q must be, too.",
    ),
    (
        partial(_divergence, parts=(0, 1)),
        "Only q is compared with the average: p must be, too, and each counts one half.",
    ),
    (
        partial(_divergence, of_m=1),
        "Your m is the sum of p and q: it must be their average, half of that.",
    ),
    (
        partial(_divergence, parts=(1, 1), of_m=1),
        "Your m is the sum of p and q and must be their average; and each divergence counts half.",
    ),
    (
        lambda p, q: -_divergence(p, q),
        "The sign is turned round: a divergence is never negative.",
    ),
    (
        lambda p, q: math.sqrt(_divergence(p, q)),
        "That is the root, the Jensen–Shannon *distance*: square it.",
    ),
    (lambda p, q: _kl(p, q), "That is KL(p ‖ q): compare both with their average."),
    (lambda p, q: _kl(q, p), "That is KL(q ‖ p): compare both with their average."),
    (
        lambda p, q: (_kl(p, q) + _kl(q, p)) / 2,
        "p and q are compared with each other: compare both with their average.",
    ),
    (
        lambda p, q: _kl(p, q) + _kl(q, p),
        "p and q are compared with each other: compare both with their average.",
    ),
    (
        lambda p, q: (_kl((p + q) / 2, p) + _kl((p + q) / 2, q)) / 2,
        "The order within KL matters: it is KL(p ‖ m), not KL(m ‖ p).",
    ),
    (
        lambda p, q: np.abs(p - q).sum() / 2,
        "That is the total variation, half the sum of |p − q|: another distance.",
    ),
    (
        lambda p, q: _divergence(*(r * ((p > 0) & (q > 0)) for r in (p, q))),
        "Cells where only one of the two is 0 are left out altogether: the other still counts.",
    ),
]


# --- 2 · best D -----------------------------------------------------------------------------------


@exercise("08")
def smoothed_optimum(answer: Answer) -> str:
    """Check ``smoothed_optimum(p_data, p_model, real_target, fake_target)`` against the formula."""
    rng = np.random.default_rng(8)
    points = np.array([0.4, 0.1, 0.0, 0.3, 37.0]), np.array([0.1, 0.3, 0.5, 0.3, 2.0])
    wide = rng.uniform(0.05, 3, size=(3, 7)), rng.uniform(0.05, 3, size=(3, 7))
    edges = np.array([0.7, 0.0, 1e3]), np.array([0.0, 0.2, 0.3])
    plain, real, both = (
        [(1.0, 0.0)],
        [(0.9, 0.0), (0.7, 0.0)],
        [(0.9, 0.2), (0.6, 0.35), (1.0, 0.1)],
    )
    for targets, slips in ((plain, _PLAIN_SLIPS), (real, _SMOOTH_SLIPS), (both, _SMOOTH_SLIPS)):
        found: list[Found] = []
        for args in (
            (*densities, *target) for target in targets for densities in (points, wide, edges)
        ):
            expected = _optimum(*args)
            got = read_array(answer(*args), "smoothed_optimum", expected.shape)
            found.append((args, _settled(got, expected, 2e-4), expected))
        answer.judge(found, slips)
    answer.compare([points], _optimum)  # without targets
    return "no other D beats yours, for hard and for soft targets."


def _optimum(p_data: Array, p_model: Array, real: float = 1.0, fake: float = 0.0) -> Array:
    return np.asarray((real * p_data + fake * p_model) / (p_data + p_model))


_PLAIN_SLIPS: Slips = [
    (
        lambda d, g, r, f: g / (d + g),
        "With the targets 1 and 0 that is the share of the *model*: D says how likely real is.",
    ),
    (
        lambda d, g, r, f: d / g,
        "That is the ratio of the densities, which runs beyond 1: D is a share of their sum.",
    ),
    (
        lambda d, g, r, f: np.log(d / g),
        "That is D's logit: return D itself, a number between 0 and 1.",
    ),
    (
        lambda d, g, r, f: np.full_like(d, 0.5),
        "One half everywhere is right only where both densities are equal.",
    ),
    (lambda d, g, r, f: d, "That is the density of the data: D compares it with the model's."),
    (
        lambda d, g, r, f: (d > g).astype(float),
        "D is not a decision but a share: it may lie between 0 and 1.",
    ),
]

_SMOOTH_SLIPS: Slips = [
    (
        lambda d, g, r, f: r * d / (r * d + g),
        "The real samples are weighted by their target instead: the missing part still counts as a "
        "vote for fake, so it stays in the denominator.",
    ),
    (
        lambda d, g, r, f: (r * d + f * g) / (r * d + (1 - f) * g),
        "Numerator and denominator disagree: what does A + B become when all four terms are in?",
    ),
    (
        lambda d, g, r, f: r * d / (r * d + (1 - f) * g),
        "The samples are weighted by their targets instead: each sample votes for real with its "
        "target and for fake with the rest, and both belong into the denominator.",
    ),
    (
        lambda d, g, r, f: r * d / (d + g),
        "`fake_target` changes nothing in your optimum: a generated sample with target 0.2 votes "
        "0.2 for real.",
    ),
    (
        lambda d, g, r, f: (d + f * g) / (d + g),
        "`real_target` changes nothing in your optimum: a real sample with target 0.9 votes 0.1 "
        "for fake.",
    ),
    (
        lambda d, g, r, f: r * d / (d + g) + f,
        "`fake_target` is added everywhere: it counts as often as a sample is generated.",
    ),
    (
        lambda d, g, r, f: np.clip(d / (d + g), f, r),
        "The plain optimum is cut off at the targets: derive it anew for soft ones.",
    ),
    (
        lambda d, g, r, f: (r * d - f * g) / (d + g),
        "A sample with a fake target of 0.2 votes 0.2 *for* real: a sign is wrong.",
    ),
    (
        lambda d, g, r, f: _optimum(d, g, 1 - r, 1 - f),
        "That is how likely *fake* is: D says how likely real is.",
    ),
    (
        lambda d, g, r, f: _optimum(d, g, f, r),
        "The targets have changed places: `real_target` belongs to the data.",
    ),
]


# --- 3 · Dirac-GAN --------------------------------------------------------------------------------


@exercise("08")
def dirac_step(answer: Answer) -> str:
    """Check ``dirac_step(theta, psi, learning_rate, gamma)`` -> (theta, psi)."""
    free = [
        (1.0, 0.0, 0.1),
        (1.0, -1.0, 0.1),
        (-0.7, 1.9, 0.3),
        (2.3, 1.3, 0.07),
        (-3.1, -2.0, 0.2),
    ]
    free += [(0.0, 1.7, 0.3), (0.0, 0.0, 0.1), (5.0, -4.0, 0.5), (-0.02, 0.03, 0.9)]
    cases = [(*point, 0.0) for point in free]
    paid = [(*point, gamma) for point in free for gamma in (1.0, 0.3, 2.5)]
    found = [(args, _stepped(answer, *args)) for args in (*cases, *paid)]

    swapped = all(alike(got, _step(*args)[::-1]) for args, got in found)
    demand(not swapped, "The two have changed places: return (theta, psi).")
    for i, part in ((1, "psi"), (0, "theta")):
        without: list[Found] = [
            (args, got[i], _step(*args)[i]) for args, got in found if not args[3]
        ]
        every: list[Found] = [(args, got[i], _step(*args)[i]) for args, got in found]
        for rows in (without, every):
            answer.judge(rows, _step_slips(i), part)
    return "without the penalty the game circles, and with γ = 1 it comes to rest at (0, 0)."


def _stepped(answer: Answer, *args: float) -> tuple[float, float]:
    theta, psi = read_several(answer(*args), "dirac_step", ("theta", "psi"))
    return read_number(theta, "theta"), read_number(psi, "psi")


def _step(
    theta: float,
    psi: float,
    learning_rate: float,
    gamma: float,
    climb: float = 1.0,
    descend: float = 1.0,
    penalty: float = -1.0,
    paid_by_theta: float = 0.0,
    first: str = "",
    fake: Callable[[float], float] = lambda logit: 1 / (1 + math.exp(-logit)),
) -> tuple[float, float]:
    """One step, or with an option a mistake; ``first`` names who moves before the other looks."""

    def new_psi(theta: float) -> float:
        slope = -climb * theta * fake(psi * theta) + penalty * gamma * psi
        return psi + learning_rate * slope

    def new_theta(psi: float, logit: float) -> float:
        return theta + learning_rate * (descend * psi * fake(logit) - paid_by_theta * gamma * theta)

    moved_psi, moved_theta = new_psi(theta), new_theta(psi, psi * theta)
    if first == "psi":  # the printed code: σ from the old point, ψ from the new one
        moved_theta = new_theta(moved_psi, psi * theta)
    elif first == "psi at once":
        moved_theta = new_theta(moved_psi, moved_psi * theta)
    elif first == "theta at once":
        moved_psi = new_psi(moved_theta)
    elif first == "theta":
        slope = -climb * moved_theta * fake(psi * theta) + penalty * gamma * psi
        moved_psi = psi + learning_rate * slope
    return moved_theta, moved_psi


def _step_slips(i: int) -> Slips:
    rows = _PSI_SLIPS if i else _THETA_SLIPS
    return [(lambda *a, mistake=mistake: _step(*a, **mistake)[i], text) for mistake, text in rows]


_SIMULTANEOUS = "not simultaneous, as asked: keep the old number until both are computed"
_UP = "The discriminator *climbs* V, whose slope in ψ is −θ σ(ψθ); yours goes down"
_DOWN = "The generator *descends* V, whose slope in θ is −ψ σ(ψθ); yours climbs"
_OTHER_SIGN = "σ is taken of −ψθ: V holds log(1 − σ(ψθ)), and its slope σ(ψθ)"
_NO_PULL = "Your penalty pushes ψ away from 0: it is a cost, so its slope is subtracted"

_PSI_SLIPS: list[tuple[dict[str, Any], str]] = [
    ({"climb": -1.0}, f"{_UP}."),
    ({"penalty": 1.0}, f"{_NO_PULL}."),
    ({"penalty": -2.0}, "The penalty is twice too large: the derivative of γψ²/2 is γψ."),
    ({"penalty": -0.5}, "The penalty is half of what it should be: the derivative of γψ²/2 is γψ."),
    ({"penalty": 0.0}, "The penalty is missing: γ changes nothing in the step of ψ."),
    ({"first": "theta"}, f"ψ already sees the new θ: {_SIMULTANEOUS}."),
    ({"first": "theta at once"}, f"ψ already sees the new θ: {_SIMULTANEOUS}."),
    ({"fake": lambda x: 1 / (1 + math.exp(x))}, f"{_OTHER_SIGN}."),
    ({"fake": lambda x: 1.0}, "σ(ψθ) is missing from the step of ψ."),
    ({"fake": lambda x: 0.5}, "σ(ψθ) is one half only where the logit is 0."),
]

_THETA_SLIPS: list[tuple[dict[str, Any], str]] = [
    ({"descend": -1.0}, f"{_DOWN}."),
    ({"first": "psi"}, f"θ already sees the new ψ: {_SIMULTANEOUS}."),
    ({"first": "psi at once"}, f"θ already sees the new ψ: {_SIMULTANEOUS}."),
    (
        {"first": "psi", "descend": -1.0},
        f"{_DOWN}. And θ already sees the new ψ: {_SIMULTANEOUS}.",
    ),
    (
        {"first": "psi at once", "descend": -1.0},
        f"{_DOWN}. And θ already sees the new ψ: {_SIMULTANEOUS}.",
    ),
    (
        {"paid_by_theta": 1.0},
        "The penalty belongs to the discriminator's step: the generator does not pay it.",
    ),
    (
        {"paid_by_theta": -1.0},
        "The penalty belongs to the discriminator's step: the generator does not pay it.",
    ),
    (
        {"fake": lambda x: 1 / (1 + math.exp(x))},
        f"{_OTHER_SIGN}. (With σ(−ψθ) it is the non-saturating generator, another game.)",
    ),
    ({"fake": lambda x: 1.0}, "σ(ψθ) is missing from the step of θ."),
    ({"fake": lambda x: 0.5}, "σ(ψθ) is one half only where the logit is 0."),
    ({"descend": 0.0}, "θ never moves: both players take a step."),
]


# --- 4 · lost modes -------------------------------------------------------------------------------


@exercise("08")
def lost_modes(answer: Answer) -> str:
    """Check ``lost_modes(samples, centres, reach)`` on clouds whose lost modes are known."""
    found: list[tuple[Any, list[int], list[int]]] = []
    for args in _clouds():
        given = read_array(answer(*args), "lost_modes")
        case = answer.case(*args)
        demand(
            given.ndim == 1 and given.dtype != np.bool_ and alike(given, np.round(given)),
            f"{case}: return the indices of the lost modes in one row, and yours is an array of "
            f"{given.dtype} and shape {given.shape}.",
        )
        found.append((args, [int(mode) for mode in given], _lost(*args)))
    wrong = [row for row in found if row[1] != row[2]]
    if not wrong:
        return "empty, starved and missed modes are all reported, and no living one."
    demand(
        not all(sorted(got) == right for _, got, right in found),
        "These are the lost modes, in another order: ascending was asked for.",
    )
    for slip, sentence in _MODE_SLIPS:
        demand(not all(_same(got, slip, args) for args, got, _ in found), sentence)
    args, got, right = wrong[0]
    counts = [int(count) for count in _counts(*args)]
    share = len(args[0]) / len(args[1]) / 4
    raise CheckFailed(
        f"{answer.case(*args)}: the modes have {counts} samples of {len(args[0])}, and a quarter "
        f"of the fair share is {share:.4g}, so {right or 'none'} must be reported, and yours are "
        f"{cut(str(got), 60) if got else 'none'}."
    )


def _same(got: Sequence[int], slip: Callable[..., Iterable[int]], args: Sequence[Any]) -> bool:
    return list(got) == [int(mode) for mode in slip(*args)]


def _clouds() -> Iterable[tuple[Array, Array, float]]:
    rng = np.random.default_rng(8)
    five = 3.0 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [2, 2]]) + [0.7, -0.4]

    def cloud(counts: Sequence[int], centres: Array = five, spread: float = 0.1) -> Array:
        points = np.repeat(np.arange(len(counts)), counts)
        noise = spread * rng.uniform(-1, 1, size=(len(points), centres.shape[1]))
        return rng.permutation(centres[points] + noise)

    stray = five.mean(axis=0) + cloud([300], np.zeros((1, 2)))
    yield cloud([100, 90, 110, 95, 105]), five, 0.5
    yield cloud([200, 0, 150, 150, 0]), five, 0.5
    yield cloud([3, 200, 150, 150, 100]), five, 0.5
    yield cloud([200, 40, 150, 150, 60]), five, 0.5
    yield cloud([200, 24, 26, 130, 120]), five, 0.5  # a quarter of the fair share is 25
    yield stray, five, 0.5  # between all modes
    yield np.vstack([stray, stray, stray, cloud([10, 8, 12, 9, 70])]), five, 0.5
    # 4 of 80 are exactly a quarter of the fair share, 3 are less.
    yield cloud([30, 4, 3, 25, 18]), five, 0.5
    # Two centres so near that a sample may reach both; it belongs to the nearer.
    yield cloud([50, 0, 41], np.array([[0.0, 0, 0], [1, 0, 0], [0, 9, 0]])), _NEAR, 1.5
    # Samples of modes 0 and 1 lie 5 away, exactly at the reach; those of mode 2 a little farther.
    rim = np.array([[3.0, 4], [-3, 4], [4, -3], [5, 0]])
    yield np.vstack([_FAR[0] + rim, _FAR[1] + rim, _FAR[2] + 1.1 * rim]), _FAR, 5.0
    # A reach that is larger than 1 and one that is smaller, so that the root cannot be forgotten.
    yield np.vstack([_FAR[i] + size * rim for i, size in enumerate((0.38, 0.3, 0.5))]), _FAR, 2.0
    yield np.vstack([_FAR[i] + size * rim for i, size in enumerate((0.1, 0.12, 0.04))]), _FAR, 0.4
    # At |x| + |y| and at max(|x|, |y|) the answer would be another.
    slanted = np.array([[3.0, 3.0], [-3.0, 3.1], [2.9, -3.0]])
    yield np.vstack([_FAR[0] + slanted, _FAR[1] + 1.5 * slanted, _FAR[2] + rim]), _FAR, 5.0
    yield cloud([20, 2, 9], np.array([[-4.0], [0], [5]])), np.array([[-4.0], [0], [5]]), 0.7
    yield cloud([5, 7], np.array([[1.0, 2], [8, 8]])), np.array([[1.0, 2]]), 1.0  # one centre
    yield cloud([8, 1], five[:2]), five[:2], 0.5  # a fair share of 4.5


_NEAR = np.array([[0.0, 0, 0], [1, 0, 0], [0, 9, 0]])
_FAR = np.array([[0.0, 40], [40, 0], [0, -40]])


def _distances(samples: Array, centres: Array) -> Array:
    return np.asarray(np.linalg.norm(samples[:, None] - centres, axis=-1))


def _counts(
    samples: Array,
    centres: Array,
    reach: float,
    distances: Callable[[Array, Array], Array] = _distances,
    nearest: bool = True,
    close: Callable[[Array, float], Array] = np.less_equal,
) -> Array:
    """How many samples belong to each centre."""
    far = distances(samples, centres)
    belongs = close(far, reach)
    if nearest:
        belongs = belongs & (np.arange(len(centres)) == far.argmin(axis=1)[:, None])
    return np.asarray(belongs.sum(axis=0))


def _lost(
    samples: Array,
    centres: Array,
    reach: float,
    quarter: float = 0.25,
    share_of: str = "all",
    below: Callable[[Array, float], Array] = np.less,
    **how: Any,
) -> list[int]:
    counts = _counts(samples, centres, reach, **how)
    of = {"all": len(samples), "close": counts.sum(), "largest": counts.max() * len(centres)}
    lost = below(counts, quarter * of[share_of] / len(centres))
    return [int(mode) for mode in np.flatnonzero(lost)]


def _without_last(samples: Array, centres: Array, reach: float) -> list[int]:
    far = _distances(samples, centres)
    counts = np.bincount(far.argmin(axis=1)[far.min(axis=1) <= reach])
    return [int(m) for m in np.flatnonzero(counts < 0.25 * len(samples) / len(centres))]


_MODE_SLIPS: list[tuple[Callable[..., list[int]], str]] = [
    (
        partial(_lost, close=lambda far, reach: far < np.inf),
        "A sample that is far from every centre still counts in yours: it belongs to a mode only "
        "within `reach`.",
    ),
    (
        partial(_lost, nearest=False),
        "A sample counts for every centre that it reaches: it belongs to the nearest alone.",
    ),
    (
        partial(_lost, share_of="close"),
        "The fair share is a share of *all* samples, also of those that belong to no mode.",
    ),
    (
        partial(_lost, share_of="largest"),
        "Yours compares with the largest mode: the fair share is n / m.",
    ),
    (
        partial(_lost, below=np.less_equal),
        "A mode with exactly a quarter of the fair share is not lost: it must have *less*.",
    ),
    (
        partial(_lost, close=np.less),
        "A sample that is exactly `reach` away still belongs: it may be no *farther* away.",
    ),
    (partial(_lost, quarter=1.0), "A mode is lost below a *quarter* of its fair share."),
    (partial(_lost, quarter=0.5), "A mode is lost below a *quarter*, not below a half."),
    (
        lambda samples, centres, reach: [
            int(m) for m in np.flatnonzero(_counts(samples, centres, reach) == 0)
        ],
        "Only modes without any sample are reported: a few samples do not make a mode alive.",
    ),
    (
        _without_last,
        "The last modes are not reported when they are empty: count up to the last centre.",
    ),
    (
        partial(_lost, quarter=0.25, distances=lambda s, c: np.abs(s[:, None] - c).sum(-1)),
        "Your distance is the sum of |Δ| over the axes: take the root of the sum of squares.",
    ),
    (
        partial(_lost, distances=lambda s, c: np.abs(s[:, None] - c).max(-1)),
        "Your distance is the largest |Δ| of all axes: take the root of the sum of squares.",
    ),
    (
        partial(_lost, distances=lambda s, c: _distances(s, c) ** 2),
        "The *squared* distance is compared with `reach`: take the root.",
    ),
    (
        lambda *a: [mode + 1 for mode in _lost(*a)],
        "The modes are counted from 1: indices begin with 0.",
    ),
    (
        lambda *a: [mode for mode in range(len(a[1])) if mode not in _lost(*a)],
        "These are the living modes: the lost ones were asked for.",
    ),
]
