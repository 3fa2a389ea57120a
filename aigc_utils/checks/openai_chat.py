"""Checkers and hints of lesson 13's exercises (a budget, checked calls, map–reduce, a gate)."""

import asyncio
import copy
import json
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from pydantic import BaseModel

from aigc_utils.chat import Prices
from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints

HINTS: HintTable = {
    "affordable": (
        "Write down what the request costs when the answer runs on to its last token. Two prices, "
        "two counts, one million.",
        "Take the prompt off first: room = left * 1_000_000 - tokens * price of the prompt. How "
        "often does the price of an answer token go into that? What if it is less than one token, "
        "and what if that price is 0?",
        "Python's floats lose the last token: compute with Fraction(str(left)) and "
        "Fraction(str(price)). if room < price: raise ValueError(…). Otherwise room // price is "
        "whole and rounded down, and min(…, most) holds the cap.",
    ),
    "run_call": (
        "Write down what can be wrong, in the order in which you find out: no JSON, no such "
        "object, no such function, wrong arguments, an error in the function.",
        "`json.loads` raises ValueError; check `isinstance(call, dict)` and its keys before you "
        "use them; `tools.get` finds only what you allow; pydantic does the arguments.",
        "except ValidationError as error: first = error.errors()[0] has 'loc' (the field) and "
        "'msg'. The function's own errors need a second try, around function(**…) alone.",
    ),
    "summarise_long": (
        "Two loops: one that goes on while the text is too long, and within it one that fills "
        "pieces with paragraphs.",
        "Keep a list of pieces; add a paragraph to the last one when the sum, with the two line "
        "ends between, is at most `limit`, otherwise begin a new one.",
        "while len(text) > limit: pieces = …; shorter = '\\n\\n'.join(map(summarise, pieces)); "
        "compare the lengths; text = shorter. And after the loop, return summarise(text).",
    ),
    "ask_all": (
        "`asyncio.Semaphore(limit)` is the gate, `asyncio.gather` keeps the order. What happens "
        "to one call belongs into a small async function of its own.",
        "`async with gate:` around `await call()` only. When you wait for the next attempt, the "
        "gate must be open for others.",
        "async def one(call): for attempt in range(attempts): try: async with gate: return await "
        "call(); except busy … ; except Exception as error: return error; then "
        "await asyncio.sleep(wait * 2**attempt).",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


_QUESTION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]


def affordable(function: Callable[..., Any]) -> None:
    """Check ``affordable(messages, count, prices, left, most)``, to the last token."""
    _check_one_sum(function)
    demand(
        _cap(function, 1201, (2.5, 10), 0.0205, most=500) == 500,
        "More money is no reason to ask for more than `most`.",
    )
    _check_refusals(function)
    for price in (2.5, 0):
        demand(
            _cap(function, 400, (price, 0), 400 * price / 1e6, most=700) == 700,
            "Where an answer costs nothing and the prompt is paid, `most` is right.",
        )
    demand(
        _cap(function, 400, (2.5, 0), 0.0009) is None,
        "Answers may be free, but here the prompt alone costs more than is left: raise ValueError.",
    )
    # In both of these every usual way to write the sum in floats loses a token.
    for tokens, prices, left, right in (
        (4, (0.3, 0.2), 0.0006, 2994),
        (4, (0.2, 1.1), 0.0003, 272),
    ):
        demand(
            _cap(function, tokens, prices, left) == right,
            f"With prices of {prices[0]} and {prices[1]}, {left} coins pay for a whole number of "
            "tokens, and your cap is another: floats round, so take each number as it is written.",
        )
    demand(
        _cap(function, 4, (0.3, 0.2), 0.000599999999) == 2993,
        "When a hair of money is missing for the last token, that token must not be bought.",
    )
    praise("no answer can cost more than is left, and no token is given away.")


def _check_one_sum(function: Callable[..., Any]) -> None:
    """Check a sum that comes out differently for each usual mistake, so that it can be named."""
    tokens, prices, left = 1201, (2.5, 10.0), 0.0205
    cap = _cap(function, tokens, prices, left) or 0
    demand(cap >= 1, "A request that can be paid is refused: prices are for a *million* tokens.")
    one_price = "Prompt and answer have a price each, and yours are paid with the same one."
    mistakes = {
        2050: "The prompt's price is missing: what the model reads is paid for, too.",
        2049: "In your sum the prompt costs next to nothing: divide by the million only once.",
        849: one_price,
        6999: one_price,
        3396: "The two prices have changed places: `prices.prompt` is for what the model reads.",
        1750: "Round down: the last token of your answer is not paid for in full.",
    }
    demand(cap not in mistakes, mistakes.get(cap, ""))
    cost = _prices(*prices).cost(tokens, cap)
    demand(
        cost <= left,
        f"With your cap the request may cost {cost:.4f} coins, and {left} are left.",
    )
    demand(cap == 1749, "A longer answer could be paid, too: return the *largest* cap.")


def _check_refusals(function: Callable[..., Any]) -> None:
    """Check the edge: 900 millionths of a coin for the prompt, and 100 for the first token."""
    # Here floats are right, so that nothing is blamed on the edge that is due to them.
    for left in (0, 0.0008, 0.0009, 0.00095):
        cap = _cap(function, 300, (3, 100), left)
        demand(
            cap is None,
            f"Your function returns {cap} where not even one token of an answer can be paid: "
            "raise ValueError.",
        )
    demand(
        _cap(function, 300, (3, 100), 0.001) == 1,
        "When the money is just enough for one token of an answer, the cap is 1.",
    )


def _prices(prompt: float, answer: float) -> Prices:
    return Prices(prompt, answer, currency="coins", source="made up", date="today")


def _cap(
    function: Callable[..., Any],
    tokens: int,
    prices: tuple[float, float],
    left: float,
    most: int = 10_000,
) -> int | None:
    """Return the learner's cap for a prompt of ``tokens`` tokens, or None for a refusal."""
    messages = copy.deepcopy(_QUESTION)

    def count(given: Any) -> int:
        demand(given == _QUESTION, "Give `count` the list of messages as it came to you.")
        return tokens

    try:
        cap = function(messages, count, _prices(*prices), left, most)
    except ValueError as error:
        demand(str(error).strip(), "Your ValueError is silent: say in a sentence what is wrong.")
        return None
    except ArithmeticError:
        demand(prices[1], "A price of 0 for answers breaks your sum: ask what can be paid then.")
        raise
    answered(cap, "affordable")
    demand(messages == _QUESTION, "Your function changes the messages that it was given.")
    demand(
        type(cap) is int,
        f"A cap is a whole number, an int: yours is of type {type(cap).__name__}.",
    )
    return cap


class _Pair(BaseModel, extra="forbid"):
    a: int
    b: int


class _Word(BaseModel, extra="forbid"):
    word: str


def run_call(function: Callable[..., Any]) -> None:
    """Check ``run_call(text, tools)`` -> (result, None) or (None, complaint)."""
    calls: list[str] = []

    def divide(a: int, b: int) -> float:
        calls.append("divide")
        return a / b

    def count_letters(word: str) -> int:
        calls.append("count_letters")
        return len(word)

    tools = {"divide": (_Pair, divide), "count_letters": (_Word, count_letters)}

    def run(text: str) -> tuple[Any, Any]:
        try:
            answer = function(text, tools)
        except Exception as error:
            demand(
                False,
                f"On {text[:48]!r} your function raises {type(error).__name__}: a model's text "
                "must never stop the program.",
            )
        answered(answer, "run_call")
        demand(
            isinstance(answer, tuple) and len(answer) == 2,
            "`run_call` must return a pair: (result, None) or (None, complaint).",
        )
        return answer

    good: list[tuple[str, dict[str, Any], Any]] = [
        ("divide", {"a": 6, "b": 4}, 1.5),
        ("count_letters", {"word": ""}, 0),
    ]
    for name, arguments, right in good:
        result, complaint = run(json.dumps({"name": name, "arguments": arguments}))
        demand(
            result == right and complaint is None,
            f"The valid call {name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}) must "
            f"give ({right!r}, None).",
        )
    bad = [
        ("Sure, I will call divide for you!", "", "text that is not JSON"),
        ("[1, 2]", "", "a JSON list"),
        ("null", "", "JSON null"),
        ("[" * 100_000, "", "a deep nest of brackets"),
        ('{"name": "divide"}', "", "a call without arguments"),
        ('{"name": ["divide"], "arguments": {}}', "", "a name that is no text"),
        ('{"name": "eval", "arguments": {"a": 1}}', "eval", "a function that is not offered"),
        ('{"name": "__import__", "arguments": {}}', "__import__", "a function of Python's own"),
        ('{"name": "divide", "arguments": {"a": "6", "b": 3}}', "a", "a number given as text"),
        ('{"name": "divide", "arguments": {"a": 6}}', "b", "a missing argument"),
        ('{"name": "divide", "arguments": {"a": 6, "b": 3, "c": 1}}', "c", "one argument too many"),
        ('{"name": "divide", "arguments": [6, 3]}', "", "arguments in a list"),
    ]
    for text, named, what in bad:
        calls.clear()
        result, complaint = run(text)
        demand(not calls, f"Given {what}, your function ran `{'`, `'.join(calls)}` all the same.")
        demand(
            result is None and isinstance(complaint, str) and complaint.strip(),
            f"Given {what}, the answer must be (None, complaint).",
        )
        demand(
            named in complaint,
            f"Given {what}, the complaint must name it ({named}), or the model cannot mend it.",
        )
    result, complaint = run('{"name": "divide", "arguments": {"a": 1, "b": 0}}')
    demand(
        result is None and isinstance(complaint, str) and complaint.strip(),
        "An error inside the function is a complaint too: (None, complaint).",
    )
    praise("what is valid runs once, and nothing else runs at all.")


def summarise_long(function: Callable[..., Any]) -> None:
    """Check ``summarise_long(text, summarise, limit)`` with summaries that can be traced."""
    limit = 200
    short = "#first is short.\n\n#second too."
    seen: list[str] = []

    def summarise(piece: str) -> str:
        demand(
            len(piece) <= limit,
            f"A piece has {len(piece)} characters, and `summarise` takes {limit} at most.",
        )
        demand(piece.strip(), "An empty piece was sent to `summarise`.")
        seen.append(piece)
        return "+".join(word for word in piece.replace("+", " ").split() if word.startswith("#"))

    answer = function(short, summarise, limit)
    answered(answer, "summarise_long")
    demand(seen == [short], "A text that fits takes exactly one call, with the whole text.")

    texts = {
        "many paragraphs": _paragraphs(36, words=8),
        "one long paragraph": " ".join(f"filler filler filler filler #{i}" for i in range(36)),
        "one word without an end": "x" * 700 + " #0",
        "paragraphs of very different length": "\n\n".join(
            [_paragraphs(1, words=70), *(_paragraphs(1, words=3, first=i) for i in range(1, 9))]
        ),
    }
    for name, text in texts.items():
        seen.clear()
        answer = function(text, summarise, limit)
        found = answer.split("+") if isinstance(answer, str) else []
        right = [word for word in text.split() if word.startswith("#")]
        demand(set(found) == set(right), f"With {name}, parts of the text never reach the summary.")
        demand(found == right, f"With {name}, the order of the text is lost, or parts come twice.")
    seen.clear()
    function(texts["many paragraphs"], summarise, limit)
    best = _fill(texts["many paragraphs"].split("\n\n"), limit)
    first = [piece for piece in seen if "filler" in piece]
    demand(
        all("#" in piece.split()[0] for piece in first),
        "Paragraphs that fit must stay whole: cut between them, not within.",
    )
    demand(
        len(first) == best,
        f"As many paragraphs as fit belong into a piece: {best} pieces are enough here, and you "
        f"made {len(first)}.",
    )
    _check_it_ends(function)
    praise("every part is read once, no piece is too long, and it always ends.")


def _paragraphs(n: int, *, words: int, first: int = 0) -> str:
    return "\n\n".join(f"#{first + i} " + " ".join(["filler"] * words) for i in range(n))


def _fill(paragraphs: list[str], limit: int) -> int:
    """Return how many pieces the paragraphs make when each takes as many as fit."""
    pieces, size = 1, -2
    for paragraph in paragraphs:
        if size + 2 + len(paragraph) > limit:
            pieces, size = pieces + 1, -2
        size += 2 + len(paragraph)
    return pieces


class _EndlessError(Exception):
    """Raised by the checker's own stand-in after too many calls."""


def _check_it_ends(function: Callable[..., Any]) -> None:
    """Check that summaries which do not get shorter end in ValueError."""
    calls = 0

    def copy_back(piece: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 500:
            raise _EndlessError
        return piece

    try:
        function(_paragraphs(12, words=8), copy_back, 200)
    except ValueError:
        return
    except (_EndlessError, RecursionError):
        demand(False, "It never ends when the summaries are as long as the text.")
    demand(False, "When a round makes the text no shorter, raise ValueError.")


class _BusyError(Exception):
    """What the checker's stand-in provider raises when it is busy."""


class _Provider:
    """Counts who is inside; a number below zero or above what is allowed is a mistake."""

    def __init__(self, refusals: dict[int, int] | None = None, broken: set[int] | None = None):
        self.inside = self.peak = 0
        self.tries: dict[int, list[float]] = {}
        self.refusals, self.broken = refusals or {}, broken or set()

    def call(self, i: int) -> Callable[[], Coroutine[Any, Any, str]]:
        async def answer() -> str:
            self.tries.setdefault(i, []).append(time.perf_counter())
            self.inside += 1
            self.peak = max(self.peak, self.inside)
            try:
                await asyncio.sleep(0.03 - 0.002 * i)  # the last ones are the first to end
            finally:
                self.inside -= 1
            if len(self.tries[i]) <= self.refusals.get(i, 0):
                raise _BusyError(f"busy {i}")
            if i in self.broken:
                raise RuntimeError(f"broken {i}")
            return f"answer {i}"

        return answer


def ask_all(function: Callable[..., Any]) -> None:
    """Check ``ask_all(calls, limit, busy, attempts, wait)``, an asynchronous function."""
    provider = _Provider()
    answers = _run(function, provider, 8, limit=3)
    answered(answers, "ask_all")
    demand(
        isinstance(answers, list) and len(answers) == 8,
        "`ask_all` must return a list with one entry for each call.",
    )
    demand(
        answers == [f"answer {i}" for i in range(8)],
        "The answers must stand in the order of the calls, not in that of their arrival.",
    )
    demand(
        provider.peak <= 3,
        f"With a limit of 3, {provider.peak} calls were being awaited at once.",
    )
    demand(
        provider.peak > 1,
        "The calls run one after another: start them together and let the gate hold them back.",
    )
    demand(provider.peak == 3, "Fewer calls than the limit allows run together.")
    _check_failures(function)
    praise("in order, never too many, and one failure costs no one else an answer.")


def _check_failures(function: Callable[..., Any]) -> None:
    provider = _Provider(refusals={1: 2, 4: 9}, broken={2})
    try:
        answers = _run(function, provider, 6, limit=2)
    except (_BusyError, RuntimeError):
        demand(False, "One call that fails takes all the others with it: keep its exception.")
    demand(
        answers[1] == "answer 1",
        "A call that was refused twice and would then succeed must be tried again.",
    )
    demand(
        isinstance(answers[2], RuntimeError) and isinstance(answers[4], _BusyError),
        "Where a call fails for good, its exception must stand in the list.",
    )
    demand(
        len(provider.tries[2]) == 1,
        "Only `busy` is worth another try: another exception comes back each time.",
    )
    demand(
        len(provider.tries[4]) == 3,
        f"With attempts=3 a busy call was tried {len(provider.tries[4])} times.",
    )
    demand(
        [answers[i] for i in (0, 3, 5)] == ["answer 0", "answer 3", "answer 5"],
        "The answers beside a failed call are lost.",
    )
    first, second, third = provider.tries[4]
    demand(second - first > 0.06, "Wait before you try again: a busy provider needs a pause.")
    demand(
        third - second > 0.12,
        "The pauses must double: wait, 2 * wait, 4 * wait.",
    )
    patient = _Provider(refusals={0: 1})
    _run(function, patient, 2, limit=1, wait=0.3)
    demand(
        patient.tries[1][0] - patient.tries[0][0] < 0.3,
        "The gate stays shut while a refused call pauses: sleep outside of it.",
    )


def _run(
    function: Callable[..., Any], provider: _Provider, n: int, *, limit: int, wait: float = 0.06
) -> Any:
    """Run the learner's coroutine in a thread of its own: a notebook's loop is taken."""
    box: dict[str, Any] = {}

    async def attempt() -> Any:
        calls = [provider.call(i) for i in range(n)]
        work = function(calls, limit, busy=_BusyError, attempts=3, wait=wait)
        demand(asyncio.iscoroutine(work), "`ask_all` must stay an `async def` function.")
        return await asyncio.wait_for(work, 20)

    def run() -> None:
        try:
            box["answer"] = asyncio.run(attempt())
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in box:
        demand(
            not isinstance(box["error"], TimeoutError),
            "It does not end: a gate that is never opened again holds all others back.",
        )
        raise box["error"]
    return box["answer"]
