"""Lesson 13: right answers of every style pass, wrong ones get the sentence that fits."""

import asyncio
import contextlib
import functools
import json
import math
import textwrap
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import nbformat
import openai
from graded import CheckerTests, run_answer
from pydantic import BaseModel, ValidationError

from aigc_utils import chat
from aigc_utils.checks import openai_chat as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "13_openai_chat.ipynb"


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


@functools.cache
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
        if room < 0 and (least == 1 or (free and not each)):
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


def rounds_floats(messages, count, prices, left, most):
    """Forgives floats by a digit too many."""
    room = round(left * 1e6 - prices.prompt * count(messages), 6)
    if room < 0 or room < prices.answer:
        raise ValueError("Not one token can be paid.")
    return min(most, int(round(room / prices.answer, 6))) if prices.answer else most


def multiplies_first(messages, count, prices, left, most):
    """Exact from then on, but `left * 1e6` is a float."""
    text = Fraction(str(left * 1e6))
    return payer(million=1, read=lambda x: text if x is left else Fraction(str(x)))(
        messages, count, prices, left, most
    )


async def promises(messages, count, prices, left, most):
    return 1


def in_search(messages, count, prices, left, most):
    """Right, by halving."""

    def fits(cap):
        costs = count(messages) * Fraction(str(prices.prompt)) + cap * Fraction(str(prices.answer))
        return costs <= Fraction(str(left)) * 10**6

    if not fits(1):
        raise ValueError(f"{left} is too little.")
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def in_whole_numbers(messages, count, prices, left, most):
    """Right, in the smallest coin that all three numbers are made of."""
    a, b, c = (Fraction(repr(x)) for x in (prices.prompt, prices.answer, left))
    unit = math.lcm(a.denominator, b.denominator, c.denominator)
    a, b, room = int(a * unit), int(b * unit), int(c * unit) * 1_000_000
    if a * count(messages) + b > room:
        raise ValueError("Too dear.")
    return most if b == 0 else min(most, (room - a * count(messages)) // b)


def in_decimals(messages, count, prices, left, most):
    """Right, with another tool and another order."""
    each = Decimal(str(prices.answer))
    room = Decimal(str(left)) - count(messages) * Decimal(str(prices.prompt)) / 10**6
    if room < each / 10**6:
        raise ValueError("Not one token can be paid.")
    return min(most, int(room * 10**6 // each)) if each else most


def runner(
    catch=True, known=True, strict=True, name=True, guard=True, whole=True, field=True, dumped=True
):
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
            return None, str(error.errors()[0]["loc"]) if field else f"wrong call of {call['name']}"
        arguments = arguments if dumped else call["arguments"]
        if guard:
            try:
                return function(**arguments), None
            except Exception as error:
                return None, f"it failed: {error}"
        return function(**arguments), None

    return run_call


def run_by_json(text, tools):
    """Right: pydantic reads the arguments from JSON again."""
    try:
        call = json.loads(text)
        name, arguments = call["name"], json.dumps(call["arguments"])
        model, function = tools[name]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return (None, f"{type(error).__name__}: {error}")
    try:
        checked = model.model_validate_json(arguments, strict=True)
        return (function(**checked.model_dump()), None)
    except Exception as error:
        return (None, f"{name}: {error}")


def run_all_in_one(text, tools):
    """Right: one try around everything."""
    try:
        call = json.loads(text)
        model, function = tools[call["name"]]
        return [function(**dict(model.model_validate(call["arguments"], strict=True))), None]
    except Exception as error:
        return [None, repr(error)]


class OneCall(BaseModel, extra="forbid"):
    name: str
    arguments: dict


def run_by_pydantic(text, tools):
    """Right: a class for the call itself."""
    try:
        call = OneCall.model_validate_json(text)
    except ValidationError as error:
        return None, "Not a call: " + "; ".join(each["msg"] for each in error.errors())
    if not (found := tools.get(call.name)):
        return None, f"{call.name} is unknown"
    try:
        arguments = found[0].model_validate(call.arguments, strict=True).model_dump()
    except ValidationError as error:
        fields = ", ".join(str(each["loc"][0]) for each in error.errors())
        return None, f"Wrong fields: {fields}"
    try:
        result = found[1](**arguments)
    except (ArithmeticError, LookupError) as error:
        return None, f"{type(error).__name__}"
    return result, None


def runs_twice(text, tools):
    result = runner()(text, tools)
    return runner()(text, tools) if result[1] is None else result


def says_if_false(text, tools):
    result, complaint = runner()(text, tools)
    return (result, None) if result else (None, complaint or "no result")


def lower_case(text, tools):
    return runner()(text.replace("Divide", "divide"), tools)


def same_words(text, tools):
    result, complaint = runner()(text, tools)
    everything = "eval __import__ Divide dividend divisor remainder word"
    return (None, everything) if complaint else (result, None)


def runs_text(text, tools):
    """Takes the text for Python."""
    try:
        call = eval(text, {"true": True, "false": False, "null": None})
    except Exception:
        return None, "no call"
    return runner()(json.dumps(call), tools)


def digs(text, tools):
    """Looks for a call in the middle of a story."""
    start, end = text.find("{"), text.rfind("}") + 1
    return runner()(text[start:end] if -1 < start < end else text, tools)


def caller(call):
    """A right `run_call`, but for how it hands the arguments over."""

    def run_call(text, tools):
        changed = {
            name: (model, lambda function=function, **arguments: call(function, arguments))
            for name, (model, function) in tools.items()
        }
        return runner()(text, changed)

    return run_call


def uses_up(text, tools):
    found = runner()(text, tools)
    tools.clear()
    return found


def mapper(cut="words", fill=True, again=True, ends=True, once=True, keep=True, glue="\n\n"):
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
            shorter = glue.join(summarise(piece) for piece in pieces)
            if ends and len(shorter) >= len(text):
                raise ValueError
            if ends == "half" and len(shorter) > len(text) / 2:
                raise ValueError("Not half as long.")
            if not again:
                return shorter
            text = shorter
        return summarise(text)

    return summarise_long


def summarise_recursively(text, summarise, limit):
    """Right, with recursion in place of the outer loop and a greedy inner one."""
    if len(text) <= limit:
        return summarise(text)
    parts = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) <= limit:
            parts.append(paragraph)
            continue
        line = ""
        for word in paragraph.split():
            while len(word) > limit:
                if line:
                    parts.append(line)
                    line = ""
                parts.append(word[:limit])
                word = word[limit:]
            if line and len(line) + 1 + len(word) > limit:
                parts.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        if line:
            parts.append(line)
    summaries, i = [], 0
    while i < len(parts):
        j = i + 1
        while j < len(parts) and len("\n\n".join(parts[i : j + 1])) <= limit:
            j += 1
        summaries.append(summarise("\n\n".join(parts[i:j])))
        i = j
    joined = "\n\n".join(summaries)
    if not len(joined) < len(text):
        raise ValueError("It would never end.")
    return summarise_recursively(joined, summarise, limit)


def summarise_paragraphs_apart(text, summarise, limit):
    """Right: a paragraph that was cut is not joined with its neighbours."""
    while len(text) > limit:
        pieces, size = [], 0
        for paragraph in text.split("\n\n"):
            if len(paragraph) > limit:
                pieces += [[part] for part in textwrap.wrap(paragraph, limit)]
                size = limit
            elif pieces and size + 2 + len(paragraph) <= limit:
                pieces[-1].append(paragraph)
                size += 2 + len(paragraph)
            else:
                pieces.append([paragraph])
                size = len(paragraph)
        before, text = len(text), "\n\n".join([summarise("\n\n".join(p)) for p in pieces])
        if len(text) >= before:
            raise ValueError("no shorter")
    return summarise(text)


def with_generator(text, summarise, limit):
    """Right, with a generator of pieces."""

    def pieces(text):
        piece = None
        for paragraph in text.split("\n\n"):
            for part in textwrap.wrap(paragraph, limit) if len(paragraph) > limit else (paragraph,):
                if piece is not None and len(piece) + len(part) + 2 > limit:
                    yield piece
                    piece = None
                piece = part if piece is None else piece + "\n\n" + part
        yield piece

    while (length := len(text)) > limit:
        text = "\n\n".join(map(summarise, pieces(text)))
        if len(text) >= length:
            raise ValueError(f"{len(text)} characters after a round, {length} before")
    return summarise(text)


def three_rounds(text, summarise, limit):
    for _ in range(3):
        if len(text) <= limit:
            break
        pieces = []
        for part in text.split("\n\n"):
            for line in [part] if len(part) <= limit else textwrap.wrap(part, limit):
                joined = "\n\n".join([*pieces[-1:], line])
                pieces = [*pieces[:-1], joined] if len(joined) <= limit else [*pieces, line]
        before, text = len(text), "\n\n".join(map(summarise, pieces))
        if len(text) >= before:
            raise ValueError("no shorter")
    return summarise(text[:limit])


def until_nothing_changes(text, summarise, limit):
    while len(text) > limit:
        shorter = mapper(again=False, ends=False)(text, summarise, limit)
        if shorter == text:
            raise ValueError("Nothing changes any more.")
        text = shorter
    return summarise(text)


def small_letters(text, summarise, limit):
    return mapper()(text, lambda piece: summarise(piece.lower()), limit)


def letters(text, summarise, limit):
    """Cut anywhere."""
    while len(text) > limit:
        shorter = "\n\n".join(summarise(text[i : i + limit]) for i in range(0, len(text), limit))
        if len(shorter) >= len(text):
            raise ValueError("no shorter")
        text = shorter
    return summarise(text)


def strict_less(text, summarise, limit):
    return summarise(text) if len(text) < limit else mapper()(text + " ", summarise, limit)


def swallows(text, summarise, limit):
    try:
        return summarise(text)
    except ValueError:
        return mapper()(text, summarise, limit)


def asker(
    order=True, gate=True, retry=True, keep=True, inside=False, pause=2, only=True, late=0, more=0
):
    """An asynchronous `ask_all` with one thing left out or wrong."""

    async def ask_all(calls, limit, busy, attempts, wait):
        door = asyncio.Semaphore(limit if gate else 99)
        arrived = []

        async def one(call):
            for attempt in range(attempts + more if retry else 1):
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
                    last = attempt == (attempts + more if retry else 1) - 1
                    if last or (only and not isinstance(error, busy)):
                        if keep:
                            return error
                        raise
                if not inside:
                    await asyncio.sleep(wait * pause ** (attempt + late) if pause else 0)

        answers = await asyncio.gather(*(one(call) for call in calls))
        return answers if order else arrived

    return ask_all


async def one_after_another(calls, limit, busy, attempts, wait):
    return [await call() for call in calls]


async def in_chunks(calls, limit, busy, attempts, wait):
    answers = []
    for start in range(0, len(calls), limit):
        some = calls[start : start + limit]
        answers += await solution("ask_all")(some, limit, busy, attempts, wait)
    return answers


def stubborn(gated=lambda attempt: True, pause=asyncio.sleep):
    """An `ask_all` with a gate and retries that sleeps once too often, after the last attempt."""

    async def ask_all(calls, limit, busy, attempts, wait):
        gate = asyncio.Semaphore(limit)

        async def one(call):
            for attempt in range(attempts):
                try:
                    async with gate if gated(attempt) else contextlib.nullcontext():
                        return await call()
                except busy as error:
                    failure = error
                except Exception as error:
                    return error
                await pause(wait * 2**attempt)
            return failure

        return await asyncio.gather(*map(one, calls))

    return ask_all


async def sleep_in_python(seconds):
    time.sleep(seconds / 1000)


async def gate_never_opens(calls, limit, busy, attempts, wait):
    gate = asyncio.Semaphore(limit)

    async def one(call):
        await gate.acquire()
        return await call()

    return await asyncio.gather(*map(one, calls))


async def spins(calls, limit, busy, attempts, wait):
    while True:
        pass


async def as_text(calls, limit, busy, attempts, wait):
    answers = await solution("ask_all")(calls, limit, busy, attempts, wait)
    return [str(answer) for answer in answers]


async def without_failures(calls, limit, busy, attempts, wait):
    answers = await solution("ask_all")(calls, limit, busy, attempts, wait)
    return [answer for answer in answers if isinstance(answer, str)]


async def in_waves(calls, limit, busy, attempts, wait):
    """Tries the refused again when all others have ended."""
    ask = solution("ask_all")
    answers = await ask(calls, limit, busy, 1, wait)
    for attempt in range(1, attempts):
        again = [i for i, answer in enumerate(answers) if isinstance(answer, busy)]
        if not again:
            break
        await asyncio.sleep(wait * 2 ** (attempt - 1))
        found = await ask([calls[i] for i in again], limit, busy, 1, wait)
        for i, answer in zip(again, found, strict=True):
            answers[i] = answer
    return answers


async def one_pause_for_all(calls, limit, busy, attempts, wait):
    gate, pause = asyncio.Semaphore(limit), wait

    async def one(call):
        nonlocal pause
        for left in reversed(range(attempts)):
            try:
                async with gate:
                    return await call()
            except busy as error:
                if not left:
                    return error
            except Exception as error:
                return error
            mine, pause = pause, 2 * pause
            await asyncio.sleep(mine)

    return await asyncio.gather(*map(one, calls))


async def empties(calls, limit, busy, attempts, wait):
    own = [calls.pop(0) for _ in range(len(calls))]
    return await solution("ask_all")(own, limit, busy, attempts, wait)


async def forgets_await(calls, limit, busy, attempts, wait):
    return solution("ask_all")(calls, limit, busy, attempts, wait)


async def stops_at_once(calls, limit, busy, attempts, wait):
    return asyncio.run(solution("ask_all")(calls, limit, busy, attempts, wait))


def not_async(calls, limit, busy, attempts, wait):
    return [None for call in calls]


async def with_workers(calls, limit, busy, attempts, wait):
    """Right: each try is a job of its own in a queue, and `limit` workers take jobs."""
    answers, left = [None] * len(calls), len(calls)
    jobs, done = asyncio.Queue(), asyncio.Event()
    for i in range(len(calls)):
        jobs.put_nowait((i, 0))

    async def later(i, attempt):
        await asyncio.sleep(wait * 2 ** (attempt - 1))
        jobs.put_nowait((i, attempt))

    async def work():
        nonlocal left
        while True:
            i, attempt = await jobs.get()
            try:
                answers[i] = await calls[i]()
            except Exception as error:
                if isinstance(error, busy) and attempt + 1 < attempts:
                    waiting.append(asyncio.create_task(later(i, attempt + 1)))
                    continue
                answers[i] = error
            left -= 1
            if not left:
                done.set()

    waiting, workers = [], [asyncio.create_task(work()) for _ in range(limit)]
    if calls:
        await done.wait()
    for worker in workers:
        worker.cancel()
    return answers


async def with_group(calls, limit, busy, attempts, wait):
    """Right: a task group and a recursive attempt."""
    gate = asyncio.BoundedSemaphore(limit)

    async def attempt(call, left, pause):
        try:
            async with gate:
                return await call()
        except busy as error:
            if left == 1:
                return error
        except Exception as error:
            return error
        await asyncio.sleep(pause)
        return await attempt(call, left - 1, 2 * pause)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(call, attempts, wait)) for call in calls]
    return [task.result() for task in tasks]


