"""Lesson 04: right answers of every style pass, wrong ones get the sentence that fits."""

import math
from pathlib import Path

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils.checks import pretraining as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "04_pretraining.ipynb"


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, {"np": np, "math": math})


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


def cosine_of_arrays(step, steps, peak, warmup, final=0.0):
    rising = peak * np.arange(1, warmup + 1) / max(warmup, 1)
    angles = np.linspace(0, np.pi, steps - max(warmup - 1, 0))
    wave = final + 0.5 * (peak - final) * (1 + np.cos(angles))
    return np.concatenate([rising[:-1], wave])[step]


def cosine_squared(step, steps, peak, warmup, final=0.0):
    if warmup and step <= warmup - 1:
        return (step + 1) * (peak / warmup)
    start = warmup - 1 if warmup else 0
    angle = math.pi * (step - start) / (2 * (steps - 1 - start))
    return peak * math.cos(angle) ** 2 + final * math.sin(angle) ** 2


def cosine_of_torch(step, steps, peak, warmup, final=0.0):
    if step < warmup:
        return torch.tensor(peak * (step + 1) / warmup)
    first = max(0, warmup - 1)
    share = torch.tensor((step - first) / (steps - 1 - first))
    return torch.lerp(torch.tensor(peak), torch.tensor(final), (1 - torch.cos(np.pi * share)) / 2)


