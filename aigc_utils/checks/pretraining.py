"""Checkers and hints of lesson 04's exercises (bits, schedule, leak, reading of curves)."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc_utils.checks import (
    Answer,
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

HINTS: HintTable = {
    "bits_per_character": (
        "How many nats does the whole text cost? And how many bits is one nat?",
        "The mean loss times the number of tokens is the cost of the text; then change the unit "
        "and share the cost out among the characters.",
        "A nat is 1 / ln 2 bits, about 1.44. The tokens pay, and the characters share the bill.",
    ),
    "learning_rate": (
        "Draw it first: where does the line reach the peak, and where does the cosine begin?",
        "Let the cosine see a share that runs from 0, at the last warm-up step, to 1, at the last "
        "step of all: (1 + cos(π · share)) / 2 then runs from 1 to 0.",
        "The step that has the peak is warmup - 1, or 0 without warm-up: count the share from "
        "there. What the cosine scales is the distance between peak and final.",
    ),
    "honest_windows": (
        "Cut the text first and make windows afterwards, in each part on its own.",
        "A window that starts at s holds the tokens s, …, s + length: one more than its length, "
        "because the last input has a target too.",
        "A window fits when start + length is still a token of its part. So where may the last "
        "training window start, where the first of the test? np.arange leaves its end out.",
    ),
    "diagnose": (
        "Which of the four can you tell without looking at the validation loss? Ask for those "
        "first.",
        "Single points are noise: compare means over a stretch, such as the last fifth of the run "
        "with the first fifth, or with the best stretch in between.",
        "A gap between the two losses is no proof of anything: overfitting is validation against "
        "its *own* best stretch. Ask the four in the order of the list: the first that holds wins.",
    ),
}

Losses = NDArray[np.float64]
Starts = NDArray[np.int64]

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · bits -------------------------------------------------------------------------------------


@exercise("04")
def bits_per_character(answer: Answer) -> str:
    """Check ``bits_per_character(nats_per_token, n_tokens, n_characters)``."""
    cases = [(2.4, 1_000, 2_170), (math.log(75), 500, 500), (0.7, 31, 17), (11.3, 7, 2_003)]
    answer.compare(cases, _bits, _BITS_SLIPS)
    return "one unit for every tokenizer; ln 75 nats a character are log2 75 bits."


def _bits(nats: float, n_tokens: int, n_characters: int) -> float:
    return nats / math.log(2) * n_tokens / n_characters


_BITS_SLIPS: Slips = [
    (
        lambda nats, tokens, characters: nats * tokens / characters,
        "That is in nats: one nat is 1 / ln 2, about 1.44, bits.",
    ),
    (
        lambda nats, tokens, characters: nats * math.log(2) * tokens / characters,
        "The unit changed the wrong way: there are more bits than nats in a text, not fewer.",
    ),
    (
        lambda nats, tokens, characters: nats / math.log(2),
        "That is bits per token: a tokenizer with longer tokens would look worse, and the number "
        "of characters has no say.",
    ),
    (
        lambda nats, tokens, characters: nats / math.log(2) * characters / tokens,
        "Tokens and characters are swapped: the cost of all tokens is shared among the characters.",
    ),
    (
        lambda nats, tokens, characters: nats * tokens / math.log(2),
        "That is what the whole text costs: share it out among the characters.",
    ),
    (
        lambda nats, tokens, characters: nats / math.log(2) / characters,
        "That shares the cost of *one* token among the characters: all tokens pay.",
    ),
    (
        lambda nats, tokens, characters: nats / math.log(10) * tokens / characters,
        "That is in decimal digits: bits take the logarithm of 2.",
    ),
    (
        lambda nats, tokens, characters: math.log2(nats) * tokens / characters,
        "A loss is a logarithm already: changing its unit divides by ln 2.",
    ),
    (
        lambda nats, tokens, characters: _bits(nats, tokens, characters) / 8,
        "That is in bytes, and the question is bits.",
    ),
]


# --- 2 · schedule ---------------------------------------------------------------------------------


@exercise("04")
def learning_rate(answer: Answer) -> str:
    """Check ``learning_rate(step, steps, peak, warmup, final=0.0)``: a line up, a cosine down."""
    runs: tuple[tuple[float, ...], ...] = (
        (100, 0.02, 10, 0.002),
        (41, 1.0, 0),
        (61, 3e-4, 7, 1e-5),
        (12, 0.5, 1, 0.1),
        (29, 0.1, 0, 0.03),
        (9, 2.0, 3),
    )
    cases = [(step, *run) for run in runs for step in range(int(run[0]))]
    for run in runs:  # a curve as a whole: near its end float32 has few digits left
        steps = range(int(run[0]))
        curve = [read_number(answer(step, *run), "learning_rate") for step in steps]
        if not alike(curve, [_cosine(step, *run) for step in steps]):  # type: ignore[arg-type]
            answer.compare(cases, _cosine, _SCHEDULE_SLIPS)
    return "up along a line, down along a cosine, and not a step wasted."


def _cosine(
    step: int,
    steps: int,
    peak: float,
    warmup: int,
    final: float = 0.0,
    wave: Callable[[float], float] = lambda share: (1 + math.cos(math.pi * share)) / 2,
    peak_at: int = -1,
    last: int = -1,
) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    first = max(warmup + peak_at, 0)
    return final + (peak - final) * wave((step - first) / (steps + last - first))


def _from_zero(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    return peak * step / warmup if step < warmup else _cosine(step, steps, peak, warmup, final)


def _from_zero_and_late(
    step: int, steps: int, peak: float, warmup: int, final: float = 0.0
) -> float:
    if step < warmup:
        return peak * step / warmup
    return _cosine(step, steps, peak, warmup, final, peak_at=0)


def _from_final(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    if step < warmup:
        return final + (peak - final) * (step + 1) / warmup
    return _cosine(step, steps, peak, warmup, final)


def _without_final(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    return _cosine(step, steps, peak, warmup)


def _final_on_top(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    rate = _cosine(step, steps, peak, warmup)
    return rate if step < warmup else final + rate


def _whole_run(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return _cosine(step, steps, peak, 0, final)


_SCHEDULE_SLIPS: Slips = [
    (_from_zero, "At step 0 the rate is 0: the first step would be wasted."),
    (_from_zero_and_late, "At step 0 the rate is 0: the first step would be wasted."),
    (_from_final, "The warm-up climbs from 0, by peak / warmup a step, whatever `final` is."),
    (_without_final, "The rate does not end at `final`."),
    (
        _final_on_top,
        "`final` is added on top: what the cosine scales is the distance from peak to final.",
    ),
    (
        _whole_run,
        "The cosine begins at step 0 instead of at the last step of the warm-up: the rate jumps.",
    ),
    (
        partial(_cosine, peak_at=0),
        "The cosine begins one step late: two steps have the peak, and the statement gives it to "
        "step warmup - 1.",
    ),
    (
        partial(_cosine, last=0),
        "The wave reaches its end one step after the last one: the last step is steps - 1.",
    ),
    (
        partial(_cosine, peak_at=0, last=0),
        "The wave is shifted by a step: it begins at step warmup - 1 and ends at step steps - 1.",
    ),
    (
        partial(_cosine, wave=lambda share: 1 - share),
        "Both ends are right, but between them the rate falls along a line, not along a cosine.",
    ),
    (
        partial(_cosine, wave=lambda share: math.cos(math.pi / 2 * share)),
        "That is a quarter of the cosine's wave: it must begin *and* end flat.",
    ),
    (
        partial(_cosine, wave=lambda share: (1 + math.cos(2 * math.pi * share)) / 2),
        "That is a whole wave: the rate climbs again in the second half.",
    ),
    (
        partial(_cosine, wave=lambda share: 1 + math.cos(math.pi * share)),
        "Twice the peak: 1 + cos runs from 2 to 0.",
    ),
    (
        partial(_cosine, wave=lambda share: (1 + math.cos(share)) / 2),
        "Half a wave is π long, and the cosine sees only the share.",
    ),
    (partial(_cosine, wave=lambda share: 1.0), "After the warm-up the rate must fall."),
]


# --- 3 · leak -------------------------------------------------------------------------------------


@exercise("04")
def honest_windows(answer: Answer) -> str:
    """Check ``honest_windows(n_tokens, length, stride, share)`` -> (train starts, test starts)."""
    for case in (
        (1000, 16, 4, 0.8),
        (505, 32, 32, 0.9),
        (1001, 7, 3, 0.8),  # 800.8 tokens for training are 800
        (90, 8, 3, 0.5),
        (311, 5, 11, 0.7),
    ):
        _judge_windows(answer, *case)
    return "no token is on both sides, and none is wasted."


def _judge_windows(answer: Answer, n_tokens: int, length: int, stride: int, share: float) -> None:
    parts = ("training starts", "test starts")
    given = read_several(answer(n_tokens, length, stride, share), "honest_windows", parts)
    case = answer.case(n_tokens, length, stride, share)
    train, test = (_starts(starts, name, case) for starts, name in zip(given, parts, strict=True))
    both = np.concatenate([train, test])
    demand(
        both.min() >= 0 and both.max() + length < n_tokens,
        f"{case}: a window runs off the text: start + length must stay below {n_tokens}, because "
        "the last input needs its target.",
    )
    inputs, read = (_covered(train, size, n_tokens) for size in (length, length + 1))
    tested = _covered(test, length + 1, n_tokens)
    shared = int((inputs & tested).sum())
    demand(
        shared == 0,
        f"{case} leaks: {shared} tokens stand in training windows and in test windows as well.",
    )
    demand(
        not (read & tested).any(),
        f"{case} leaks by one token: the last target of the training text is the first token of "
        "the test text.",
    )
    demand(
        train.max() < test.min(), f"{case}: the test windows must come after all training windows."
    )
    cut = int(n_tokens * share)
    demand(
        train.max() + length < cut and test.min() >= cut,
        f"{case}: int(n_tokens * share) is {cut}: the tokens before it are for training and the "
        f"others for the test, and yours read up to token {train.max() + length} and from "
        f"{test.min()} on.",
    )
    for name, starts, begin, end in (("training", train, 0, cut), ("test", test, cut, n_tokens)):
        demand(
            np.array_equal(np.sort(starts), np.arange(begin, end - length, stride)),
            f"{case}: nothing leaks, but the {name} windows are not all those that start at "
            f"{begin}, {begin + stride}, {begin + 2 * stride}, … and fit in, each once.",
        )


def _starts(value: object, name: str, case: str) -> Starts:
    starts = read_array(value, name)
    demand(starts.size > 0, f"{case} gives no {name}, though there is room for windows.")
    demand(
        starts.ndim == 1 and np.array_equal(starts, np.round(starts)),
        f"`{name}` must be whole numbers in one row.",
    )
    return starts.astype(np.int64)


def _covered(starts: Starts, size: int, n_tokens: int) -> NDArray[np.bool_]:
    covered = np.zeros(n_tokens, dtype=bool)
    for start in starts:
        covered[start : start + size] = True
    return covered


# --- 4 · diagnosis --------------------------------------------------------------------------------

VERDICTS = ("diverging", "overfitting", "underfitting", "learning")


@exercise("04")
def diagnose(answer: Answer) -> str:
    """Check ``diagnose(train_loss, val_loss)`` on runs whose trouble is known."""
    for seed in range(4, 9):
        for story, right, train, val in _stories(seed):
            verdict = answer(train, val)
            demand(
                isinstance(verdict, str) and verdict in VERDICTS,
                f"`diagnose` gives one of the words {', '.join(VERDICTS)}, and not {verdict!r}.",
            )
            demand(verdict == right, f"{story}: that is {right}, and you say {verdict}.")
    return "you read the curves, and not their noise."


def _stories(seed: int) -> list[tuple[str, str, Losses, Losses]]:
    """Runs with noise: a description, the diagnosis, the training and the validation losses."""
    rng = np.random.default_rng(seed)

    def noisy(curve: Losses, size: float = 0.03) -> Losses:
        return curve + size * rng.standard_normal(len(curve))

    t, short, long = np.linspace(0, 1, 60), np.linspace(0, 1, 15), np.linspace(0, 1, 240)
    falling = 2.2 + 4 * np.exp(-6 * t)
    spike, dip, burst, one = (noisy(falling + 0.1), noisy(falling), noisy(falling), noisy(falling))
    high = noisy(falling)
    high[-1] += 4.5
    spike[-1] += 0.5
    dip[45] -= 0.6
    burst[40:] = np.nan
    one[-1] = np.inf
    return [
        ("Both losses fall together", "learning", noisy(falling), noisy(falling + 0.05)),
        (
            "Validation is worse than training, but both still fall",
            "learning",
            noisy(falling - 0.3 * t),
            noisy(falling + 0.4),
        ),
        ("Only the last validation point sticks out", "learning", noisy(falling), spike),
        ("One validation point in the middle is low by chance", "learning", noisy(falling), dip),
        (
            "Characters instead of tokens, so that all losses are smaller",
            "learning",
            noisy(1.3 + 3 * np.exp(-5 * short), 0.02),
            noisy(1.4 + 3 * np.exp(-5 * short), 0.02),
        ),
        (
            "Training has lost a quarter of its first value",
            "learning",
            noisy(1.2 - 0.3 * long, 0.02),
            noisy(1.25 - 0.25 * long, 0.02),
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
        (
            "Validation climbs from the first point on, and training falls by a twentieth",
            "overfitting",
            noisy(6.2 - 0.3 * t),
            noisy(6.2 + 0.6 * t),
        ),
        (
            "After the whole run the loss is nearly what it was",
            "underfitting",
            noisy(6.2 - 0.3 * t),
            noisy(6.2 - 0.25 * t),
        ),
        (
            "Of a small first loss a twentieth is gone",
            "underfitting",
            noisy(1.2 - 0.06 * long, 0.01),
            noisy(1.2 - 0.05 * long, 0.01),
        ),
        ("The losses are not numbers any more", "diverging", burst, burst),
        (
            "The training losses alone are not numbers any more",
            "diverging",
            burst,
            noisy(falling + 0.1),
        ),
        ("The last validation loss is infinite", "diverging", noisy(falling), one),
        (
            "The loss falls, then climbs above its first value",
            "diverging",
            noisy(6.2 - 6 * t + 12 * t**2),
            noisy(6.2 - 6 * t + 12 * t**2),
        ),
        (
            "Training climbs slowly from beginning to end",
            "diverging",
            noisy(4.0 + 0.4 * t),
            noisy(4.1 + 0.1 * t),
        ),
        ("Only the last training point sticks out", "learning", high, noisy(falling + 0.1)),
        (
            "Training has lost a third, and validation next to nothing",
            "learning",
            noisy(6.2 - 2 * t),
            noisy(6.2 - 0.2 * t),
        ),
    ]
