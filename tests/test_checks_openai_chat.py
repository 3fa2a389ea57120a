"""Lesson 13: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import asyncio
import json
import textwrap
from pathlib import Path

import nbformat
import openai
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, run_answer
from pydantic import BaseModel, ValidationError

from aigc_utils.checks import CheckFailed
from aigc_utils.checks import openai_chat as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "13_openai_chat.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {
        "asyncio": asyncio,
        "json": json,
        "openai": openai,
        "BaseModel": BaseModel,
        "ValidationError": ValidationError,
    }
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def trimmer(step=2, greedy=False, refuse=True, in_place=False, tail=None):
    """A trimming function with one thing left out or wrong."""

    def trim(messages, limit, count):
        kept = messages if in_place else list(messages)
        first = 1 if kept[0]["role"] == "system" else 0
        while count(kept) > limit and len(kept) > first + 1:
            del kept[first : first + step]
        if greedy:
            del kept[first : first + step]
        if refuse and count(kept) > limit:
            raise ValueError
        return kept[:tail]

    return trim


def without_rules(messages, limit, count):
    return trimmer()([m for m in messages if m["role"] != "system"], limit, count)


def runner(catch=True, known=True, strict=True, name=True, guard=True, whole=True):
    """A function that runs calls, with one check left out."""

    def run_call(text, tools):
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            if not catch:
                raise
            return None, "no JSON"
        if whole and (not isinstance(call, dict) or set(call) != {"name", "arguments"}):
            return None, "no call"
        if not isinstance(call["name"], str) or call["name"] not in tools:
            if not known:
                return eval(call["name"]), None
            return None, f"unknown {call['name']}" if name else "no such function"
        model, function = tools[call["name"]]
        try:
            arguments = model.model_validate(call["arguments"], strict=strict).model_dump()
        except ValidationError as error:
            return None, str(error.errors()[0]["loc"])
        if guard:
            try:
                return function(**arguments), None
            except Exception as error:
                return None, f"it failed: {error}"
        return function(**arguments), None

    return run_call


def mapper(cut="words", fill=True, again=True, ends=True, once=True, keep=True):
    """A map–reduce with one thing left out or wrong."""

    def summarise_long(text, summarise, limit):
        if not once:
            text = summarise(text)
        while len(text) > limit:
            pieces = [""]
            parts = [
                part
                for paragraph in (
                    textwrap.wrap(text, limit) if cut == "all" else text.split("\n\n")
                )
                for part in (
                    [paragraph]
                    if cut == "never" or len(paragraph) <= limit
                    else textwrap.wrap(paragraph, limit)
                )
            ]
            for part in parts:
                joined = f"{pieces[-1]}\n\n{part}" if pieces[-1] else part
                if (fill or not pieces[-1]) and len(joined) <= limit:
                    pieces[-1] = joined
                else:
                    pieces.append(part)
            pieces = [piece for piece in pieces if piece]
            if not keep:
                pieces = pieces[:-1]
            shorter = "\n\n".join(summarise(piece) for piece in pieces)
            if ends and len(shorter) >= len(text):
                raise ValueError
            if not again:
                return shorter
            text = shorter
        return summarise(text)

    return summarise_long


def asker(order=True, gate=True, retry=True, keep=True, inside=False, pause=2, only=True):
    """An asynchronous `ask_all` with one thing left out or wrong."""

    async def ask_all(calls, limit, busy, attempts, wait):
        door = asyncio.Semaphore(limit if gate else 99)
        arrived = []

        async def one(call):
            for attempt in range(attempts if retry else 1):
                try:
                    async with door:
                        try:
                            found = await call()
                            arrived.append(found)
                            return found
                        except busy:
                            if inside:
                                await asyncio.sleep(wait * 2**attempt)
                            raise
                except Exception as error:
                    last = attempt == (attempts if retry else 1) - 1
                    if last or (only and not isinstance(error, busy)):
                        if keep:
                            return error
                        raise
                if not inside:
                    await asyncio.sleep(wait * pause**attempt if pause else 0)

        answers = await asyncio.gather(*(one(call) for call in calls))
        return answers if order else arrived

    return ask_all


async def one_after_another(calls, limit, busy, attempts, wait):
    return [await call() for call in calls]


def not_async(calls, limit, busy, attempts, wait):
    return [None for call in calls]


WRONG = [
    ("trim", trimmer(step=1), "half turn"),
    ("trim", without_rules, "system message is gone"),
    ("trim", trimmer(greedy=True), "must stay"),
    ("trim", trimmer(refuse=False), "must raise ValueError"),
    ("trim", trimmer(in_place=True), "changes the list"),
    ("trim", trimmer(tail=-1), "The question"),
    ("trim", lambda messages, limit, count: list(messages), "With a limit of"),
    ("trim", lambda m, limit, count: [*m[: m[0]["role"] == "system"], m[-1]], "More was left out"),
    ("run_call", runner(catch=False), "must never stop the program"),
    ("run_call", runner(known=False), "must never stop the program"),
    ("run_call", runner(whole=False), "must never stop the program"),
    ("run_call", runner(strict=False), "your function ran `divide` all the same"),
    ("run_call", runner(name=False), "must name it (eval)"),
    ("run_call", runner(guard=False), "raises ZeroDivisionError"),
    ("run_call", lambda text, tools: (None, "no"), "must give (1.5, None)"),
    ("run_call", lambda text, tools: 1.5, "must return a pair"),
    ("summarise_long", mapper(cut="never"), "takes 200 at most"),
    ("summarise_long", mapper(cut="all"), "must stay whole"),
    ("summarise_long", mapper(fill=False), "As many paragraphs as fit"),
    ("summarise_long", mapper(keep=False), "never reach the summary"),
    ("summarise_long", mapper(ends=False), "It never ends"),
    ("summarise_long", mapper(once=False), "exactly one call"),
    ("summarise_long", lambda text, summarise, limit: summarise(text[:limit]), "never reach"),
    ("summarise_long", lambda text, summarise, limit: summarise(text), "takes 200 at most"),
    ("ask_all", asker(order=False), "in the order of the calls"),
    ("ask_all", asker(gate=False), "8 calls were being awaited"),
    ("ask_all", asker(retry=False), "must be tried again"),
    ("ask_all", asker(keep=False), "takes all the others with it"),
    ("ask_all", asker(inside=True), "The gate stays shut"),
    ("ask_all", asker(pause=0), "Wait before you try again"),
    ("ask_all", asker(pause=1), "must double"),
    ("ask_all", asker(only=False), "Only `busy`"),
    ("ask_all", one_after_another, "one after another"),
    ("ask_all", not_async, "must stay an `async def`"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes(name, capsys):
    assert getattr(check, name)(solution(name)) is None
    assert capsys.readouterr().out.splitlines()[-1].startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    with pytest.raises(CheckFailed, match=f"`{name}` gives nothing back yet"):
        getattr(check, name)(stub)


@pytest.mark.parametrize(("name", "wrong", "sentence"), WRONG)
def test_a_wrong_answer_gets_its_sentence(name, wrong, sentence):
    with pytest.raises(CheckFailed) as failed:
        getattr(check, name)(wrong)
    message = str(failed.value)
    assert sentence in message
    assert message.endswith(".") and "\n" not in message


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)