def cosine_late(step, steps, peak, warmup, final=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / (steps - 1 - warmup)
    return final + (peak - final) * (1 + math.cos(math.pi * share)) / 2


def cosine_without_zero(step, steps, peak, warmup, final=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup + 1) / (steps - warmup)
    return final + (peak - final) * (1 + math.cos(math.pi * share)) / 2


def cut_windows(n_tokens, length, stride, share, gap=None, end=None):
    cut = int(n_tokens * share)
    gap = length if gap is None else gap
    return (
        np.arange(0, cut - gap, stride),
        np.arange(cut, n_tokens - (length if end is None else end), stride),
    )


def windows_in_loops(n_tokens, length, stride, share):
    cut = int(n_tokens * share)
    train, test, start = [], [], 0
    while start + length < cut:
        train.append(start)
        start += stride
    start = cut
    while start + length <= n_tokens - 1:
        test.append(start)
        start += stride
    return train, test


def windows_of_views(n_tokens, length, stride, share):
    tokens = np.arange(n_tokens)
    view = np.lib.stride_tricks.sliding_window_view
    parts = np.split(tokens, [int(n_tokens * share)])
    return [view(part, length + 1)[::stride, 0] for part in parts]


def windows_of_ranges(n_tokens, length, stride, share):
    cut = int(share * n_tokens)
    return {"train": range(0, cut - length, stride)}["train"], range(cut, n_tokens - length, stride)


def windows_of_torch(n_tokens, length, stride, share):
    cut = int(n_tokens * share)
    train = torch.arange(0, cut - length, stride)
    return train[torch.randperm(len(train))], torch.arange(cut, n_tokens - length, stride)


def windows_rounded(n_tokens, length, stride, share):
    cut = round(n_tokens * share)
    return np.arange(0, cut - length, stride), np.arange(cut, n_tokens - length, stride)


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


def reading_of_means(train_loss, val_loss):
    if np.isnan(train_loss + val_loss).any() or np.isinf(train_loss + val_loss).any():
        return "diverging"
    fifths = [[part.mean() for part in np.array_split(x, 5)] for x in (train_loss, val_loss)]
    (first, *_, last), val = fifths
    if last > first:
        return "diverging"
    if val[-1] - min(val) > 0.15:
        return "overfitting"
    return (
        "underfitting"
        if (train_loss[:3].mean() - last) / train_loss[:3].mean() < 0.1
        else "learning"
    )


def reading_of_medians(train_loss, val_loss):
    n = len(train_loss) // 6 + 1
    if not np.isfinite(train_loss.sum() + val_loss.sum()):
        return "diverging"
    medians = [np.median(val_loss[i : i + n]) for i in range(len(val_loss) - n + 1)]
    begin, end = np.median(train_loss[:n]), np.median(train_loss[-n:])
    if end > begin:
        return "diverging"
    if medians[-1] > min(medians) + 0.15:
        return "overfitting"
    if end > 0.9 * train_loss[0]:
        return "underfitting"
    return "learning"


def reading_in_python(train_loss, val_loss):
    train, val = list(train_loss), list(val_loss)
    if not all(map(math.isfinite, train + val)):
        return str(np.str_("diverging"))
    n = max(3, len(train) // 8)

    def mean(numbers):
        return sum(numbers) / len(numbers)

    if mean(train[-n:]) >= mean(train[:n]):
        return "diverging"
    best = min(mean(val[i : i + n]) for i in range(len(val) - n + 1))
    if mean(val[-n:]) - best > 0.14:
        return "overfitting"
    return "learning" if mean(train[-n:]) < 0.9 * mean(train[:2]) else "underfitting"


def reading_by_gap_of_argmin(train_loss, val_loss):
    verdict = reading()(train_loss, val_loss)
    early = np.nanargmin(val_loss) < 0.8 * len(val_loss)
    return "overfitting" if early and verdict == "learning" else verdict


def reading_in_another_order(train_loss, val_loss):
    verdict = reading()(train_loss, val_loss)
    flat = train_loss[-5:].mean() > 0.9 * train_loss[0]
    return "underfitting" if flat and verdict != "diverging" else verdict


def reading_of_training_alone(train_loss, val_loss):
    return reading()(train_loss, train_loss)


def reading_in_nats(train_loss, val_loss):
    verdict = reading(underfit=False)(train_loss, val_loss)
    flat = train_loss[-5:].mean() > train_loss[0] - 0.5
    return "underfitting" if flat and verdict == "learning" else verdict


def reading(smooth=True, nan=True, gap=False, underfit=True, tolerance=0.15, blind=False):
    """A diagnosis with one thing left out or wrong."""

    def diagnose(train_loss, val_loss):
        if nan and not np.isfinite(train_loss + (0 if blind else val_loss)).all():
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


def reading_of_validation(train_loss, val_loss):
    if not np.isfinite(val_loss).all():
        return "diverging"
    return reading(nan=False)(train_loss, val_loss)


def reading_of_two_points(train_loss, val_loss):
    if train_loss[-1] > train_loss[0]:
        return "diverging"
    return reading()(train_loss, val_loss)


def reading_of_what_validation_lost(train_loss, val_loss):
    found = reading()(train_loss, val_loss)
    lost = val_loss[:5].mean() - val_loss[-5:].mean() > 0.1 * val_loss[0]
    return "underfitting" if found == "learning" and not lost else found


RIGHT = {
    "bits_per_character": [
        lambda nats, tokens, characters: nats * tokens / characters / math.log(2),
        lambda nats, tokens, characters: np.log2(np.e) * nats * tokens / characters,
        lambda nats, tokens, characters: math.log2(math.exp(nats)) * (tokens / characters),
        lambda nats, tokens, characters: (
            torch.tensor(nats) / torch.log(torch.tensor(2.0)) * tokens / characters
        ),
        lambda nats, tokens, characters: np.array([nats * tokens / (characters * 0.6931471806)]),
    ],
    "learning_rate": [
        cosine,
        cosine_of_arrays,
        cosine_squared,
        cosine_of_torch,
    ],
    "honest_windows": [
        lambda *case: cut_windows(*case),
        windows_in_loops,
        windows_of_views,
        windows_of_ranges,
        windows_of_torch,
    ],
    "diagnose": [
        reading(),
        reading(tolerance=0.12),
        reading(tolerance=0.19),
        reading_of_means,
        reading_of_medians,
        reading_in_python,
    ],
}
WRONG = {
    "bits_per_character": [
        (lambda nats, tokens, characters: nats * tokens / characters, "in nats"),
        (lambda nats, tokens, characters: nats * math.log(2) * tokens / characters, "wrong way"),
        (lambda nats, tokens, characters: nats / math.log(2), "bits per token"),
        (lambda nats, tokens, characters: nats / math.log(2) * characters / tokens, "swapped"),
        (lambda nats, tokens, characters: nats * tokens / math.log(2), "the whole text"),
        (lambda nats, tokens, characters: nats / math.log(10) * tokens / characters, "decimal"),
        (
            lambda nats, tokens, characters: math.log2(nats) * tokens / characters,
            "logarithm already",
        ),
        (lambda nats, tokens, characters: nats / 5.545177444 * tokens / characters, "in bytes"),
        (
            lambda nats, tokens, characters: 3 * nats * tokens / characters,
            "must be 1.6, and is 3.3",
        ),
        (lambda nats, tokens, characters: [1.0, 2.0], "must be one number"),
        (
            lambda nats, tokens, characters: f"{nats * tokens / characters / math.log(2):.2f}",
            "one number",
        ),
        (
            lambda nats, tokens, characters: round(nats * tokens / characters / math.log(2), 2),
            "must be 1.596, and is 1.6",
        ),
    ],
    "learning_rate": [
        (cosine_from_zero, "At step 0 the rate is 0"),
        (cosine_over_the_whole_run, "The cosine begins at step 0"),
        (line_down, "along a line, not along a cosine"),
        (cosine_that_misses_the_end, "one step after the last one"),
        (cosine_without_final, "does not end at `final`"),
        (constant_after_warmup, "the rate must fall"),
        (whole_wave, "must be"),
        (warmup_needed, "must be"),
        (cosine_late, "begins one step late"),
        (lambda *options: 2 * cosine(*options), "must be 0.002 … and is 0.004"),
        (lambda *options: options[2], "must be 0.002 … and is 0.02"),
        (lambda step, steps, peak, warmup: cosine(step, steps, peak, warmup), "does not take that"),
        (cosine_without_zero, "`learning_rate(0, 41, 1.0, 0)` must be 1, and is 0.999"),
    ],
    "honest_windows": [
        (shuffled, "leaks: "),
        (list_cut_in_order, "leaks: "),
        (
            lambda n, length, stride, share: cut_windows(n, length, 1, share, gap=length - 1),
            "leaks by one token",
        ),
        (
            lambda n, length, stride, share: cut_windows(n, length, 1, share, end=length - 1),
            "runs off the text",
        ),
        (swapped_parts, "must come after"),
        (wide_gap, "not all those that start at 0"),
        (
            lambda n, length, stride, share: cut_windows(n, length, length, share),
            "nothing leaks, but the training windows",
        ),
        (
            lambda n, length, stride, share: cut_windows(n, length, stride, share / 2),
            "is 800: the tokens before it",
        ),
        (windows_rounded, "nothing leaks, but the test windows"),
        (
            lambda n, length, stride, share: cut_windows(n, length, stride, share, gap=length + 1),
            "not all those that start at 0",
        ),
        (
            lambda n, length, stride, share: [
                np.repeat(x, 2) for x in cut_windows(n, length, stride, share)
            ],
            "each once",
        ),
        (lambda *sizes: cut_windows(*sizes)[0], "must return 2 things"),
        (
            lambda *sizes: (np.arange(3), np.array([])),
            "`honest_windows(1000, … gives no test starts",
        ),
        (lambda *sizes: (np.arange(3) + 0.5, np.arange(3)), "whole numbers"),
    ],
    "diagnose": [
        (reading(smooth=False), "and you say"),
        (reading(nan=False), "that is diverging"),
        (reading(blind=True), "The last validation loss is infinite"),
        (reading(gap=True), "both still fall: that is learning"),
        (reading(underfit=False), "that is underfitting, and you say learning"),
        (reading(tolerance=1.0), "that is overfitting"),
        (reading_by_gap_of_argmin, "that is learning, and you say overfitting"),
        (reading_in_another_order, "that is overfitting, and you say underfitting"),
        (reading_of_training_alone, "that is overfitting"),
        (reading_in_nats, "and you say underfitting"),
        (reading_of_validation, "The training losses alone are not numbers any more"),
        (reading_of_two_points, "Only the last training point sticks out"),
        (reading_of_what_validation_lost, "Training has lost a third, and validation next to"),
        (lambda train, val: "fine", "and not 'fine'"),
        (lambda train, val: "Learning", "and not 'Learning'"),
        (lambda train, val: "learning", "and you say learning"),
        (lambda train, val: ["learning"], "and not ['learning']"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
