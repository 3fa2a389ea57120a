"""Checkers and hints of lesson 06's exercises (seeds, log scale, pairs, halving)."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils import lab
from aigc_utils.checks import (
    Answer,
    HintTable,
    Slips,
    demand,
    exercise,
    read_array,
    read_number,
    read_several,
    read_whole,
    show_hint,
    show_hints,
)

HINTS: HintTable = {
    "seeds_needed": (
        "Which standard error must a difference reach before you believe it?",
        "The standard error of the difference of two means of n runs is sd · √(2/n). Ask for "
        "difference = 2 standard errors and solve for n.",
        "n grows with the square of sd / difference, and the factor before it comes from squaring "
        "the 2 and the root. Then: whole runs, and what does a group of one run show?",
    ),
    "draw_rates": (
        "What should be spread evenly: the rates, or their numbers of zeros?",
        "Draw the logarithm evenly between the logarithms of low and high, then go back.",
        "rng.uniform takes two bounds and a size; which function undoes the logarithm afterwards?",
    ),
    "sign_flip_test": (
        "If the knob does nothing, a pair's difference might just as well have the other sign.",
        "Take the n differences, put every pattern of signs before them (itertools.product((1, "
        "-1), repeat=n)), and see which patterns have a mean at least as far from zero.",
        "The pattern you saw is one of them, so p is never 0; two sums of the same numbers may "
        "differ in the last digit, so leave 1e-12 of room when you compare.",
    ),
    "successive_halving": (
        "Keep a list of the settings that are still in the race; each round only they go on.",
        "In a round each survivor is trained from where it stands to the round's mark, which costs "
        "the difference; then sort them by loss and keep len // eta of them.",
        "Three things change from round to round: who is alive, what has been paid, and how far "
        "the survivors are. After the last round nobody is dropped: who is first?",
    ),
}

Numbers = NDArray[np.float64]
Losses = dict[int, Numbers]  # of every setting, by the mark

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · seeds ------------------------------------------------------------------------------------


@exercise("06")
def seeds_needed(answer: Answer) -> str:
    """Check ``seeds_needed(sd, difference)``: the smallest group that shows a difference."""
    # At 3.5 and 7 standard deviations the bound is a whole number, however it is computed.
    cases = [
        (0.02, 0.015),
        (0.015, 0.011),
        (0.3, 0.11),
        (7.0, 2.0),
        (3.5, 1.0),
        (3.1, 1.6),
        (0.9, 0.021),
    ]
    cases += [(0.001, 1.0), (0.2, 0.5), (1.3, 3.1)]
    for sd, difference in cases:
        read_whole(answer(sd, difference), "seeds_needed")
    answer.compare(cases, _seeds, _SEEDS_SLIPS)
    return "half the difference costs four times the runs."


def _seeds(
    sd: float,
    difference: float,
    factor: float = 8.0,
    whole: Callable[[float], int] = math.ceil,
    least: int = 2,
    power: int = 2,
) -> int:
    return max(least, whole(factor * (sd / difference) ** power))


_SEEDS_SLIPS: Slips = [
    (partial(_seeds, least=1), "A group of one run shows no spread at all: return at least 2."),
    (partial(_seeds, least=0), "A group of one run shows no spread at all: return at least 2."),
    (
        partial(_seeds, least=3),
        "A difference that dwarfs the noise needs two runs each and no more.",
    ),
    (
        partial(_seeds, factor=4),
        "That is enough for the mean of one group, but a difference has the noise of two.",
    ),
    (
        partial(_seeds, factor=2),
        "The difference is then one standard error, and it must be two.",
    ),
    (
        partial(_seeds, factor=1),
        "The difference is then one standard deviation of the mean of one group; it must be two "
        "standard errors of a difference of two means.",
    ),
    (
        partial(_seeds, factor=16),
        "That counts the runs of both settings together, and the question is how many for each.",
    ),
    (partial(_seeds, whole=math.floor), "Just too few: round up."),
    (partial(_seeds, whole=math.floor, least=1), "Just too few: round up."),
    (partial(_seeds, whole=round), "Rounding to the nearest is just too few at times: round up."),
    (
        partial(_seeds, whole=lambda x: int(x) + 1),
        "Where the bound is a whole number, that many runs do: int(…) + 1 asks for one more.",
    ),
    (
        partial(_seeds, power=1),
        "The standard error falls with the root of n, so n grows with the square.",
    ),
    (
        lambda sd, difference: _seeds(difference, sd),
        "The more noise, the more runs: sd and difference have changed places.",
    ),
]


# --- 2 · rates ------------------------------------------------------------------------------------


@exercise("06")
def draw_rates(answer: Answer) -> str:
    """Check ``draw_rates(low, high, n, rng)``: even over factors, inside the bounds."""
    for low, high, n in ((1e-4, 1e-1, 3_000), (0.2, 0.8, 2_000), (3e-5, 2.0, 2_500)):
        rates = _rates(answer, low, high, n, seed=1)
        demand((rates > 0).all(), "Some rates are not positive: go back from logarithms with exp.")
        demand(
            rates.min() >= low * (1 - 1e-9) and rates.max() <= high * (1 + 1e-9),
            f"Between {low:g} and {high:g} the rates run from {rates.min():.3g} to "
            f"{rates.max():.3g}: they must stay between low and high.",
        )
        demand(
            np.array_equal(rates, _rates(answer, low, high, n, seed=1)),
            "Equal generators must give equal rates: draw with the `rng` that is passed in.",
        )
        others = _rates(answer, low, high, n, seed=2)
        demand(
            not np.array_equal(rates, others),
            "Every generator gives the same rates: draw with the `rng` that is passed in.",
        )
        demand(
            not np.allclose(np.sort(rates), np.sort(others), rtol=1e-9),
            "Every generator gives the same rates, in another order: that shuffles a grid; draw "
            "each rate afresh.",
        )
        demand(
            len(np.unique(rates)) > n / 2,
            "The same few rates come again and again: draw from the whole range, not from a list.",
        )
        middle = math.sqrt(low * high)
        uneven = _unevenness(np.log(rates), math.log(low), math.log(high)) > 0.05
        demand(
            not (uneven and _unevenness(rates, low, high) < 0.05),
            f"Between {low:g} and {high:g} the rates are spread evenly over values, not over "
            f"factors: half of them should lie below {middle:.2g}, and half lie below "
            f"{np.median(rates):.2g}.",
        )
        demand(
            not uneven,
            f"Between {low:g} and {high:g} the rates are not spread evenly over factors: "
            f"{(rates < middle).mean():.0%} of them lie below {middle:.2g}, which should be half; "
            "look at the ends, too.",
        )
    _rates(answer, 1e-4, 1e-1, 7, seed=3)
    single = np.concatenate([_rates(answer, 1e-4, 1e-1, 1, seed) for seed in range(300)])
    demand(
        _unevenness(np.log(single), math.log(1e-4), math.log(1e-1)) < 0.15,
        "Drawn one by one (n = 1), each with a generator of its own, the rates do not spread over "
        "the range: each must be a draw from all of it.",
    )
    return "every factor of ten gets the same attention."


def _rates(answer: Answer, low: float, high: float, n: int, seed: int) -> Numbers:
    value = answer(low, high, n, np.random.default_rng(seed))
    return read_array(value, "draw_rates", (n,)).astype(np.float64)


def _unevenness(drawn: Numbers, low: float, high: float) -> float:
    """The largest gap between the share that was drawn below a point and an even spread's."""
    shares = (np.sort(drawn) - low) / (high - low)
    return float(np.abs(shares - (np.arange(len(shares)) + 0.5) / len(shares)).max())


