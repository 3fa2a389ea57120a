"""Lesson 06: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import itertools
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, assert_refused, run_answer

from aigc_utils import lab
from aigc_utils.checks import hyperparameters as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "06_hyperparameters.ipynb"
NAMES = list(check.HINTS)


@pytest.fixture(scope="module")
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


def seeds(factor=8, *, rounded=math.ceil, least=2):
    return lambda sd, difference: max(least, rounded(factor * (sd / difference) ** 2))


def flips(*, side=abs, strict=False, own=True):
    """A sign-flip test with one thing wrong."""

    def test(a, b):
        d = np.asarray(a) - np.asarray(b)
        signs = np.array(list(itertools.product((1, -1), repeat=len(d))))[0 if own else 1 :]
        means, seen = side((signs * d).mean(axis=1)), side(d.mean())
        return (means > seen + 1e-12 if strict else means >= seen - 1e-12).mean()

    return test


def halving(*, restart=False, worst=False, keep=None, look=False, first=False):
    """Successive halving with one thing wrong."""

    def race(loss_after, n, parts=(1, 3, 9), eta=3):
        alive, cost, reached = list(range(n)), 0, 0
        for part in parts:
            if look:
                [loss_after(i, part) for i in range(n)]
            cost += len(alive) * (part if restart else part - reached)
            reached = part
            alive = sorted(alive, key=lambda i: loss_after(i, part), reverse=worst)
            ranked, alive = alive, alive[: max(1, len(alive) // (keep or eta))]
        return (min(ranked) if first else ranked[0]), cost

    return race


def uniform(low, high, n, rng):
    return rng.uniform(low, high, size=n)


def decades_only(low, high, n, rng):
    return 10.0 ** rng.integers(round(math.log10(low)), round(math.log10(high)) + 1, size=n)


WRONG = [
    ("seeds_needed", seeds(4), "the noise of two"),
    ("seeds_needed", seeds(2), "it must be two"),
    ("seeds_needed", seeds(rounded=math.floor), "round up"),
    ("seeds_needed", seeds(16), "fewer runs would do"),
    ("seeds_needed", lambda sd, difference: 1, "less than two standard errors"),
    ("seeds_needed", seeds(least=1), "at least 2"),
    ("seeds_needed", lambda sd, difference: 8 * (sd / difference) ** 2, "a whole number"),
    ("draw_rates", uniform, "over values, not over factors"),
    ("draw_rates", decades_only, "draw from the whole range"),
    (
        "draw_rates",
        lambda low, high, n, rng: np.random.uniform(low, high, size=n),  # noqa: NPY002
        "the `rng` that is passed in",
    ),
    (
        "draw_rates",
        lambda low, high, n, rng: rng.uniform(math.log(low), math.log(high), size=n),
        "not positive",
    ),
    (
        "draw_rates",
        lambda low, high, n, rng: np.exp(rng.uniform(math.log10(low), math.log10(high), size=n)),
        "must stay between low and high",
    ),
    (
        "draw_rates",
        lambda low, high, n, rng: np.exp(rng.uniform(math.log(low), math.log(high))),
        "must return 3000 rates",
    ),
    ("sign_flip_test", lab.permutation_test, "forgets who belongs to whom"),
    ("sign_flip_test", flips(side=lambda x: x), "one side only"),
    ("sign_flip_test", flips(strict=True), "count"),
    ("sign_flip_test", lambda a, b: 0.0, "is one of those that count"),
    ("sign_flip_test", lambda a, b: 0.5, "of all sign patterns"),
    ("sign_flip_test", lambda a, b: [0.1, 0.2], "one number"),
    ("successive_halving", halving(restart=True), "does not start again"),
    ("successive_halving", halving(worst=True), "the lowest losses go on"),
    ("successive_halving", halving(keep=1), "that is what the others are stopped for"),
    ("successive_halving", halving(look=True), "that is what the others are stopped for"),
    ("successive_halving", halving(first=True), "has the lowest loss"),
    ("successive_halving", lambda *options: halving()(*options)[0], "two numbers"),
    ("successive_halving", lambda loss, n, parts, eta: (0, 1), "must look at all"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, space, capsys):
    answer = run_answer(nbformat.read(SOLUTIONS, as_version=4), name, dict(space))
    assert getattr(check, name)(answer) is None
    assert capsys.readouterr().out.splitlines()[-1].startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails_kindly(name, space):
    stub = run_answer(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name, dict(space))
    assert_refused(check, name, stub, f"`{name}` gives nothing back yet")


@pytest.mark.parametrize(("name", "wrong", "sentence"), WRONG)
def test_a_wrong_answer_gets_its_sentence(name, wrong, sentence):
    assert_refused(check, name, wrong, sentence)


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)
