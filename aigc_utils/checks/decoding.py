"""Checkers and hints of lesson 05's exercises (nucleus, cache size, temperature, cached loop)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints

HINTS: HintTable = {
    "nucleus": (
        "Put the tokens in order first; then walk down and add up. When may you stop?",
        "A token is kept as long as those before it have less than p together: the token that "
        "crosses the line is in.",
        "order = np.argsort(-probs); the cumulative sum minus the token's own probability is what "
        "came before; keep order where that is below p.",
    ),
    "longest_text": (
        "How many numbers does one token leave behind in one layer? And in all of them?",
        "One token leaves a key and a value, of head_dim numbers each, for every key/value head "
        "of every layer, for every user.",
        "Divide memory by 2 * n_layers * kv_heads * head_dim * bytes_each * users, and round "
        "down with //.",
    ),
    "temperature_for": (
        "Is the entropy too small at the middle of your interval? Then which half is left?",
        "Keep low and high in ln T. At the middle, T = exp(middle): compute softmax(logits / T), "
        "its entropy -sum p ln p, and move low up when that is too small, else high down.",
        "Subtract the maximum before exp, treat 0 · ln 0 as 0 (np.maximum(probs, 1e-300)), halve "
        "60 times and return exp of the middle.",
    ),
    "continue_greedily": (
        "What does each call have to read, and which row of its logits speaks about the next "
        "token? Print cache.used after each call.",
        "The last row speaks. And the rows of a full cache cannot be reused once their first token "
        "is gone: deeper layers computed them from it. Only reading again helps.",
        "Before the call: if cache.used + len(unread) > context, take a new KVCache and let "
        "unread be text[-(context // 2):]. Return text[len(ids):].",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def nucleus(function: Callable[..., Any]) -> None:
    """Check ``nucleus(probs, p)``, which returns ids, likeliest first."""
    rng = np.random.default_rng(5)
    cases = [(np.array([0.125, 0.5, 0.0625, 0.25, 0.0625]), p) for p in (0.5, 0.625, 0.01, 0.875)]
    cases += [(rng.dirichlet(np.full(40, 0.3)), p) for p in (0.3, 0.9)]
    for probs, p in cases:
        given = function(probs.copy(), p)
        answered(given, "nucleus")
        ids = np.asarray(given).ravel().tolist()
        order = np.argsort(-probs, kind="stable")
        sums = np.cumsum(probs[order])
        size = int((sums - probs[order] < p).sum())
        demand(ids, f"Nothing is kept for p = {p}: the likeliest token always stays.")
        demand(
            len({i for i in ids if isinstance(i, int) and 0 <= i < len(probs)}) == len(ids),
            "Return different ids, integers from 0 to V - 1, not probabilities.",
        )
        total = probs[ids].sum()
        demand(
            not (len(ids) == size and set(ids) != set(order[:size].tolist()))
            or math.isclose(total, sums[size - 1]),
            "As many tokens as there should be, but other ones: return ids of the vocabulary, and "
            "begin with the likeliest.",
        )
        demand(
            total >= p - 1e-12,
            f"What is kept has a probability of {total:.3f} together, less than p = {p}: the token "
            "that crosses the line belongs to it.",
        )
        demand(
            len(ids) <= size,
            f"{len(ids)} tokens are kept for p = {p} where fewer would do: stop as soon as p is "
            "reached.",
        )
        demand(
            probs[ids].tolist() == sorted(probs[ids].tolist(), reverse=True),
            "The right tokens, in another order: the likeliest comes first.",
        )
    praise("the fewest tokens that reach p, the one that crosses the line included.")


def longest_text(function: Callable[..., Any]) -> None:
    """Check ``longest_text(config, memory, users, bytes_each)``."""
    from aigc_utils.gpt import LLAMA, GPTConfig

    shape: dict[str, Any] = {"vocab_size": 100, "n_layers": 5, "d_model": 96, **LLAMA}
    config = GPTConfig(n_heads=6, n_kv_heads=2, **shape)
    memory, users, each = 1_000_001, 3, 8
    given = function(config, memory, users, each)
    answered(given, "longest_text")
    per_token = 2 * 5 * 2 * 16 * each * users
    right = memory // per_token
    wrong = {
        "is twice too much: keys and values are both kept": 2 * right,
        "takes every query head into account, but heads that share keys share their cache": memory
        // (per_token * 3),
        "is for one user, and three share the memory": memory // (per_token // 3),
        "counts one layer only, and every layer keeps its own keys and values": memory
        // (per_token // 5),
        "counts numbers, not bytes": memory // (per_token // each),
    }
    for sentence, value in wrong.items():
        demand(abs(given - value) > 2, f"{given:,} {sentence}.")
    demand(
        math.isclose(given, right, abs_tol=1.0) and given <= memory / per_token,
        f"{given:,} tokens would need {given * per_token:,.0f} bytes of the {memory:,} there are: "
        "count the numbers that one token leaves behind.",
    )
    demand(
        given == right and float(given).is_integer(),
        f"{given} is not the largest whole number of tokens that fits: round down.",
    )
    alone = GPTConfig(n_heads=6, **shape)
    demand(
        function(alone, 10_000_000, 1, 4) == 10_000_000 // (2 * 5 * 6 * 16 * 4),
        "Right for shared heads, wrong without sharing or with other sizes: use config.kv_heads, "
        "users and bytes_each.",
    )
    praise("two rows a token, for each layer, key/value head and user.")


def temperature_for(function: Callable[..., Any]) -> None:
    """Check ``temperature_for(logits, nats)``."""
    rng = np.random.default_rng(6)
    for spread, size, nats in ((2.0, 50, 2.0), (0.3, 200, 1.0), (8.0, 200, 4.0), (40.0, 30, 1.5)):
        logits = rng.normal(scale=spread, size=size)
        temperature = function(logits.copy(), nats)
        answered(temperature, "temperature_for")
        demand(
            math.isfinite(temperature) and temperature > 0,
            f"A temperature is a positive number, not {temperature}.",
        )
        reached = _entropy(logits, temperature)
        demand(
            abs(_entropy(logits, 1 / temperature) - nats) > 0.01 or abs(reached - nats) < 0.01,
            "That is 1 / T: logits are divided by the temperature.",
        )
        demand(
            abs(reached / math.log(2) - nats) > 0.01 or abs(reached - nats) < 0.01,
            "That entropy is in bits: use the natural logarithm.",
        )
        demand(
            math.isfinite(reached) and abs(reached - nats) < 0.01,
            f"With your temperature {temperature:.3g} the entropy is {reached:.2f} nats and "
            f"{nats} were asked for: {'hotter' if reached < nats else 'colder'}.",
        )
    praise("one temperature for every entropy, found by halving.")


def _entropy(logits: np.ndarray, temperature: float) -> float:
    scores = (logits - logits.max()) / temperature
    probs = np.exp(scores)
    probs = probs / probs.sum()
    return float(-(probs * np.log(np.maximum(probs, 1e-300))).sum())


def continue_greedily(function: Callable[..., Any]) -> None:
    """Check ``continue_greedily(model, ids, n)`` by its ids and by what it lets the model read."""
    import torch

    from aigc_utils import decoding
    from aigc_utils.gpt import GPT, LLAMA, GPTConfig

    torch.manual_seed(7)
    model = GPT(GPTConfig(vocab_size=60, context=20, n_layers=2, n_heads=2, d_model=32, **LLAMA))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    reads: list[int] = []
    model.eval().register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0].numel()))
    prompt: list[int] = [7, 50, 21, 3]
    for n, case in ((12, "a text that fits the context"), (55, "a text longer than the context")):
        right: Any = decoding.generate(model, prompt, n, temperature=0)
        reads.clear()
        try:
            given = function(model, list(prompt), n)
        except ValueError as error:
            demand(False, f"The model refuses {case}: {error}")
        answered(given, "continue_greedily")
        ids = [int(i) for i in given]
        demand(ids != [*prompt, *right], "Return the new ids only, without the prompt.")
        demand(len(ids) == n, f"{n} new ids were asked for, and {len(ids)} came.")
        if ids != right:
            same = next(i for i, (a, b) in enumerate(zip(ids, right, strict=True)) if a != b)
            where = (
                "when the context is full: read the last context // 2 tokens into a fresh cache"
                if len(prompt) + same >= model.config.context
                else "before the context is full: look at what each call reads, and at which row "
                "of the logits you take"
            )
            demand(False, f"New token {same + 1} of {n} is another one, {where}.")
        demand(
            n > 12 or sum(reads) <= len(prompt) + n,
            f"The ids are right, but the model has read {sum(reads)} tokens for a text of "
            f"{len(prompt) + n}: each token needs to be read once.",
        )
    praise("every token read once, and a full context read again by half.")
