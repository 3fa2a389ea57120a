"""Lesson 13: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import asyncio
import json
import math
import textwrap
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import nbformat
import openai
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, assert_refused, run_answer
from pydantic import BaseModel, ValidationError

from aigc_utils import chat
from aigc_utils.checks import openai_chat as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "13_openai_chat.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {
        "asyncio": asyncio,
        "json": json,
        "chat": chat,
        "Fraction": Fraction,
        "openai": openai,
        "BaseModel": BaseModel,
        "ValidationError": ValidationError,
    }
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def payer(
    read=lambda x: Fraction(str(x)),
    million=10**6,
    prompt=lambda prices: prices.prompt,
    answer=lambda prices: prices.answer,
    down=int,
    cap=min,
    least=1,
    free=True,
    prompt_first=True,
    sentence="Not one token can be paid.",
):
    """A function that finds what is affordable, with one thing left out or wrong."""

    def affordable(messages, count, prices, left, most):
        each = read(answer(prices))
        room = read(left) * million - count(messages) * read(prompt(prices))
        if free and not each and (room >= 0 or not prompt_first):
            return most
        if room < 0 and least == 1:
            raise ValueError(sentence)
        found = down(room / each)
        if found < least:
            raise ValueError(sentence)
        return cap(most, found)

    return affordable


def ledger(messages, count, prices, left, most):
    """Asks the prices themselves, in floats, from the top."""
    tokens = count(messages)
    for cap in range(most, 0, -1):
        if prices.cost(tokens, cap) <= left:
            return cap
    raise ValueError("Not one token can be paid.")


def pops(messages, count, prices, left, most):
    cap = payer()(messages, count, prices, left, most)
    messages.pop()
    return cap


def counts_one(messages, count, prices, left, most):
    return payer()(messages[-1:], count, prices, left, most)


def in_decimals(messages, count, prices, left, most):
    """Right, with another tool and another order."""
    each = Decimal(str(prices.answer))
    room = Decimal(str(left)) - count(messages) * Decimal(str(prices.prompt)) / 10**6
    if room < each / 10**6:
        raise ValueError("Not one token can be paid.")
    return min(most, int(room * 10**6 // each)) if each else most


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
    ("affordable", payer(prompt=lambda prices: 0), "prompt's price is missing"),
    ("affordable", payer(prompt=lambda prices: prices.prompt / 1e6), "next to nothing"),
    ("affordable", payer(million=1), "are for a *million* tokens"),
    ("affordable", payer(million=1000), "are for a *million* tokens"),
    ("affordable", payer(million=1, least=-math.inf), "are for a *million* tokens"),
    ("affordable", payer(prompt=lambda prices: prices.answer), "a price each"),
    ("affordable", payer(answer=lambda prices: prices.prompt), "a price each"),
    (
        "affordable",
        payer(prompt=lambda prices: prices.answer, answer=lambda prices: prices.prompt),
        "changed places",
    ),
    ("affordable", payer(down=math.ceil), "Round down"),
    ("affordable", payer(down=round), "Round down"),
    ("affordable", lambda messages, count, prices, left, most: most, "the request may cost"),
    ("affordable", payer(down=lambda x: int(x) - 1), "*largest*"),
    ("affordable", payer(down=float), "of type float"),
    ("affordable", payer(down=lambda x: float(int(x))), "of type float"),
    ("affordable", payer(cap=lambda most, found: found), "more than `most`"),
    ("affordable", payer(least=0), "returns 0 where"),
    ("affordable", payer(least=-math.inf), "returns -9 where"),
    ("affordable", payer(down=lambda x: max(1, int(x))), "returns 1 where"),
    ("affordable", payer(least=2), "just enough for one token"),
    ("affordable", payer(sentence=""), "Your ValueError is silent"),
    ("affordable", payer(free=False), "A price of 0 for answers"),
    ("affordable", payer(free=False, read=lambda x: Decimal(str(x))), "A price of 0 for answers"),
    ("affordable", payer(prompt_first=False), "the prompt alone costs more"),
    ("affordable", payer(read=float), "floats round"),
    ("affordable", payer(read=Fraction), "floats round"),
    ("affordable", payer(read=Decimal), "floats round"),
    ("affordable", ledger, "floats round"),
    ("affordable", payer(down=lambda x: int(round(x, 3))), "a hair of money"),
    ("affordable", pops, "changes the messages"),
    ("affordable", counts_one, "Give `count` the list"),
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


def test_an_affordable_in_decimals_passes(capsys):
    check.affordable(in_decimals)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    assert_refused(check, name, stub, f"`{name}` gives nothing back yet")


@pytest.mark.parametrize(("name", "wrong", "sentence"), WRONG)
def test_a_wrong_answer_gets_its_sentence(name, wrong, sentence):
    assert_refused(check, name, wrong, sentence)


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)
