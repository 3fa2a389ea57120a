"""Checkers and hints of lesson 04's exercises (bits, schedule, leak, reading of curves)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints

HINTS: HintTable = {
    "bits_per_character": (
        "How many nats does the whole text cost? And how many bits is one nat?",
        "The mean loss times the number of tokens is the cost of the text; then change the unit "
        "and share the cost out among the characters.",
        "A nat is 1 / ln 2 bits: nats * tokens / math.log(2), divided by what?",
    ),
    "learning_rate": (
        "Draw it first: where does the line reach the peak, and where does the cosine begin?",
        "Let the cosine see a share that runs from 0, at the last warm-up step, to 1, at the last "
        "step of all: (1 + cos(π · share)) / 2 then runs from 1 to 0.",
        "first = max(warmup - 1, 0); share = (step - first) / (steps - 1 - first); and what the "
        "cosine scales is the distance between peak and final.",
    ),
    "honest_windows": (
        "Cut the text first and make windows afterwards, in each part on its own.",
        "A window that starts at s holds the tokens s, …, s + length: one more than its length, "
        "because the last input has a target too.",
        "cut = int(n_tokens * share); the last training window may start at cut - length - 1, and "
        "the first test window starts at cut. np.arange does the rest.",
    ),
    "diagnose": (
        "Which of the four can you tell without looking at the validation loss? Ask for those "
        "first.",
        "Single points are noise: compare means over a stretch, such as the last fifth of the run "
        "with the first fifth, or with the best stretch in between.",
        "Not finite anywhere, or training ends above where it began: diverging. Validation ends "
        "well above its own best stretch: overfitting (a gap to training is no proof). "
        "Training fell by less than a tenth: underfitting.",
    ),
}

Losses = NDArray[np.float64]


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def bits_per_character(function: Callable[..., Any]) -> None:
    """Check ``bits_per_character(nats_per_token, n_tokens, n_characters)``."""
    for nats, n_tokens, n_characters in ((2.4, 1_000, 2_170), (math.log(75), 500, 500)):
        bits = _number(function(nats, n_tokens, n_characters), "bits_per_character")
        right = nats / math.log(2) * n_tokens / n_characters
        one_to_one = n_tokens == n_characters
        demand(
            not _close(bits, right * math.log(2)),
            "That is in nats: one nat is 1 / ln 2, about 1.44, bits.",
        )
        demand(
            not _close(bits, right * math.log(2) ** 2),
            "The unit changed the wrong way: there are more bits than nats in a text, not fewer.",
        )
        demand(
            one_to_one or not _close(bits, nats / math.log(2)),
            "That is bits per token: a tokenizer with longer tokens would look worse, and the "
            "number of characters has no say.",
        )
        demand(
            one_to_one or not _close(bits, nats / math.log(2) * n_characters / n_tokens),
            "Tokens and characters are swapped: the cost of all tokens is shared among the "
            "characters.",
        )
        demand(
            _close(bits, right),
            f"{nats:.2f} nats in each of {n_tokens} tokens, over {n_characters} characters, are "
            "not as many bits per character as you say.",
        )
    praise("one unit for every tokenizer; ln 75 nats a character are log2 75 bits.")


def learning_rate(function: Callable[..., Any]) -> None:
    """Check ``learning_rate(step, steps, peak, warmup, final=0.0)``: a line up, a cosine down."""
    steps, peak, warmup, final = 100, 0.02, 10, 0.002

    def rates(*options: float) -> Losses:
        values = [function(step, *options) for step in range(int(options[0]))]
        return np.array([_number(value, "learning_rate") for value in values])

    curve = rates(steps, peak, warmup, final)
    demand(curve[0] > 0, "At step 0 the rate is 0: the first step would be wasted.")
    demand(
        np.allclose(np.diff(curve[:warmup]), peak / warmup, rtol=1e-6),
        f"During the {warmup} steps of warm-up the rate must climb by the same amount, "
        "peak / warmup, each step.",
    )
    demand(
        _close(curve.max(), peak),
        f"The highest rate is {curve.max():.3g}, and the peak is {peak}.",
    )
    demand(
        _close(curve[warmup - 1], peak),
        f"Step {warmup - 1}, the last of the warm-up, must have the peak rate, and has "
        f"{curve[warmup - 1]:.3g}.",
    )
    demand(
        (np.diff(curve[warmup - 1 :]) < 0).all(),
        "After the warm-up the rate must fall at every step.",
    )
    demand(
        _close(curve[-1], final),
        f"The last step must have the final rate {final}, and has {curve[-1]:.3g}.",
    )
    fall = np.arange(steps - warmup + 1) / (steps - warmup)
    right = final + (peak - final) * (1 + np.cos(np.pi * fall)) / 2
    demand(
        np.allclose(curve[warmup - 1 :], right, rtol=1e-6),
        "Both ends are right, but between them the rate does not follow half a wave of the cosine.",
    )
    without = rates(50, 1.0, 0)
    demand(
        _close(without[0], 1.0) and abs(without[-1]) < 1e-9,
        "Without warm-up, step 0 must have the peak rate, and with the default `final` the last "
        "step must have 0.",
    )
    praise("up along a line, down along a cosine, and not a step wasted.")


def honest_windows(function: Callable[..., Any]) -> None:
    """Check ``honest_windows(n_tokens, length, stride, share)`` -> (train starts, test starts)."""
    for n_tokens, length, stride, share in (
        (1000, 16, 4, 0.8),
        (505, 32, 32, 0.9),
        (90, 8, 3, 0.5),
    ):
        answer = function(n_tokens, length, stride, share)
        answered(answer, "honest_windows")
        demand(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            "`honest_windows` must return two arrays: the starts for training and for the test.",
        )
        train, test = (np.asarray(starts) for starts in answer)
        demand(
            train.ndim == test.ndim == 1 and len(train) and len(test),
            "Each part must be a list of start positions with at least one window.",
        )
        both = np.concatenate([train, test])
        demand(
            both.min() >= 0 and both.max() + length < n_tokens,
            f"A window runs off the text: start + length must stay below {n_tokens}, because the "
            "last input needs its target.",
        )
        inputs, read = (_covered(train, size, n_tokens) for size in (length, length + 1))
        tested = _covered(test, length + 1, n_tokens)
        shared = int((inputs & tested).sum())
        demand(
            shared == 0,
            f"It leaks: {shared} tokens stand in training windows and in test windows as well.",
        )
        demand(
            not (read & tested).any(),
            "It leaks by one token: the last target of the training text is the first token of the "
            "test text.",
        )
        demand(train.max() < test.min(), "The test windows must come after all training windows.")
        cut = int(n_tokens * share)
        demand(
            train.max() + length < cut and test.min() >= cut,
            f"With {n_tokens} tokens and a share of {share}, the tokens before {cut} are for "
            "training and the others for the test.",
        )
        for name, starts, begin, end in (
            ("training", train, 0, cut),
            ("test", test, cut, n_tokens),
        ):
            demand(
                np.array_equal(np.sort(starts), np.arange(begin, end - length, stride)),
                f"Nothing leaks, but the {name} windows are not all those that start at {begin}, "
                f"{begin + stride}, {begin + 2 * stride}, … and fit in.",
            )
    praise("no token is on both sides, and none is wasted.")


def diagnose(function: Callable[..., Any]) -> None:
    """Check ``diagnose(train_loss, val_loss)`` on runs whose trouble is known."""
    for story, right, train, val in _stories():
        verdict = function(train.copy(), val.copy())
        answered(verdict, "diagnose")
        demand(
            verdict in ("learning", "overfitting", "underfitting", "diverging"),
            f"{verdict!r} is not one of learning, overfitting, underfitting and diverging.",
        )
        demand(verdict == right, f"{story}: that is {right}, and you say {verdict}.")
    praise("you read the curves, and not their noise.")


def _stories() -> list[tuple[str, str, Losses, Losses]]:
    """Runs with noise: a description, the diagnosis, the training and the validation losses."""
    rng = np.random.default_rng(4)

    def noisy(curve: Losses, size: float = 0.04) -> Losses:
        return curve + size * rng.standard_normal(len(curve))

    t = np.linspace(0, 1, 60)
    falling = 2.2 + 4 * np.exp(-6 * t)
    spike = noisy(falling + 0.1)
    spike[-1] += 0.5
    burst = noisy(falling)
    burst[40:] = np.nan
    short = np.linspace(0, 1, 15)
    return [
        ("Both losses fall together", "learning", noisy(falling), noisy(falling + 0.05)),
        (
            "Validation is worse than training, but both still fall",
            "learning",
            noisy(falling - 0.3 * t),
            noisy(falling + 0.4),
        ),
        ("Only the last validation point sticks out", "learning", noisy(falling), spike),
        (
            "Characters instead of tokens, so that all losses are smaller",
            "learning",
            noisy(1.3 + 3 * np.exp(-5 * short), 0.02),
            noisy(1.4 + 3 * np.exp(-5 * short), 0.02),
        ),
        (
            "Training goes on falling while validation turns and climbs",
            "overfitting",
            noisy(6 * np.exp(-3 * t)),
            noisy(falling + 2.5 * np.maximum(t - 0.4, 0)),
        ),
        (
            "Validation turns late and climbs by three tenths of a nat",
            "overfitting",
            noisy(falling - 1.2 * t),
            noisy(2.6 + 3.6 * np.exp(-8 * t) + 1.0 * np.maximum(t - 0.6, 0)),
        ),
        ("After the whole run the loss is nearly what it was", "underfitting",
         noisy(6.2 - 0.3 * t), noisy(6.2 - 0.25 * t)),
        ("The losses are not numbers any more", "diverging", burst, burst),
        (
            "The loss falls, then climbs above its first value",
            "diverging",
            noisy(6.2 - 6 * t + 12 * t**2),
            noisy(6.2 - 6 * t + 12 * t**2),
        ),
    ]  # fmt: skip


def _covered(starts: NDArray[np.integer], size: int, n_tokens: int) -> NDArray[np.bool_]:
    covered = np.zeros(n_tokens, dtype=bool)
    for start in starts:
        covered[start : start + size] = True
    return covered


def _number(value: Any, name: str) -> float:
    """Return the learner's answer as a float, or say kindly what it is instead."""
    answered(value, name)
    demand(
        np.ndim(value) == 0 and np.isrealobj(value) and not isinstance(value, str),
        f"`{name}` must return one number, and yours is a {type(value).__name__}.",
    )
    return float(value)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
