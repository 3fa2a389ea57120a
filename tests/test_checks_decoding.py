"""Lesson 05: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import math
from pathlib import Path

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils import decoding
from aigc_utils.checks import decoding as check
from aigc_utils.gpt import GPT, LLAMA, GPTConfig, KVCache

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "05_decoding.ipynb"


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"np": np, "math": math, "torch": torch, "KVCache": KVCache, "decoding": decoding}
    space |= {"GPT": GPT, "GPTConfig": GPTConfig, "LLAMA": LLAMA, "rng": np.random.default_rng(0)}
    (small_model,) = (c.source for c in notebook.cells if c.source.startswith("torch.manual_seed"))
    exec(small_model, space)
    return run_answer(notebook, name, space)


@functools.cache
def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def nucleus_until_before(probs, p):
    order = np.argsort(-probs)
    return order[np.cumsum(probs[order]) <= p].tolist()


def nucleus_walk(probs, p):
    kept, total = [], 0.0
    for i in sorted(range(len(probs)), key=lambda i: -probs[i]):
        kept.append(i)
        total += probs[i]
        if total >= p - 1e-12:
            return kept
    return kept


def nucleus_search(probs, p):
    order = np.argsort(probs)[::-1]
    end = min(np.searchsorted(np.cumsum(probs[order]), p - 1e-12) + 1, len(probs))
    return order[:end]


def nucleus_torch(probs, p):
    ordered, ids = torch.sort(torch.tensor(probs), descending=True)
    return ids[ordered.cumsum(0) - ordered < p - 1e-12]


def nucleus_growing(probs, p):
    ranks = np.argsort(-probs, kind="stable").tolist()
    n = next(n for n in range(1, len(ranks) + 1) if probs[ranks[:n]].sum() > p - 1e-9)
    return tuple(ranks[:n])


def nucleus_of_two_digits(probs, p):
    sums = np.cumsum(np.sort(probs)[::-1]).round(2)
    return np.argsort(-probs)[: np.searchsorted(sums, p) + 1]


def nucleus_mask(probs, p):
    return np.isin(np.arange(len(probs)), nucleus_walk(probs, p))


def nucleus_of_threshold(probs, p):
    return np.flatnonzero(probs >= p).tolist() or [int(probs.argmax())]


def nucleus_rarest(probs, p):
    order = np.argsort(probs)
    return order[np.cumsum(probs[order]) - probs[order] < p].tolist()


def nucleus_ranks(probs, p):
    ordered = np.sort(probs)[::-1]
    return list(range(int((np.cumsum(ordered) - ordered < p).sum())))


def nucleus_too_many(probs, p):
    return [*(right := solution("nucleus")(probs, p)), *set(range(len(probs))).difference(right)]


def nucleus_unordered(probs, p):
    return sorted(solution("nucleus")(probs, p), key=lambda i: probs[i])


def tokens(keys_and_values=2, heads=None, layers=None, as_bytes=True, users=True, whole=True):
    def longest_text(config, memory, n_users=1, bytes_each=2):
        kept = keys_and_values * (layers or config.n_layers) * config.head_dim
        kept *= getattr(config, heads or "kv_heads")
        kept *= (bytes_each if as_bytes else 1) * (n_users if users else 1)
        return memory // kept if whole else memory / kept

    return longest_text


def tokens_by_steps(config, memory, users=1, bytes_each=2):
    per_head = config.head_dim * bytes_each
    per_layer = 2 * config.kv_heads * per_head
    return int(memory / users / (config.n_layers * per_layer))


def tokens_by_divmod(config, memory, users=1, bytes_each=2):
    width = config.d_model // config.n_heads * config.kv_heads
    return divmod(memory, width * config.n_layers * bytes_each * users * 2)[0]


def tokens_of_numpy(config, memory, users=1, bytes_each=2):
    sizes = [2, config.n_layers, config.kv_heads, config.head_dim, bytes_each, users]
    return np.floor(memory / np.prod(sizes))


def tokens_of_context(config, memory, users=1, bytes_each=2):
    return min(config.context, tokens_by_steps(config, memory, users, bytes_each))


def always_shared(config, memory, users=1, bytes_each=2):
    return memory // (2 * config.n_layers * 2 * config.head_dim * bytes_each * users)


def entropy(logits, temperature):
    log_probs = torch.log_softmax(torch.as_tensor(logits) / temperature, 0)
    return float(-(log_probs.exp() * log_probs.clamp(min=-1e4)).sum())


def temperature_growing(logits, nats):
    low, high = 1e-3, 1.0
    while entropy(logits, high) < nats:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(logits, middle) < nats else (low, middle)
    return high


def temperature_grid(logits, nats):
    grid = np.exp(np.linspace(-7, 7, 20_001))[:, None]
    scores = (logits - logits.max()) / grid
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    entropies = -(np.exp(log_probs) * log_probs).sum(axis=1)
    return grid[np.abs(entropies - nats).argmin()]


def temperature_recursive(logits, nats, low=-7, high=7, depth=50):
    middle = (low + high) / 2
    if depth == 0:
        return math.exp(middle)
    if entropy(logits, math.exp(middle)) < nats:
        return temperature_recursive(logits, nats, middle, high, depth - 1)
    return temperature_recursive(logits, nats, low, middle, depth - 1)


def unshifted(logits, nats):
    low, high = -7.0, 7.0
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(all="ignore"):
            probs = np.exp(logits / math.exp(middle))
            probs = probs / probs.sum()
            low, high = (middle, high) if -(probs * np.log(probs)).sum() < nats else (low, middle)
    return math.exp(middle)


def turned_round(logits, nats):
    low, high = -7.0, 7.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if entropy(logits, math.exp(middle)) < nats else (middle, high)
    return math.exp(middle)


def too_coarse(logits, nats):
    grid = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    return min(grid, key=lambda t: abs(entropy(logits, t) - nats))


def inverse(logits, nats):
    return 1 / solution("temperature_for")(logits, nats)


def in_bits(logits, nats):
    return solution("temperature_for")(logits, nats * math.log(2))


def wrong_half(logits, nats):
    return math.exp(7)


@torch.no_grad()
def without_cache(model, ids, n):
    fits = len(ids) + n <= model.config.context
    return (reread if fits else with_generate)(model, ids, n)


@torch.no_grad()
def reread(model, ids, n):
    text = list(ids)
    for _ in range(n):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(ids) :]


@torch.no_grad()
def rolls(model, ids, n):
    cache, text, unread = KVCache(model.config), list(ids), list(ids)
    for _ in range(n):
        if cache.used == model.config.context:
            cache.keys, cache.values = cache.keys.roll(-1, dims=3), cache.values.roll(-1, dims=3)
            cache.used -= 1
        text.append(int(model(torch.tensor([unread]), cache)[0, -1].argmax()))
        unread = text[-1:]
    return text[len(ids) :]


@torch.no_grad()
def whole_text_again(model, ids, n):
    cache, text = KVCache(model.config), list(ids)
    for _ in range(n):
        text.append(int(model(torch.tensor([text]), cache)[0, -1].argmax()))
    return text[len(ids) :]


@torch.no_grad()
def first_row(model, ids, n):
    cache, text, unread = KVCache(model.config), list(ids), list(ids)
    for _ in range(min(n, 12)):
        text.append(int(model(torch.tensor([unread]), cache)[0, 0].argmax()))
        unread = text[-1:]
    return text[len(ids) :]


@torch.no_grad()
def rolls_or_restarts(model, ids, n):
    """Restart, but read the whole context again, which leaves no room."""
    cache, text, unread = KVCache(model.config), list(ids), list(ids)
    for _ in range(n):
        if cache.used + len(unread) > model.config.context:
            cache, unread = KVCache(model.config), text[-model.config.context :]
        text.append(int(model(torch.tensor([unread]), cache)[0, -1].argmax()))
        unread = text[-1:]
    return text[len(ids) :]


@torch.no_grad()
def forgets_the_cache(model, ids, n):
    text = list(ids)
    for _ in range(n):
        half = text[-(model.config.context // 2) :]
        text.append(int(model(torch.tensor([half]))[0, -1].argmax()))
    return text[len(ids) :]


@torch.no_grad()
def in_arrays(model, ids, n):
    context, new = model.config.context, np.zeros(n, dtype=int)
    text, cache, start = np.array(ids), KVCache(model.config), 0
    for step in range(n):
        if cache.used + len(text) - start > context:
            cache, start = KVCache(model.config), len(text) - context // 2
        logits = model(torch.from_numpy(text[None, start:]), cache)
        start = len(text)
        new[step] = logits[0, -1].argmax()
        text = np.append(text, new[step])
    return new


@torch.inference_mode()
def in_tensors(model, ids, n):
    text, cache = torch.tensor([ids]), KVCache(model.config)
    unread = text
    for _ in range(n):
        if cache.used == model.config.context:
            cache, unread = KVCache(model.config), text[:, -(model.config.context // 2) :]
        unread = model(unread, cache)[:, -1:].argmax(-1)
        text = torch.cat([text, unread], 1)
    return text[0, len(ids) :]


def with_generate(model, ids, n):
    return decoding.generate(model, ids, n, temperature=0) if n else []


def grows_the_prompt(model, ids, n):
    for new in solution("continue_greedily")(model, ids, n):
        ids.append(new)
    return ids[-n:]


def with_prompt(model, ids, n):
    return ids + solution("continue_greedily")(model, ids, n)


def one_short(model, ids, n):
    return solution("continue_greedily")(model, ids, n - 1)


@torch.no_grad()
def reads_half_for_nothing(model, ids, n):
    """Starts a fresh cache as soon as the old one is full, though nothing more is asked for."""
    cache, text, unread = KVCache(model.config), list(ids), list(ids)
    for _ in range(n):
        text.append(int(model(torch.tensor([unread]), cache)[0, -1].argmax()))
        unread = text[-1:]
        if cache.used == model.config.context:
            cache, half = KVCache(model.config), text[-(model.config.context // 2) :]
            model(torch.tensor([half[:-1]]), cache)
    return text[len(ids) :]


RIGHT = {
    "nucleus": [nucleus_walk, nucleus_search, nucleus_torch, nucleus_growing],
    "longest_text": [tokens(), tokens_by_steps, tokens_by_divmod, tokens_of_numpy],
    "temperature_for": [
        temperature_growing,
        temperature_grid,
        temperature_recursive,
        lambda logits, nats: torch.tensor([temperature_growing(logits, nats)]),
    ],
    "continue_greedily": [in_arrays, in_tensors, with_generate, solution("continue_greedily")],
}
WRONG = {
    "nucleus": [
        (nucleus_until_before, "belongs to it"),
        (nucleus_rarest, "not the likeliest"),
        (nucleus_ranks, "return ids of the vocabulary"),
        (nucleus_too_many, "stop as soon as p is reached"),
        (nucleus_unordered, "another order: the likeliest comes first"),
        (nucleus_mask, "no mask"),
        (nucleus_of_threshold, "less than p"),
        (lambda probs, p: np.sort(probs)[::-1].tolist(), "not probabilities"),
        (lambda probs, p: [int(probs.argmax())], "the token that crosses the line"),
        (lambda probs, p: [[i] for i in nucleus_walk(probs, p)], "in one row"),
        (lambda probs, p: nucleus_walk(probs, p) * 2, "different"),
        (lambda probs, p: [i + 1 for i in nucleus_walk(probs, p)], "not the likeliest"),
        (nucleus_of_two_digits, "less than p = 0.8"),
    ],
    "longest_text": [
        (tokens(keys_and_values=1), "keys *and* values are kept"),
        (tokens(heads="n_heads"), "heads that share keys share their cache"),
        (tokens(users=False), "all users share the memory"),
        (tokens(layers=1), "every layer keeps its own"),
        (tokens(as_bytes=False), "counts numbers, not bytes"),
        (tokens(whole=False), "round down"),
        (lambda *case: math.ceil(tokens(whole=False)(*case)), "round down"),
        (lambda *case: round(tokens(whole=False)(*case)), "round down"),
        (always_shared, "must be"),
        (tokens_of_context, "leaves aside"),
        (lambda *case: 8 * tokens()(*case), "must be"),
        (lambda *case: tokens_by_steps(case[0], case[1] - 1, *case[2:]), "must be 100, and is 99"),
        (lambda config, memory, users: tokens()(config, memory, users), "does not take that"),
    ],
    "temperature_for": [
        (inverse, "divided by the temperature"),
        (in_bits, "in bits"),
        (wrong_half, "colder"),
        (turned_round, "were asked for"),
        (unshifted, "were asked for"),
        (too_coarse, "were asked for"),
        (lambda logits, nats: math.log(temperature_growing(logits, nats)), "positive number"),
        (lambda logits, nats: -1.0, "positive number"),
        (lambda logits, nats: 1.0, "were asked for"),
        (lambda logits, nats: logits / temperature_growing(logits, nats), "one number"),
    ],
    "continue_greedily": [
        (without_cache, "tokens: "),
        (forgets_the_cache, ""),
        (rolls, "read the last context // 2 tokens into a fresh cache"),
        (rolls_or_restarts, "when the context is full"),
        (whole_text_again, "ValueError"),
        (first_row, "at which row of the logits"),
        (with_prompt, "new ids only, without the prompt"),
        (one_short, "1 new ids were asked for, and 0 came"),
        (grows_the_prompt, "changes its input `ids`"),
        (lambda model, ids, n: [0] * n, "is another one"),
        (lambda *case: [solution("continue_greedily")(*case)], "in one row"),
        (reads_half_for_nothing, "each token needs to be read once"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
