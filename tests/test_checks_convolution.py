"""Lesson 07: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from exercises import exercise_from
from graded import run_answer

from aigc_utils import convolution
from aigc_utils.checks import CheckFailed
from aigc_utils.checks import convolution as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "07_convolution.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"np": np, "convolution": convolution}
    return run_answer(notebook, name, space)


def failure(name: str, function) -> str:
    """The one sentence (or two) of a failed check, which shows no trace of its own."""
    with pytest.raises(CheckFailed) as caught:
        getattr(check, name)(function)
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "]."))
    return message


def field(*, dilated=True, stride_first=False, taps_less=1):
    def receptive_field(layers):
        size, jump = 1, 1
        for kernel, stride, dilation in layers:
            jump *= stride if stride_first else 1
            size += (dilation if dilated else 1) * (kernel - taps_less) * jump
            jump *= 1 if stride_first else stride
        return size, jump

    return receptive_field


def pooling(*, fill=-np.inf, late=True, padded=True, in_place=False):
    def same_max_pool(x, k, s):
        height, width, channels = x.shape
        sizes = [-(-n // s) if padded else (n - k) // s + 1 for n in (height, width)]
        down, across = (
            max((out - 1) * s + k - n, 0) for out, n in zip(sizes, (height, width), strict=True)
        )
        top, left = (n // 2 if late else n - n // 2 for n in (down, across))
        around = np.full((height + down, width + across, channels), fill)
        around[top : top + height, left : left + width] = x
        if in_place:
            x *= 0
        y = np.zeros((*sizes, channels))
        for i, j in np.ndindex(*sizes):
            y[i, j] = around[s * i : s * i + k, s * j : s * j + k].max(axis=(0, 1))
        return y

    return same_max_pool


def fitted(*, grid=None, times=False, stable=True):
    grid = np.geomspace(0.05, 20, 800) if grid is None else grid

    def temperature(logits, labels):
        def loss(t):
            z = logits * t if times else logits / t
            if stable:
                z = z - z.max(axis=1, keepdims=True)
            return (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]).mean()

        return min(grid, key=loss)

    return temperature


def painted(*, turned=False, add=True, size=None, scaled=True):
    def transposed(y, w, s):
        k = len(w)
        w = w[::-1, ::-1] if turned else w
        x = np.zeros([s * (n - 1) + k if size is None else s * n for n in y.shape])
        for i, j in np.ndindex(y.shape):
            piece = x[s * i : s * i + k, s * j : s * j + k]
            copy = (y[i, j] if scaled else 1) * w[: piece.shape[0], : piece.shape[1]]
            piece[:] = piece + copy if add else copy
        return x

    return transposed


WRONG = [
    ("receptive_field", field(dilated=False), "The dilation counts"),
    ("receptive_field", field(stride_first=True), "A layer's own stride"),
    ("receptive_field", field(taps_less=0), "sees three pixels"),
    ("receptive_field", lambda layers: 3, "two numbers, (size, jump)"),
    ("same_max_pool", pooling(fill=0.0), "padding must never win"),
    ("same_max_pool", pooling(late=False), "to the bottom and to the right"),
    ("same_max_pool", pooling(padded=False), "⌈n/s⌉ windows a side"),
    ("same_max_pool", pooling(in_place=True), "pad a copy"),
    ("temperature", fitted(times=True), "the logits are divided by T"),
    (
        "temperature",
        fitted(grid=np.linspace(1, 10, 400)),
        "underconfident network your T is too large",
    ),
    (
        "temperature",
        fitted(grid=np.linspace(0.1, 2, 400)),
        "overconfident network your T is too small",
    ),
    ("temperature", fitted(stable=False), "Adding 5000 to every logit"),
    ("temperature", lambda logits, labels: -1.0, "one positive number"),
    ("transposed", painted(turned=True), "turned by 180°"),
    ("transposed", painted(add=False), "they must add up"),
    ("transposed", painted(size="same"), "must give (7, 9)"),
    ("transposed", painted(scaled=False), "every number of y scales its copy"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_earns_one_line(name, capsys):
    getattr(check, name)(function_of(nbformat.read(SOLUTIONS, as_version=4), name))
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_unsolved_cell_fails_kindly(name):
    exercise = nbformat.reads(exercise_from(SOLUTIONS), as_version=4)
    assert "gives nothing back yet" in failure(name, function_of(exercise, name))


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize(("name", "function", "words"), WRONG)
def test_a_wrong_answer_gets_the_sentence_that_fits(name, function, words):
    assert words in failure(name, function)


@pytest.mark.parametrize("right", [field(), pooling(), fitted(), painted()])
def test_the_wrong_answers_are_wrong_for_their_one_change(right):
    getattr(check, right.__name__)(right)


@pytest.mark.parametrize("name", NAMES)
def test_hints_come_in_three_levels(name, capsys):
    for level in (1, 2, 3):
        check.hint(name, level)
    assert len(capsys.readouterr().out.splitlines()) == 3
