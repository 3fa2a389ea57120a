"""Lesson 11: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, assert_refused, run_answer

from aigc_utils.checks import gpt2_chat as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "11_gpt2_chat.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, {"np": np, "rng": np.random.default_rng(1)})


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def template(clean=lambda text: text, system=check.SYSTEM, end="<|im_end|>\n", tail=True):
    """A template with one part wrong or left out."""

    def chat_prompt(messages):
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        turns = (f"<|im_start|>{m['role']}\n{clean(m['content'])}{end}" for m in messages)
        return "".join(turns) + ("<|im_start|>assistant\n" if tail else "")

    return chat_prompt


def without_marks(text):
    for mark in check.MARKS:
        text = text.replace(mark, "")
    return text


def always_default(messages):
    return template()([{"role": "system", "content": check.SYSTEM}, *messages])


def inserts(messages):
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": check.SYSTEM})
    return template()(messages)


def packed(axis=1, top=127, rounding=np.rint, dtype=np.int8, safe=True):
    """An int8 matrix with one thing wrong."""

    def quantize(weight):
        largest = np.abs(weight).max(axis=axis)
        largest = np.broadcast_to(largest, len(weight)) if np.ndim(largest) == 0 else largest
        scale = (np.where(largest > 0, largest, 1) if safe else largest) / top
        scaled = rounding(weight / scale[: len(weight), None])
        return scaled.astype(np.int64).astype(dtype), scale

    return quantize


def log_probs(shift=1, start=0, change=lambda x: x, stable=True):
    def reply_log_probs(logits, ids, n_prompt):
        first = n_prompt - shift + start
        rows = logits[first : len(ids) - shift]
        if stable:
            rows = rows - rows.max(axis=1, keepdims=True)
        rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        return change(rows[np.arange(len(rows)), ids[n_prompt + start :]])

    return reply_log_probs


def raw_logits(logits, ids, n_prompt):
    return logits[np.arange(n_prompt - 1, len(ids) - 1), ids[n_prompt:]]


def trimmer(keep_system=True, only_user=True, step=1, raises=True, over=0):
    def trim(messages, budget, count):
        system = [m for m in messages[:1] if m["role"] == "system"]
        rest = messages[len(system) :]
        system = system if keep_system else []
        for start in range(0, len(rest), step):
            kept = system + rest[start:]
            if (rest[start]["role"] == "user" or not only_user) and count(kept) <= budget + over:
                return kept
        if raises:
            raise ValueError("too long")
        return [*system, rest[-1]]

    return trim


def keeps_the_oldest(messages, budget, count):
    kept = trimmer()(messages, budget, count)
    return [*messages[: len(kept) - 1], messages[-1]]


def pops(messages, budget, count):
    kept = trimmer()(messages, budget, count)
    messages[:] = kept
    return messages


WRONG = [
    ("chat_prompt", template(), "still puts a mark into the prompt."),
    ("chat_prompt", template(without_marks), "what is left and right of it meets"),
    ("chat_prompt", template(system=None), "goes in front"),
    ("chat_prompt", always_default, "must not be added to it"),
    ("chat_prompt", template(tail=False), "must end with the assistant's opened turn"),
    ("chat_prompt", template(end="<|im_end|>"), "differs from the template after"),
    ("chat_prompt", template(str.strip), "must stay exactly as it is"),
    ("chat_prompt", template(lambda t: t.replace("|", "")), "must stay exactly as it is"),
    ("chat_prompt", inserts, "changes the list"),
    ("chat_prompt", lambda messages: messages, "one string"),
    ("quantize", packed(axis=None), "same scale"),
    ("quantize", packed(axis=0), "one scale for each of the 5 rows"),
    ("quantize", packed(top=128), "128 does not fit"),
    ("quantize", packed(rounding=np.trunc), "cut towards zero"),
    ("quantize", packed(dtype=np.int16), "must be int8"),
    ("quantize", packed(safe=False), "row of zeros"),
    ("quantize", packed(top=100), "so that no digit is wasted"),
    ("quantize", lambda weight: packed()(weight)[0], "two things"),
    (
        "quantize",
        lambda weight: (packed()(weight)[0], 2 * packed()(weight)[1]),
        "half a step is enough",
    ),
    ("reply_log_probs", log_probs(shift=0), "Off by one"),
    ("reply_log_probs", log_probs(change=np.exp), "take their natural logarithm"),
    ("reply_log_probs", log_probs(change=lambda x: x / np.log(2)), "in bits"),
    ("reply_log_probs", log_probs(change=np.mean), "one number for each token"),
    ("reply_log_probs", log_probs(start=1), "you return"),
    ("reply_log_probs", log_probs(stable=False), "subtract each row's maximum"),
    ("reply_log_probs", raw_logits, "These are the logits themselves"),
    ("reply_log_probs", log_probs(change=lambda x: x - 1), "normalise over the vocabulary"),
    ("trim", lambda messages, budget, count: messages, "and the budget is"),
    ("trim", trimmer(keep_system=False), "message is gone"),
    ("trim", trimmer(only_user=False), "An answer stands first"),
    ("trim", trimmer(step=4), "messages would fit"),
    ("trim", trimmer(raises=False), "raise a ValueError"),
    ("trim", trimmer(over=1), "and the budget is"),
    ("trim", keeps_the_oldest, "hole in the conversation"),
    ("trim", pops, "changes the list"),
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


def test_other_ways_to_disarm_marks_pass():
    check.chat_prompt(template(lambda text: text.replace("<|", "‹|")))
    check.chat_prompt(template(lambda text: text.replace("<|", "<\u200b|")))