# --- 3 · pairs ------------------------------------------------------------------------------------


@exercise("06")
def sign_flip_test(answer: Answer) -> str:
    """Check ``sign_flip_test(a, b)``: the exact two-sided test for pairs."""
    rng = np.random.default_rng(2)
    cases = [
        (np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.8, 2.9, 3.2])),
        (np.array([4.2, 4.0, 4.4, 4.1, 4.3]), np.array([4.0, 4.1, 4.1, 4.0, 4.15])),
        (np.array([4.0, 4.1, 4.1, 4.0, 4.15]), np.array([4.2, 4.0, 4.4, 4.1, 4.3])),
        (np.array([2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0])),  # all ties
        (np.array([0.1, 0.2, -0.3, 0.05]), np.zeros(4)),  # a tie, but 0.1 + 0.2 is not 0.3
        (np.array([4e-8, 1e-8, 2e-8]), np.zeros(3)),  # small, but no ties
        (np.array([1.0, 1e-4, 0.5]), np.zeros(3)),
        (rng.normal(size=7), rng.normal(size=7)),
        (rng.normal(size=9), rng.normal(0.5, size=9)),
    ]
    for a, b in cases:
        p = read_number(answer(a, b), "sign_flip_test")
        demand(p > 0, "p is 0: the pattern of signs that you saw is one of those that count.")
        demand(
            p <= 1 + 1e-9,
            f"A p-value is a share of the patterns, between 0 and 1, and this one is {p:.4g}.",
        )
    answer.compare(cases, _flips, _FLIP_SLIPS)
    return "pairs take out what both runs of a pair share; five of them reach 2/32 at best."


def _flips(
    a: Numbers,
    b: Numbers,
    counts: Callable[[Numbers, float], Any] = lambda gaps, seen: np.abs(gaps) >= abs(seen) - 1e-12,
) -> float:
    return float(np.mean(counts(_gaps(a - b), (a - b).mean())))


def _unpaired(a: Numbers, b: Numbers) -> float:
    return float(lab.permutation_test(a, b))