async def with_returned_exceptions(calls, limit, busy, attempts, wait):
    """Right: gather keeps the exceptions; the gate is opened and shut by hand."""
    gate = asyncio.Semaphore(limit)

    async def one(call):
        pause = wait
        for left in reversed(range(attempts)):
            await gate.acquire()
            try:
                return await call()
            except busy:
                if not left:
                    raise
            finally:
                gate.release()
            await asyncio.sleep(pause)
            pause += pause

    return await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)


RIGHT = {
    "affordable": [payer(), in_decimals, in_search, in_whole_numbers, solution("affordable")],
    "run_call": [
        runner(),
        run_by_json,
        run_all_in_one,
        run_by_pydantic,
        solution("run_call"),
    ],
    "summarise_long": [
        mapper(),
        summarise_recursively,
        summarise_paragraphs_apart,
        with_generator,
        solution("summarise_long"),
    ],
    "ask_all": [
        asker(),
        with_workers,
        with_group,
        with_returned_exceptions,
        solution("ask_all"),
    ],
}
WRONG = {
    "affordable": [
        (payer(prompt=lambda prices: 0), "prompt's price is missing"),
        (payer(prompt=lambda prices: prices.prompt / 1e6), "next to nothing"),
        (payer(million=1), "are for a *million* tokens"),
        (payer(million=1000), "are for a *million* tokens"),
        (payer(million=1, least=-math.inf), "your cap is -"),
        (payer(prompt=lambda prices: prices.answer), "a price each"),
        (payer(answer=lambda prices: prices.prompt), "a price each"),
        (
            payer(prompt=lambda prices: prices.answer, answer=lambda prices: prices.prompt),
            "changed places",
        ),
        (payer(down=math.ceil), "Round down"),
        (payer(down=round), "Round down"),
        (lambda messages, count, prices, left, most: most, "would cost … only"),
        (payer(down=lambda x: int(x) - 1), "*largest*"),
        (payer(down=float), "of type float"),
        (payer(down=lambda x: float(int(x))), "of type float"),
        (payer(cap=lambda most, found: found), "more than `most`"),
        (payer(least=0), "your cap is 0: raise ValueError"),
        (payer(least=-math.inf), "your function returns -"),
        (payer(down=lambda x: max(1, int(x))), "raise ValueError"),
        (payer(least=2), "just enough for one token … the cap is 1"),
        (payer(sentence=""), "Your ValueError is silent"),
        (payer(free=False), "A price of 0 for answers"),
        (payer(free=False, read=lambda x: Decimal(str(x))), "A price of 0 for answers"),
        (payer(prompt_first=False), "can be paid, and your function returns 700"),
        (payer(read=float), "floats round"),
        (payer(read=Fraction), "floats round"),
        (payer(read=Decimal), "floats round"),
        (ledger, "floats round"),
        (payer(down=lambda x: int(round(x, 3))), "floats round"),
        (rounds_floats, "floats round"),
        (multiplies_first, "floats round"),
        (promises, "is an `async def`"),
        (pops, "changes its input `messages`"),
        (counts_one, "Give `count` the list"),
    ],
    "run_call": [
        (runner(catch=False), "must never stop the program"),
        (runner(known=False), "must never stop the program"),
        (runner(whole=False), "must never stop the program"),
        (runner(strict=False), "(2.0, None) (it ran `divide`)"),
        (runner(name=False), "must name it (eval)"),
        (runner(guard=False), "a call whose function raises ZeroDivisionError … must never stop"),
        (runner(field=False), "must name it (dividend)"),
        (runner(dumped=False), "must give (2.3, None), and yours is refused"),
        (runs_twice, "it ran 2 times"),
        (says_if_false, "must give (0, None), and yours is refused"),
        (lower_case, "a capital letter … ran `divide`"),
        (same_words, "get the same complaint"),
        (lambda text, tools: (None, "no"), "must give (1.5, None), and yours is refused"),
        (lambda text, tools: 1.5, "must return 2 things"),
        (lambda text, tools: ("1.5", None), "ran 0 times"),
        (lambda text, tools: run_all_in_one(text, tools)[::-1], "and yours is (None, 1.5)"),
        (lambda text, tools: (1.5, ""), "and yours is (1.5, '')"),
        (runs_text, "Given Python instead of JSON"),
        (digs, "Given a story with a call in it"),
        (caller(lambda function, given: function(*given.values())), "look_up"),
        (
            caller(
                lambda function, given: function(
                    **{k: v for k, v in given.items() if v is not None}
                )
            ),
            "must give ('cat, anywhere', None), and yours is refused",
        ),
        (uses_up, "changes its input `tools`"),
    ],
    "summarise_long": [
        (mapper(cut="never"), "takes 200 at most"),
        (mapper(cut="all"), "must stay whole"),
        (mapper(fill=False), "as many paragraphs as fit"),
        (mapper(keep=False), "never reach the summary"),
        (mapper(ends=False), "It never ends"),
        (mapper(ends="half"), "raise ValueError only when a round makes it no shorter"),
        (mapper(once=False), "exactly one call"),
        (mapper(again=False), "the summary of the last call"),
        (mapper(glue=" "), 'summaries of a round must be joined by "\\n\\n"'),
        (mapper(glue="\n"), 'summaries of a round must be joined by "\\n\\n"'),
        (lambda text, summarise, limit: summarise(text[:limit]), "never reach"),
        (lambda text, summarise, limit: summarise(text), "takes 200 at most"),
        (three_rounds, "go on until it fits"),
        (letters, "must stay whole"),
        (strict_less, "exactly one call"),
        (until_nothing_changes, "after the first round that makes the text no shorter"),
        (small_letters, "never reach the summary"),
        (swallows, "takes 200 at most"),
        (lambda text, summarise, limit: text[:limit], "`summarise` is never called"),
    ],
    "ask_all": [
        (asker(order=False), "in the order of the calls"),
        (asker(gate=False), "8 calls were being awaited"),
        (asker(retry=False), "must be tried again"),
        (asker(keep=False), "takes all the others with it"),
        (asker(inside=True), "The gate stays shut"),
        (asker(pause=0), "Wait before you try again"),
        (asker(pause=1), "must double"),
        (asker(pause=4), "must double"),
        (asker(late=1), "must double"),
        (asker(more=1), "With attempts=3 a busy call was tried 4 times"),
        (asker(only=False), "Only `busy`"),
        (one_after_another, "one after another"),
        (in_chunks, "the next must start at once"),
        (stubborn(pause=sleep_in_python), "await asyncio.sleep"),
        (gate_never_opens, "a gate that is never opened again"),
        (spins, "still running after"),
        (as_text, "its exception must stand in the list"),
        (without_failures, "one entry for each of 6 calls"),
        (stubborn(gated=lambda attempt: attempt == 0), "the gate holds for another try"),
        (not_async, "must stay an `async def`"),
        (in_waves, "The pauses must double"),
        (one_pause_for_all, "The pauses must double"),
        (stubborn(), "after the last attempt"),
        (empties, "changes its input `calls`"),
        (forgets_await, "put `await` before it"),
        (stops_at_once, "`ask_all(calls, 3,"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
