"""Checkers and hints of lesson 06's exercises (seeds, log scale, pairs, halving)."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints

HINTS: HintTable = {
    "seeds_needed": (
        "Which standard error must a difference reach before you believe it?",
        "The standard error of the difference of two means of n runs is sd · √(2/n). Ask for "
        "difference = 2 standard errors and solve for n.",
        "n = 8 · (sd / difference)², rounded up; and a group of one run shows no spread.",
    ),
    "draw_rates": (
        "What should be spread evenly: the rates, or their numbers of zeros?",
        "Draw the logarithm evenly between the logarithms of low and high, then go back.",
        "np.exp(rng.uniform(…, …, size=n)): which two numbers bound it?",
    ),
    "sign_flip_test": (
        "If the knob does nothing, a pair's difference might just as well have the other sign.",
        "Take the n differences, put every pattern of signs before them (itertools.product((1, "
        "-1), repeat=n)), and see which patterns have a mean at least as far from zero.",
        "share = mean over all 2^n patterns of abs((signs * d).mean()) >= abs(d.mean()) - 1e-12; "
        "the pattern you saw is one of them.",
    ),
    "successive_halving": (
        "Keep a list of the settings that are still in the race; each round only they go on.",
        "In a round each survivor is trained from where it stands to the round's mark, which costs "
        "the difference; then sort them by loss and keep len // eta of them.",
        "for part in parts: cost += len(alive) * (part - reached); reached = part; sort alive by "
        "loss_after(i, part); after the last round the first of them has won.",
    ),
}

Numbers = NDArray[np.float64]


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def seeds_needed(function: Callable[..., Any]) -> None:
    """Check ``seeds_needed(sd, difference)``: the smallest group that shows a difference."""
    for sd, difference in ((0.02, 0.015), (0.015, 0.011), (0.3, 0.11)):
        n = function(sd, difference)
        answered(n, "seeds_needed")
        demand(
            isinstance(n, int | np.integer) and not isinstance(n, bool),
            f"`seeds_needed` must return a whole number of runs, not {n!r}.",
        )
        exact = 8 * (sd / difference) ** 2
        right = math.ceil(exact)
        case = f"For a noise of {sd} and a difference of {difference}"
        demand(
            n != math.ceil(exact / 2),
            f"{case} you get {n}: that is enough for the mean of one group, but a difference has "
            "the noise of two.",
        )
        demand(
            n != math.ceil(exact / 4),
            f"{case} you get {n}: the difference is then one standard error, and it must be two.",
        )
        demand(
            n != math.floor(exact),
            f"{case} you get {n}, just too few: round up.",
        )
        demand(
            n >= right,
            f"{case} you get {n}: with that few, the difference is less than two standard errors.",
        )
        demand(n == right, f"{case} you get {n}, and fewer runs would do.")
    n = function(0.001, 1.0)
    demand(n >= 2, "A group of one run shows no spread at all: return at least 2.")
    demand(n == 2, "A difference that dwarfs the noise needs two runs each and no more.")
    praise("half the difference costs four times the runs.")


def draw_rates(function: Callable[..., Any]) -> None:
    """Check ``draw_rates(low, high, n, rng)``: even over factors, inside the bounds."""
    low, high, n = 1e-4, 1e-1, 3_000
    drawn = function(low, high, n, np.random.default_rng(1))
    answered(drawn, "draw_rates")
    rates = _array(drawn, "draw_rates")
    demand(
        rates.shape == (n,), f"`draw_rates` must return {n} rates, and the shape is {rates.shape}."
    )
    again = _array(function(low, high, n, np.random.default_rng(1)), "draw_rates")
    demand(
        np.array_equal(rates, again),
        "Equal generators must give equal rates: draw with the `rng` that is passed in.",
    )
    demand((rates > 0).all(), "Some rates are not positive: go back from logarithms with exp.")
    demand(
        rates.min() >= low * (1 - 1e-9) and rates.max() <= high * (1 + 1e-9),
        f"The rates run from {rates.min():.2g} to {rates.max():.2g} and must stay between low and "
        "high.",
    )
    edges = np.array([1e-4, 1e-3, 1e-2, 1e-1])
    shares = np.histogram(rates, edges * [1 - 1e-9, 1, 1, 1 + 1e-9])[0] / n
    demand(
        shares[2] < 0.8,
        f"{shares[2]:.0%} of the rates lie in the top one of three decades: they are spread over "
        "values, not over factors.",
    )
    demand(
        len(np.unique(rates)) > n / 2,
        "The same few rates come again and again: draw from the whole range, not from a list.",
    )
    demand(
        np.abs(shares - 1 / 3).max() < 0.05,
        "Each of the three decades must get a third of the rates, and they get "
        f"{', '.join(f'{share:.0%}' for share in shares)}.",
    )
    other = _array(function(0.2, 0.8, n, np.random.default_rng(2)), "draw_rates")
    demand(
        abs(np.median(other) - 0.4) < 0.03,
        "Between 0.2 and 0.8 half of the rates must lie below 0.4, twice the one and half the "
        "other.",
    )
    praise("every factor of ten gets the same attention.")


def sign_flip_test(function: Callable[..., Any]) -> None:
    """Check ``sign_flip_test(a, b)``: the exact two-sided test for pairs."""
    cases = (
        (np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.8, 2.9, 3.2])),
        (np.array([4.2, 4.0, 4.4, 4.1, 4.3]), np.array([4.0, 4.1, 4.1, 4.0, 4.15])),
    )
    for a, b in cases:
        p = _number(function(a, b), "sign_flip_test")
        gaps = _gaps(a - b)
        seen = abs((a - b).mean())
        right = float((np.abs(gaps) >= seen - 1e-12).mean())
        demand(0 <= p <= 1, f"A p-value lies between 0 and 1, and this one is {p:.3g}.")
        demand(p > 0, "p is 0: the pattern of signs that you saw is one of those that count.")
        one_sided = float((gaps >= seen - 1e-12).mean())
        demand(
            not _close(p, one_sided),
            "That looks at one side only: a difference of the other sign would have surprised you "
            "as much, so compare absolute values.",
        )
        demand(
            not _close(p, right - 2 / len(gaps)),
            "Patterns that lie exactly as far out as what you saw count too; mind the rounding.",
        )
        demand(
            not _close(p, _unpaired(a, b)),
            "That deals all runs into two new groups and forgets who belongs to whom: flip the "
            "signs of the pairs' differences instead.",
        )
        demand(
            _close(p, right),
            f"For the differences {np.round(a - b, 2).tolist()} p is {right:.4g} of all sign "
            f"patterns, and you get {p:.4g}.",
        )
    swapped = _number(function(cases[1][1], cases[1][0]), "sign_flip_test")
    demand(
        _close(swapped, _number(function(*cases[1]), "sign_flip_test")),
        "Swapping the two groups must not change p.",
    )
    praise("pairs take out what both runs of a pair share; five of them reach 2/32 at best.")


def successive_halving(function: Callable[..., Any]) -> None:
    """Check ``successive_halving(loss_after, n_settings, parts, eta)`` -> (winner, cost)."""
    dice = np.random.default_rng(6)
    for n, parts, eta in ((27, (1, 3, 9), 3), (16, (1, 2, 4, 8), 2), (10, (1, 3, 9), 3)):
        quality = dice.permutation(n) / n
        early = {part: quality + dice.normal(size=n) / (4 * part) for part in parts}
        asked: set[tuple[int, int]] = set()

        def loss_after(
            i: int,
            part: int,
            early: dict[int, Numbers] = early,
            asked: set[tuple[int, int]] = asked,
        ) -> float:
            asked.add((int(i), int(part)))
            return float(early[part][i])

        answer = function(loss_after, n, parts, eta)
        answered(answer, "successive_halving")
        demand(
            isinstance(answer, tuple | list) and len(answer) == 2,
            "`successive_halving` must return two numbers: the winner and the cost.",
        )
        winner, cost = answer
        rounds, right_cost, restarted = _halve(early, n, parts, eta)
        sizes = {part: len({i for i, at in asked if at == part}) for part in parts}
        case = f"With {n} settings, rounds {parts} and eta {eta}"
        demand(
            sizes[parts[0]] == n,
            f"{case} the first round must look at all {n}, and you look at {sizes[parts[0]]}.",
        )
        for part, alive in rounds.items():
            demand(
                sizes[part] <= len(alive),
                f"{case} only {len(alive)} may be trained as far as {part}, and you train "
                f"{sizes[part]}: that is what the others are stopped for.",
            )
            demand(
                {i for i, at in asked if at == part} == set(alive),
                f"{case} the wrong ones are trained as far as {part}: the lowest losses go on, "
                "len // eta of them and at least one.",
            )
        best = min(rounds[parts[-1]], key=lambda i: early[parts[-1]][i])
        demand(
            winner == best,
            f"{case} setting {best} has the lowest loss of those that reach the last round, and "
            f"you name {winner}.",
        )
        demand(
            cost != restarted,
            f"{case} you pay {cost}: a survivor goes on from where it stands and does not start "
            "again.",
        )
        demand(
            cost == right_cost,
            f"{case} the cost is {right_cost} parts, and you count {cost}.",
        )
    praise("27 settings for 63 parts; to train all of them would cost 243.")


def _halve(
    early: dict[int, Numbers], n: int, parts: tuple[int, ...], eta: int
) -> tuple[dict[int, list[int]], int, int]:
    """Who is alive in each round, the cost, and the cost if every round began anew."""
    alive, rounds, cost, restarted, reached = list(range(n)), {}, 0, 0, 0
    for part in parts:
        rounds[part] = alive
        cost += len(alive) * (part - reached)
        restarted += len(alive) * part
        reached = part
        ranked = sorted(alive, key=lambda i, part=part: early[part][i])  # type: ignore[misc]
        alive = ranked[: max(1, len(alive) // eta)]
    return rounds, cost, restarted


def _gaps(differences: Numbers) -> Numbers:
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return (signs * differences).mean(axis=1)


def _unpaired(a: Numbers, b: Numbers) -> float:
    both = np.concatenate([a, b])
    deals = np.array(list(itertools.combinations(range(len(both)), len(a))))
    sums = both[deals].sum(axis=1)
    gaps = np.abs(sums / len(a) - (both.sum() - sums) / len(b))
    return float((gaps >= abs(a.mean() - b.mean()) - 1e-12).mean())


def _array(value: Any, name: str) -> Numbers:
    answered(value, name)
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        demand(False, f"`{name}` must return an array of numbers.")
        raise


def _number(value: Any, name: str) -> float:
    answered(value, name)
    try:
        return float(value)
    except (TypeError, ValueError):
        demand(False, f"`{name}` must return one number, not {value!r}.")
        raise


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
