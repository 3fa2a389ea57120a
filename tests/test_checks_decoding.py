"""Lesson 05: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from exercises import exercise_from
from graded import assert_checkers_and_hints, assert_refused, run_answer

from aigc_utils import decoding
from aigc_utils.checks import CheckFailed
from aigc_utils.checks import decoding as check
from aigc_utils.gpt import GPT, LLAMA, GPTConfig, KVCache

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "05_decoding.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"np": np, "math": math, "torch": torch, "KVCache": KVCache, "decoding": decoding}
    space |= {"GPT": GPT, "GPTConfig": GPTConfig, "LLAMA": LLAMA, "rng": np.random.default_rng(0)}
    (small_model,) = (c.source for c in notebook.cells if c.source.startswith("torch.manual_seed"))
    exec(small_model, space)
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def nucleus_until_before(probs, p):
    order = np.argsort(-probs)
    return order[np.cumsum(probs[order]) <= p].tolist()


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


def always_shared(config, memory, users=1, bytes_each=2):
    return memory // (2 * config.n_layers * 2 * config.head_dim * bytes_each * users)


def inverse(logits, nats):
    return 1 / solution("temperature_for")(logits, nats)


def in_bits(logits, nats):
    return solution("temperature_for")(logits, nats * math.log(2))


def wrong_half(logits, nats):
    return math.exp(7)


@torch.no_grad()
def without_cache(model, ids, n):
    return decoding.generate(model, ids, n, temperature=0) if n > 12 else reread(model, ids, n)


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


def with_prompt(model, ids, n):
    return ids + solution("continue_greedily")(model, ids, n)


def one_short(model, ids, n):
    return solution("continue_greedily")(model, ids, n - 1)


WRONG = {
    "nucleus": [
        (nucleus_until_before, "the token that crosses the line belongs to it|always stays"),
        (nucleus_rarest, "begin with the likeliest|fewer would do"),
        (nucleus_ranks, "return ids of the vocabulary"),
        (nucleus_too_many, "stop as soon as p is reached"),
        (nucleus_unordered, "another order: the likeliest comes first"),
        (lambda probs, p: np.sort(probs)[::-1].tolist(), "not probabilities"),
    ],
    "longest_text": [
        (tokens(keys_and_values=1), "keys and values are both kept"),
        (tokens(heads="n_heads"), "heads that share keys share their cache"),
        (tokens(users=False), "three share the memory"),
        (tokens(layers=1), "every layer keeps its own"),
        (tokens(as_bytes=False), "counts numbers, not bytes"),
        (tokens(whole=False), "round down"),
        (always_shared, "use config.kv_heads"),
    ],
    "temperature_for": [
        (inverse, "divided by the temperature"),
        (in_bits, "in bits"),
        (wrong_half, "colder"),
        (lambda logits, nats: -1.0, "positive number"),
    ],
    "continue_greedily": [
        (without_cache, "each token needs to be read once"),
        (rolls, "read the last context // 2 tokens into a fresh cache"),
        (whole_text_again, "The model refuses a text that fits|before the context is full"),
        (first_row, "at which row of the logits"),
        (with_prompt, "new ids only, without the prompt"),
        (one_short, "12 new ids were asked for, and 11 came"),
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    answer = solution(name)
    capsys.readouterr()  # what the notebook itself prints
    getattr(check, name)(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_unsolved_stub_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    assert_refused(check, name, stub, f"`{name}` gives nothing back yet")


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [(name, *case) for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_get_the_fitting_sentence(name, wrong, sentence):
    with pytest.raises(CheckFailed, match=sentence) as caught:
        getattr(check, name)(wrong)
    assert "\n" not in str(caught.value)


def test_every_exercise_has_a_checker_cell_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)
