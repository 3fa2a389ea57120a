"""Lesson 04: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, assert_refused, run_answer

from aigc_utils.checks import pretraining as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "04_pretraining.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"np": np, "math": math}
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def cosine(step, steps, peak, warmup, final=0.0):
    """The right schedule, for wrong ones to deviate from."""
    if step < warmup:
        return peak * (step + 1) / warmup
    first = max(warmup - 1, 0)
    share = (step - first) / (steps - 1 - first)
    return final + (peak - final) * (1 + math.cos(math.pi * share)) / 2


def cosine_from_zero(step, steps, peak, warmup, final=0.0):
    return peak * step / warmup if step < warmup else cosine(step, steps, peak, warmup, final)


def cosine_over_the_whole_run(step, steps, peak, warmup, final=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    return final + (peak - final) * (1 + math.cos(math.pi * step / (steps - 1))) / 2


def line_down(step, steps, peak, warmup, final=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    first = max(warmup - 1, 0)
    return peak + (final - peak) * (step - first) / (steps - 1 - first)


def cosine_that_misses_the_end(step, steps, peak, warmup, final=0.0):
    return cosine(step, steps + 1, peak, warmup, final)


def cosine_without_final(step, steps, peak, warmup, final=0.0):
    return cosine(step, steps, peak, warmup)


def warmup_needed(step, steps, peak, warmup, final=0.0):
    return cosine(step, steps, peak, max(1, warmup), final) * (0.5 if warmup == 0 else 1)


def constant_after_warmup(step, steps, peak, warmup, final=0.0):
    return min(1.0, (step + 1) / max(1, warmup)) * peak


def whole_wave(step, steps, peak, warmup, final=0.0):
    return cosine(2 * step if step >= warmup else step, steps, peak, warmup, final)


def cut_windows(n_tokens, length, stride, share, gap=None, end=None):
    cut = int(n_tokens * share)
    gap = length if gap is None else gap
    return (
        np.arange(0, cut - gap, stride),
        np.arange(cut, n_tokens - (length if end is None else end), stride),
    )


def shuffled(n_tokens, length, stride, share):
    starts = np.random.default_rng(0).permutation(np.arange(0, n_tokens - length, stride))
    return np.split(starts, [int(len(starts) * share)])


def list_cut_in_order(n_tokens, length, stride, share):
    starts = np.arange(0, n_tokens - length, stride)
    return np.split(starts, [int(len(starts) * share)])


def swapped_parts(n_tokens, length, stride, share):
    cut = n_tokens - int(n_tokens * share)
    return np.arange(cut, n_tokens - length, stride), np.arange(0, cut - length, stride)


def wide_gap(n_tokens, length, stride, share):
    train, test = cut_windows(n_tokens, length, stride, share)
    return train[:-3], test


def reading(smooth=True, nan=True, gap=False, underfit=True, tolerance=0.15):
    """A diagnosis with one thing left out or wrong."""

    def diagnose(train_loss, val_loss):
        if nan and not np.isfinite(train_loss).all():
            return "diverging"
        n = max(2, len(train_loss) // 5) if smooth else 1
        train, val = (np.convolve(x, np.ones(n) / n, mode="valid") for x in (train_loss, val_loss))
        if train[-1] > train[0]:
            return "diverging"
        if gap and val[-1] > train[-1] + tolerance:
            return "overfitting"
        if not gap and val[-1] > val.min() + tolerance:
            return "overfitting"
        if underfit and train[-1] > 0.9 * train_loss[0]:
            return "underfitting"
        return "learning"

    return diagnose


WRONG = [
    ("bits_per_character", lambda nats, tokens, characters: nats * tokens / characters, "in nats"),
    (
        "bits_per_character",
        lambda nats, tokens, characters: nats * math.log(2) * tokens / characters,
        "wrong way",
    ),
    ("bits_per_character", lambda nats, tokens, characters: nats / math.log(2), "bits per token"),
    (
        "bits_per_character",
        lambda nats, tokens, characters: nats / math.log(2) * characters / tokens,
        "swapped",
    ),
    (
        "bits_per_character",
        lambda nats, tokens, characters: 8 * nats / math.log(2) * tokens / characters,
        "not as many bits",
    ),
    ("bits_per_character", lambda nats, tokens, characters: [1.0, 2.0], "must return one number"),
    ("learning_rate", cosine_from_zero, "At step 0 the rate is 0"),
    ("learning_rate", cosine_over_the_whole_run, "does not follow half a wave"),
    ("learning_rate", line_down, "half a wave of the cosine"),
    ("learning_rate", cosine_that_misses_the_end, "must have the final rate"),
    ("learning_rate", cosine_without_final, "must have the final rate"),
    ("learning_rate", constant_after_warmup, "must fall at every step"),
    ("learning_rate", whole_wave, "must fall at every step"),
    ("learning_rate", warmup_needed, "Without warm-up"),
    ("learning_rate", lambda *options: 2 * cosine(*options), "climb by the same amount"),
    ("learning_rate", lambda *options: options[2], "climb by the same amount"),
    ("honest_windows", shuffled, "It leaks: "),
    ("honest_windows", list_cut_in_order, "It leaks: "),
    (
        "honest_windows",
        lambda n, length, stride, share: cut_windows(n, length, 1, share, gap=length - 1),
        "leaks by one token",
    ),
    (
        "honest_windows",
        lambda n, length, stride, share: cut_windows(n, length, 1, share, end=length - 1),
        "runs off the text",
    ),
    ("honest_windows", swapped_parts, "must come after"),
    ("honest_windows", wide_gap, "not all those that start at 0"),
    (
        "honest_windows",
        lambda n, length, stride, share: cut_windows(n, length, length, share),
        "Nothing leaks, but the training windows",
    ),
    (
        "honest_windows",
        lambda n, length, stride, share: cut_windows(n, length, stride, share / 2),
        "a share of 0.8, the tokens before 800",
    ),
    ("honest_windows", lambda *sizes: cut_windows(*sizes)[0], "must return two arrays"),
    ("honest_windows", lambda *sizes: (np.arange(3), np.array([])), "at least one window"),
    ("diagnose", reading(smooth=False), "and you say"),
    ("diagnose", reading(nan=False), "not numbers any more: that is diverging"),
    ("diagnose", reading(gap=True), "both still fall: that is learning"),
    ("diagnose", reading(underfit=False), "that is underfitting, and you say learning"),
    ("diagnose", reading(tolerance=1.0), "that is overfitting"),
    ("diagnose", lambda train, val: "fine", "'fine' is not one of"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    assert getattr(check, name)(solution(name)) is None
    assert capsys.readouterr().out.splitlines()[-1].startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    assert_refused(check, name, stub, f"`{name}` gives nothing back yet")


@pytest.mark.parametrize(("name", "wrong", "sentence"), WRONG)
def test_a_wrong_answer_gets_its_sentence(name, wrong, sentence):
    assert_refused(check, name, wrong, sentence)


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)


def test_the_stories_can_be_told_apart_for_other_thresholds():
    for tolerance in (0.1, 0.15, 0.2):
        check.diagnose(reading(tolerance=tolerance))