_FLIP_SLIPS: Slips = [
    (
        partial(_flips, counts=lambda gaps, seen: gaps >= seen - 1e-12),
        "That looks at one side only: a difference of the other sign would have surprised you as "
        "much, so compare absolute values.",
    ),
    (
        partial(_flips, counts=lambda gaps, seen: gaps >= abs(seen) - 1e-12),
        "That looks at one side only: a pattern as far *below* zero would have surprised you as "
        "much, so compare absolute values; the 2^n patterns hold both sides.",
    ),
    (
        partial(_flips, counts=lambda gaps, seen: gaps <= seen + 1e-12),
        "That looks at one side only: compare absolute values.",
    ),
    (
        partial(_flips, counts=lambda gaps, seen: np.abs(gaps) > abs(seen) + 1e-12),
        "Patterns that lie exactly as far out as what you saw count too.",
    ),
    (
        partial(_flips, counts=lambda gaps, seen: np.abs(gaps) >= abs(seen)),
        "Patterns that lie exactly as far out as what you saw count, and rounding hides some: "
        "leave 1e-12 of room.",
    ),
    (
        partial(_flips, counts=lambda gaps, seen: np.abs(gaps) < abs(seen) - 1e-12),
        "That is the share of patterns that lie nearer to zero: p is the share of the others.",
    ),
    (
        _unpaired,
        "That deals all runs into two new groups and forgets who belongs to whom: flip the signs "
        "of the pairs' differences instead.",
    ),
]


def _gaps(differences: Numbers) -> Numbers:
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return (signs * differences).mean(axis=1)


# --- 4 · halving ----------------------------------------------------------------------------------


@exercise("06")
def successive_halving(answer: Answer) -> str:
    """Check ``successive_halving(loss_after, n_settings, parts, eta)`` -> (winner, cost)."""
    rng = np.random.default_rng(6)
    for n, parts, eta in (
        (27, (1, 3, 9), 3),
        (16, (1, 2, 4, 8), 2),
        (11, (1, 3, 9), 3),  # 11 // 3 is 3, and 11 / 3 nearer to 4
        (23, (2, 5, 11), 4),
        (2, (1, 3, 9), 3),
        (7, (4,), 2),
    ):
        quality = rng.permutation(n) / n
        losses = {part: quality + rng.normal(size=n) / (4 * part) for part in parts}
        if eta == 4:  # settings that are nearly as good
            losses = {part: loss / 100 for part, loss in losses.items()}
        _judge_race(answer, losses, n, parts, eta)
    return "27 settings for 63 parts; to train all of them would cost 243."


def _judge_race(answer: Answer, losses: Losses, n: int, parts: tuple[int, ...], eta: int) -> None:
    asked: dict[int, set[int]] = {part: set() for part in parts}

    def loss_after(i: int, part: int) -> float:
        demand(
            part in asked and i in range(n),
            f"{case} `loss_after({i!r}, {part!r})` is asked for, and there is no such setting or "
            "mark.",
        )
        asked[part].add(int(i))
        return float(losses[part][i])

    case = f"With {n} settings, marks {parts} and eta {eta}:"
    value = answer(loss_after, n, parts, eta)
    winner, cost = read_several(value, "successive_halving", ("winner", "cost"))
    rounds, right_cost, restarted = _halve(losses, n, parts, eta)
    demand(
        asked[parts[0]] == set(range(n)),
        f"{case} the first round must look at all {n}, and you look at {len(asked[parts[0]])}.",
    )
    for part, alive in rounds.items():
        demand(
            len(asked[part]) <= len(alive),
            f"{case} only {len(alive)} may be trained as far as {part}, and you train "
            f"{len(asked[part])}: after a round len // eta of its survivors go on, at least one.",
        )
        demand(
            len(asked[part]) >= len(alive),
            f"{case} {len(alive)} are trained as far as {part}, and you train {len(asked[part])}: "
            "after a round len // eta of its survivors go on, at least one.",
        )
        demand(
            asked[part] == set(alive),
            f"{case} the wrong ones are trained as far as {part}: the *lowest* losses go on.",
        )
    best = min(rounds[parts[-1]], key=lambda i: losses[parts[-1]][i])
    named = read_whole(winner, "winner")
    demand(
        named == best,
        f"{case} setting {best} has the lowest loss of those that reach the last round, and you "
        f"name {named}.",
    )
    counted = read_number(cost, "cost")
    demand(
        counted == right_cost or counted != restarted,
        f"{case} you pay {counted:g}: a survivor goes on from where it stands and does not start "
        "again.",
    )
    demand(
        counted == right_cost, f"{case} the cost is {right_cost} parts, and you count {counted:g}."
    )


def _halve(
    losses: Losses, n: int, parts: tuple[int, ...], eta: int
) -> tuple[dict[int, list[int]], int, int]:
    """Who is alive in each round, the cost, and the cost if every round began anew."""
    alive, rounds, cost, restarted, reached = list(range(n)), {}, 0, 0, 0
    for part in parts:
        rounds[part] = alive
        cost += len(alive) * (part - reached)
        restarted += len(alive) * part
        reached = part
        ranked = sorted(alive, key=lambda i, part=part: losses[part][i])  # type: ignore[misc]
        alive = ranked[: max(1, len(alive) // eta)]
    return rounds, cost, restarted
