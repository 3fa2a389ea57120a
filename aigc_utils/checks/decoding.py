"""Checkers and hints of lesson 05's exercises (nucleus, cache size, temperature, cached loop)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_utils import decoding
from aigc_utils.checks import (
    Answer,
    HintTable,
    Slips,
    demand,
    exercise,
    read_array,
    read_number,
    show_hint,
    show_hints,
)
from aigc_utils.gpt import GPT, LLAMA, GPTConfig

HINTS: HintTable = {
    "nucleus": (
        "Put the tokens in order first; then walk down and add up. When may you stop?",
        "A token is kept as long as those before it have less than p together: the token that "
        "crosses the line is in.",
        "np.argsort and np.cumsum do the work. The cumulative sum minus a token's own probability "
        "is what came before it: what must that be, for the token to stay?",
    ),
    "longest_text": (
        "How many numbers does one token leave behind in one layer? And in all of them?",
        "One token leaves a key and a value, of head_dim numbers each, for every key/value head "
        "of every layer, for every user.",
        "Six numbers multiplied are the bytes that one more token costs; // tells how often that "
        "goes into the memory.",
    ),
    "temperature_for": (
        "Is the entropy too small at the middle of your interval? Then which half is left?",
        "Keep low and high in ln T. At the middle, T = exp(middle): compute softmax(logits / T), "
        "its entropy -sum p ln p, and move low up when that is too small, else high down.",
        "Subtract the maximum before exp, and treat 0 · ln 0 as 0 (np.maximum(probs, 1e-300) "
        "inside the logarithm). Sixty halvings are plenty.",
    ),
    "continue_greedily": (
        "What does each call have to read, and which row of its logits speaks about the next "
        "token? Print cache.used after each call.",
        "The last row speaks. And the rows of a full cache cannot be reused once their first token "
        "is gone: deeper layers computed them from it. Only reading again helps.",
        "Ask *before* each call whether cache.used and what is unread still fit together; if not, "
        "a new KVCache, and half a context of the text is unread again.",
    ),
}

Numbers = NDArray[np.float64]

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · nucleus ----------------------------------------------------------------------------------


@exercise("05")
def nucleus(answer: Answer) -> str:
    """Check ``nucleus(probs, p)``, which returns ids, likeliest first."""
    rng = np.random.default_rng(5)
    halves = np.array([0.125, 0.5, 0.0625, 0.25, 0.0625])
    for probs, p in (
        *((halves, p) for p in (0.5, 0.625, 0.01, 0.875, 1.0)),
        (np.array([0.25, 0.0, 0.5, 0.25, 0.0]), 1.0),
        (np.array([0.25, 0.25, 0.25, 0.25]), 0.6),
        *((rng.dirichlet(np.full(size, 0.3)), p) for size, p in ((41, 0.3), (41, 0.9), (7, 0.95))),
        (np.array([0.201, 0.503, 0.296]), 0.8),  # 0.799 is less
        (np.array([1.0]), 0.7),
    ):
        _judge_nucleus(answer, probs, p)
    return "the fewest tokens that reach p, the one that crosses the line included."


def _judge_nucleus(answer: Answer, probs: Numbers, p: float) -> None:
    given = read_array(answer(probs, p), "nucleus")
    case = answer.case(probs, p)
    demand(
        given.dtype != np.bool_ and not (given.size and (given != np.round(given)).any()),
        f"{case}: return ids, whole numbers from 0 to V - 1, not probabilities and no mask.",
    )
    demand(given.size, f"{case}: nothing is kept, and the likeliest token always stays.")
    demand(given.ndim == 1, f"{case}: return the ids in one row, not in shape {given.shape}.")
    ids = [int(i) for i in given]
    demand(
        min(ids) >= 0 and max(ids) < len(probs) and len(set(ids)) == len(ids),
        f"{case}: return *different* ids from 0 to {len(probs) - 1}, and yours are {ids}.",
    )
    kept = probs[ids]
    ordered = np.sort(probs)[::-1]
    size = int((np.cumsum(ordered) - ordered < p - 1e-12).sum())
    likeliest = math.isclose(kept.sum(), ordered[: len(ids)].sum(), rel_tol=1e-9)
    demand(
        likeliest,
        f"{case}: {len(ids)} tokens are kept, and they are not the likeliest: return ids of the "
        "vocabulary, and begin with the likeliest.",
    )
    demand(
        len(ids) >= size,
        f"{case}: what is kept has a probability of {kept.sum():.4g} together, less than p = {p}: "
        "the token that crosses the line belongs to it.",
    )
    demand(
        len(ids) <= size,
        f"{case}: {len(ids)} tokens are kept where {size} would do: stop as soon as p is reached.",
    )
    demand(
        (np.diff(kept) <= 0).all(),
        f"{case}: the right tokens, in another order: the likeliest comes first.",
    )


# --- 2 · cache size -------------------------------------------------------------------------------


@exercise("05")
def longest_text(answer: Answer) -> str:
    """Check ``longest_text(config, memory, users=1, bytes_each=2)``."""
    shape: dict[str, Any] = {"vocab_size": 100, **LLAMA}
    shared = GPTConfig(n_layers=5, n_heads=6, n_kv_heads=2, d_model=96, **shape)
    one = GPTConfig(n_layers=3, n_heads=4, n_kv_heads=1, d_model=56, **shape)
    every = GPTConfig(n_layers=7, n_heads=3, d_model=66, **shape)
    cases = [
        (shared, 1_000_001, 3, 8),
        (one, 777_777, 2, 4),
        (every, 10_000_000, 1, 4),
        (every, 9_876_543, 11, 2),
        (shared, 1_234_567),
        (one, 67_200, 2, 4),  # just enough for 100 tokens
        (one, 100, 5, 2),  # too little for one token
    ]
    answer.compare(cases, _tokens, _TOKEN_SLIPS)
    return "two rows a token, for each layer, key/value head and user."


def _tokens(
    config: GPTConfig,
    memory: int,
    users: int = 1,
    bytes_each: int = 2,
    cost: Callable[[GPTConfig, int, int], float] = lambda config, users, each: users * each,
    rows: int = 2,
    heads: str = "kv_heads",
    whole: Callable[[float], float] = math.floor,
) -> float:
    numbers = rows * config.n_layers * getattr(config, heads) * config.head_dim
    return whole(memory / (numbers * cost(config, users, bytes_each)))


def _within_context(config: GPTConfig, memory: int, users: int = 1, bytes_each: int = 2) -> float:
    return min(config.context, _tokens(config, memory, users, bytes_each))


_TOKEN_SLIPS: Slips = [
    (partial(_tokens, rows=1), "Twice too much: keys *and* values are kept."),
    (
        partial(_tokens, heads="n_heads"),
        "Every query head is counted, but heads that share keys share their cache.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: each),
        "That is for one user, and all users share the memory.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: users * each / config.n_layers),
        "One layer is counted, and every layer keeps its own keys and values.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: users * each / config.head_dim),
        "A key is counted as one number, and it has head_dim of them.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: users * each / config.kv_heads),
        "One head is counted, and every key/value head keeps its own keys and values.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: users),
        "That counts numbers, not bytes.",
    ),
    (
        partial(_tokens, cost=lambda config, users, each: each / users),
        "More users leave *less* for each.",
    ),
    (partial(_tokens, whole=lambda x: x), "Return the largest *whole* number: round down."),
    (partial(_tokens, whole=math.ceil), "The last token does not fit any more: round down."),
    (partial(_tokens, whole=round), "Rounded to the nearest, the last may not fit: round down."),
    (
        _within_context,
        "The model's own context is another limit, which the statement leaves aside.",
    ),
]


# --- 3 · temperature ------------------------------------------------------------------------------


@exercise("05")
def temperature_for(answer: Answer) -> str:
    """Check ``temperature_for(logits, nats)``."""
    rng = np.random.default_rng(6)
    for spread, size, nats, shift in (
        (2.0, 50, 2.0, 0.0),
        (0.3, 200, 1.0, -3.0),
        (8.0, 200, 4.0, 0.0),
        (40.0, 30, 1.5, 0.0),
        (3.0, 17, 2.7, 1000.0),  # exp of such logits overflows; ln 17 is 2.83
        (1.0, 11, 0.1, 5.0),
    ):
        logits = rng.normal(scale=spread, size=size) + shift
        temperature = read_number(answer(logits, nats), "temperature_for")
        case = answer.case(logits, nats)
        demand(
            math.isfinite(temperature) and temperature > 0,
            f"{case}: a temperature is a positive number, not {temperature:g}.",
        )
        reached = _entropy(logits, temperature)
        if abs(reached - nats) < 0.005:
            continue
        demand(
            abs(_entropy(logits, 1 / temperature) - nats) > 0.005,
            f"{case}: that is 1 / T: logits are divided by the temperature.",
        )
        demand(
            abs(reached / math.log(2) - nats) > 0.005,
            f"{case}: with that temperature the entropy is right in bits, and nats were asked for: "
            "use the natural logarithm.",
        )
        demand(
            abs(_entropy(logits, math.exp(min(temperature, 700))) - nats) > 0.005,
            f"{case}: that is ln T; return T itself.",
        )
        demand(
            False,
            f"{case}: with your temperature {temperature:.3g} the entropy is {reached:.3f} nats, "
            f"and {nats} were asked for: {'hotter' if reached < nats else 'colder'}.",
        )
    return "one temperature for every entropy, found by halving."


def _entropy(logits: Numbers, temperature: float) -> float:
    scores = (logits - logits.max()) / temperature
    probs = np.exp(scores)
    probs = probs / probs.sum()
    return float(-(probs * np.log(np.maximum(probs, 1e-300))).sum())


# --- 4 · cached loop ------------------------------------------------------------------------------


@exercise("05")
def continue_greedily(answer: Answer) -> str:
    """Check ``continue_greedily(model, ids, n)`` by its ids and by what it lets the model read."""
    for context, prompt in ((20, [7, 50, 21, 3]), (15, [9, 33]), (6, [1, 2, 3, 4, 5, 6])):
        model = _lively_model(context)
        reads: list[int] = []

        def count(_: object, inputs: tuple[Any, ...], reads: list[int] = reads) -> None:
            reads.append(inputs[0].numel())

        model.register_forward_pre_hook(count)
        room = context - len(prompt)
        for n in (1, room, room + 1, 3 * context):  # the last id of all is not read
            right: list[int] = decoding.generate(model, prompt, n, temperature=0) if n else []
            reads.clear()
            given = read_array(answer(model, prompt, n), "continue_greedily")
            case = f"With a context of {context}, {len(prompt)} ids and n = {n}"
            fits = n <= room + 1
            demand(
                np.array_equal(given, np.round(given)),
                f"{case} return ids, which are whole numbers.",
            )
            demand(
                given.ndim == 1, f"{case} return the ids in one row, not in shape {given.shape}."
            )
            _judge_ids([int(i) for i in given], right, prompt, context, case)
            demand(
                not fits or sum(reads) <= len(prompt) + n,
                f"{case} the ids are right, but the model has read {sum(reads)} tokens: each token "
                "needs to be read once.",
            )
            demand(
                fits or sum(reads) < context + n * context / 2,
                f"{case} the ids are right, but the model has read {sum(reads)} tokens: fill a "
                "fresh cache with half a context, and then read one token at a time again.",
            )
    return "every token read once, and a full context read again by half."


def _lively_model(context: int) -> GPT:
    torch.manual_seed(7)
    shape: dict[str, Any] = {"vocab_size": 60, "n_layers": 2, "n_heads": 2, "d_model": 32, **LLAMA}
    model = GPT(GPTConfig(context=context, **shape))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model.eval()


def _judge_ids(
    ids: list[int], right: list[int], prompt: list[int], context: int, case: str
) -> None:
    demand(ids != [*prompt, *right], f"{case} return the new ids only, without the prompt.")
    demand(
        len(ids) == len(right), f"{case} {len(right)} new ids were asked for, and {len(ids)} came."
    )
    if ids == right:
        return
    same = next(i for i, (a, b) in enumerate(zip(ids, right, strict=True)) if a != b)
    full = len(prompt) + same >= context
    where = (
        "when the context is full: read the last context // 2 tokens into a fresh cache"
        if full
        else "before the context is full: look at what each call reads, and at which row of the "
        "logits you take"
    )
    demand(False, f"{case} new token {same + 1} is another one, {where}.")
