"""Lesson 06: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import heapq
import itertools
import math
from fractions import Fraction

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils import lab
from aigc_utils.checks import hyperparameters as check


@functools.cache
def space():
    """What the cells above an answer define, without the figures."""

    class Nothing:
        def __getattr__(self, name):
            return lambda *arguments, **options: None

    return {
        **{"np": np, "math": math, "itertools": itertools, "lab": lab, "plt": Nothing()},
        "runs": lab.records("knobs"),
        "rng": np.random.default_rng(1),
    }


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, dict(space()))


# --- 1 · seeds ------------------------------------------------------------------------------------


def seeds(factor=8, *, rounded=math.ceil, least=2, power=2):
    return lambda sd, difference: max(least, rounded(factor * (sd / difference) ** power))


def seeds_by_search(sd, difference):
    n = 2
    while 2 * sd * np.sqrt(2 / n) > difference * (1 + 1e-12):
        n += 1
    return n


def seeds_exactly(sd, difference):
    return max(2, math.ceil(2 * (2 * Fraction(str(sd)) / Fraction(str(difference))) ** 2))


def seeds_to_the_last_bit(sd, difference):
    return max(2, math.ceil(8 * Fraction(sd) ** 2 / Fraction(difference) ** 2))


def seeds_of_numpy(sd, difference):
    return np.maximum(2, np.ceil(8 * np.square(sd / difference)))


def seeds_by_variance(sd, difference):
    variance_of_difference = (difference / 2) ** 2
    n = math.ceil(2 * sd**2 / variance_of_difference)
    return n if n > 2 else 2


# --- 2 · rates ------------------------------------------------------------------------------------


def rates_by_ten(low, high, n, rng):
    return 10 ** rng.uniform(np.log10(low), np.log10(high), n)


def rates_by_ratio(low, high, n, rng):
    return low * (high / low) ** rng.random(n)


def rates_one_by_one(low, high, n, rng):
    return [math.exp(rng.uniform(math.log(low), math.log(high))) for _ in range(n)]


def rates_of_torch(low, high, n, rng):
    return torch.exp(torch.tensor(rng.uniform(math.log(low), math.log(high), n)))


def rates_of_a_sorted_kind(low, high, n, rng):
    return np.sort(np.exp2(rng.uniform(np.log2(low), np.log2(high), (n, 1))[:, 0]))


def rates_even(low, high, n, rng):
    return rng.uniform(low, high, n)


def rates_on_a_grid(low, high, n, rng):
    return np.geomspace(low, high, n)


def rates_of_a_shuffled_grid(low, high, n, rng):
    return rng.permutation(np.geomspace(low, high, n))


def rates_of_a_shaken_grid(low, high, n, rng):
    shaken = rng.permutation(np.geomspace(low, high, n)) * rng.uniform(0.999, 1.001, n)
    return shaken.clip(low, high)


def rates_of_an_own_generator(low, high, n, rng):
    return rates_by_ratio(low, high, n, np.random.default_rng(0))


def rates_of_global_chance(low, high, n, rng):
    return np.exp(np.random.uniform(np.log(low), np.log(high), n))  # noqa: NPY002


def rates_in_logs(low, high, n, rng):
    return rng.uniform(math.log(low), math.log(high), n)


def rates_from_a_list(low, high, n, rng):
    return rng.choice(np.geomspace(low, high, 10), n)


def rates_to_the_wrong_base(low, high, n, rng):
    return np.exp(rng.uniform(np.log10(low), np.log10(high), n))


def rates_squared(low, high, n, rng):
    return low + (high - low) * rng.random(n) ** 2


def rates_of_a_bell(low, high, n, rng):
    middle, width = math.log(low * high) / 2, math.log(high / low) / 2
    return np.exp(np.clip(rng.normal(middle, width / 3, n), math.log(low), math.log(high)))


def rates_too_high(low, high, n, rng):
    return high * (high / low) ** rng.random(n)


def one_rate(low, high, n, rng):
    return np.exp(rng.uniform(math.log(low), math.log(high)))


# --- 3 · pairs ------------------------------------------------------------------------------------


def flips(*, side=abs, strict=False, own=True, room=1e-12, times=1.0, other=False):
    """A sign-flip test with one thing wrong."""

    def test(a, b):
        d = np.asarray(a) - np.asarray(b)
        signs = np.array(list(itertools.product((1, -1), repeat=len(d))))[0 if own else 1 :]
        means, seen = side((signs * d).mean(axis=1)), side(d.mean())
        far = means > seen + room if strict else means >= seen - room
        return times * (~far if other else far).mean()

    return test


def flips_recursive(a, b):
    d = [x - y for x, y in zip(a, b, strict=True)]

    def totals(rest):
        return [0.0] if not rest else [s + t for t in totals(rest[1:]) for s in (rest[0], -rest[0])]

    sums = totals(d)
    return sum(abs(s) >= abs(sum(d)) - 1e-9 for s in sums) / len(sums)


def flips_of_bits(a, b):
    d, count = np.array(a) - np.array(b), 0
    for code in range(2 ** len(d)):
        signs = 1 - 2 * ((code >> np.arange(len(d))) & 1)
        count += bool(np.isclose(abs(signs @ d), abs(d.sum())) or abs(signs @ d) > abs(d.sum()))
    return count / 2 ** len(d)


def flips_of_a_grid(a, b):
    d = np.subtract(a, b)
    sums = sum(np.meshgrid(*([x, -x] for x in d)))
    return np.count_nonzero(np.round(np.abs(sums), 9) >= np.round(abs(d.sum()), 9)) / sums.size


def flips_of_halves(a, b):
    d = np.asarray(a) - b
    half = np.array(list(itertools.product((1, -1), repeat=len(d) - 1))).reshape(-1, len(d) - 1)
    means = np.abs(d[0] + half @ d[1:]) / len(d)  # the other half are their mirror images
    return (means >= abs(d.mean()) - 1e-12).mean(dtype=np.float32)


def flips_at_random(a, b):
    d, rng = np.asarray(a) - b, np.random.default_rng(0)
    means = (rng.choice((1, -1), (999, len(d))) * d).mean(axis=1)
    return (1 + (np.abs(means) >= abs(d.mean()) - 1e-12).sum()) / 1000


def flips_of_a(a, b):
    return flips()(a, np.zeros_like(b))


# --- 4 · halving ----------------------------------------------------------------------------------


def halving(
    *, restart=False, worst=False, keep=None, look=False, first=False, last=False, free=False
):
    """Successive halving with one thing wrong."""

    def race(loss_after, n, parts=(1, 3, 9), eta=3):
        alive, cost, reached = list(range(n)), 0, 0
        for part in parts:
            if look:
                [loss_after(i, part) for i in range(n)]
            cost += len(alive) * (part if restart else part - reached)
            reached = part
            ranked = sorted(alive, key=lambda i: loss_after(i, part), reverse=worst)
            if first and part == parts[0]:
                winner = ranked[0]
            alive = ranked[: keep(len(ranked), eta) if keep else max(1, len(ranked) // eta)]
        if not first:
            winner = ranked[-1 if last else 0]
        return winner, len(parts) if free else cost

    return race


def halving_of_arrays(loss_after, n_settings, parts=(1, 3, 9), eta=3):
    alive, cost, before = np.arange(n_settings), 0, 0
    for part in parts:
        losses = np.array([loss_after(i, part) for i in alive])
        cost, before = cost + alive.size * (part - before), part
        order = alive[np.argsort(losses)]
        alive = order[: max(order.size // eta, 1)]
    return np.array([order[0], cost])


def halving_of_heaps(loss_after, n_settings, parts=(1, 3, 9), eta=3):
    losses = {i: loss_after(i, parts[0]) for i in range(n_settings)}
    cost = n_settings * parts[0]
    for before, part in itertools.pairwise(parts):
        survivors = heapq.nsmallest(max(1, len(losses) // eta), losses, key=losses.get)
        losses = {i: loss_after(i, part) for i in survivors}
        cost += len(survivors) * (part - before)
    return [min(losses, key=losses.get), cost]


def halving_recursive(loss_after, n_settings, parts=(1, 3, 9), eta=3, alive=None, reached=0):
    alive = range(n_settings) if alive is None else alive
    ranked = sorted((loss_after(i, parts[0]), i) for i in alive)
    paid = len(ranked) * (parts[0] - reached)
    if len(parts) == 1:
        return ranked[0][1], paid
    kept = [i for _, i in ranked[: max(1, len(ranked) // eta)]]
    winner, rest = halving_recursive(loss_after, n_settings, parts[1:], eta, kept, parts[0])
    return winner, paid + rest


def flips_nearly(a, b):
    """Takes for equal what differs by a thousandth."""
    d = a - b
    means = [abs(np.mean(d * signs)) for signs in itertools.product((1, -1), repeat=len(d))]
    return np.mean([mean >= abs(d.mean()) * 0.999 - 1e-12 for mean in means])


def halving_of_two_digits(loss_after, n, parts=(1, 3, 9), eta=3):
    return halving()(lambda i, part: round(loss_after(i, part), 2), n, parts, eta)


RIGHT = {
    "seeds_needed": [
        seeds_to_the_last_bit,
        seeds(),
        seeds_by_search,
        seeds_exactly,
        seeds_of_numpy,
        seeds_by_variance,
        lambda sd, difference: max(2, -int(-8 * sd * sd / difference**2 // 1)),
    ],
    "draw_rates": [
        rates_by_ten,
        rates_by_ratio,
        rates_one_by_one,
        rates_of_torch,
        rates_of_a_sorted_kind,
    ],
    "sign_flip_test": [flips(), flips_recursive, flips_of_bits, flips_of_a_grid, flips_of_halves],
    "successive_halving": [
        halving(),
        halving_of_arrays,
        halving_of_heaps,
        halving_recursive,
    ],
}
WRONG = {
    "seeds_needed": [
        (seeds(4), "enough for the mean of one group"),
        (seeds(2), "then one standard error"),
        (seeds(1), "one standard deviation of the mean"),
        (seeds(16), "the runs of both settings together"),
        (seeds(rounded=math.floor), "round up"),
        (seeds(rounded=round), "Rounding to the nearest"),
        (seeds(rounded=lambda x: int(x) + 1), "asks for one more"),
        (seeds(least=1), "return at least 2"),
        (seeds(least=3), "two runs each and no more"),
        (seeds(power=1), "grows with the square"),
        (lambda sd, difference: seeds()(difference, sd), "have changed places"),
        (lambda sd, difference: 8 * (sd / difference) ** 2, "must be a whole number"),
        (lambda sd, difference: 20, "must be 15 … and is 20"),
        (lambda sd, difference: min(1000, seeds()(sd, difference)), "must be 14694, and is 1000"),
        (seeds(rounded=lambda x: math.ceil(round(x, 1))), "must be 31, and is 30"),
        (lambda sd, difference: 100 * seeds()(sd, difference), "must be 15, and is 1500"),
    ],
    "draw_rates": [
        (rates_even, "spread evenly over values, not over factors"),
        (rates_on_a_grid, "Every generator gives the same rates: draw"),
        (rates_of_a_shuffled_grid, "in another order: that shuffles a grid"),
        (rates_of_an_own_generator, "Every generator gives the same rates"),
        (rates_of_global_chance, "Equal generators must give equal rates"),
        (rates_in_logs, "not positive"),
        (rates_from_a_list, "The same few rates"),
        (rates_to_the_wrong_base, "must stay between low and high"),
        (rates_squared, "not spread evenly over factors"),
        (rates_of_a_bell, "not spread evenly over factors"),
        (rates_too_high, "must stay between low and high"),
        (one_rate, "must be an array of numbers"),
        (rates_of_a_shaken_grid, "Drawn one by one"),
    ],
    "sign_flip_test": [
        (flips(side=lambda x: x), "one side only"),
        (flips(strict=True), "p is 0"),
        (flips(room=0.0), "leave 1e-12 of room"),
        (flips(own=False), "must be"),
        (flips(times=0.5), "one side only"),
        (flips(times=100), "is a share of the patterns"),
        (flips(other=True), "p is 0"),
        (lab.permutation_test, "forgets who belongs to whom"),
        (flips_at_random, "must be"),
        (flips_of_a, "must be"),
        (flips(room=1e-6), "must be 0.25, and is 1"),
        (flips(room=1e-3), "must be 0.25"),
        (flips_nearly, "must be 0.25, and is 0.5"),
        (lambda a, b: (np.asarray(a) <= np.asarray(b)).mean(), ""),
    ],
    "successive_halving": [
        (halving(restart=True), "goes on from where it stands"),
        (halving(worst=True), "the wrong ones"),
        (halving(look=True), "only 9 may be trained as far as 3, and you train 27"),
        (halving(keep=lambda n, eta: max(1, round(n / eta))), "only 3 … and you train 4"),
        (halving(keep=lambda n, eta: max(1, math.ceil(n / eta))), "and you train 4"),
        (halving(keep=lambda n, eta: n // eta), "IndexError"),
        (halving(keep=lambda n, eta: max(1, n // 3)), "and you train"),
        (halving(first=True), "has the lowest loss of those that reach the last round"),
        (halving(last=True), "has the lowest loss of those that reach the last round"),
        (halving(free=True), "the cost is 63 parts, and you count 3"),
        (lambda loss_after, n, parts=(1, 3, 9), eta=3: (0, 63), "must look at all 27"),
        (halving_of_two_digits, "and eta 4: the wrong ones are trained"),
        (lambda loss_after, n, parts=(1, 3, 9), eta=3: loss_after(n, 1), "no such setting"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, "06_hyperparameters.ipynb"
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
