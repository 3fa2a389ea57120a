"""Checkers and hints of lesson 13's exercises (a budget, checked calls, map–reduce, a gate)."""

import asyncio
import inspect
import json
import math
import operator
import selectors
import string
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from aigc_utils.chat import Prices
from aigc_utils.checks import (
    Answer,
    CheckFailed,
    HintTable,
    demand,
    exercise,
    read_several,
    show_hint,
    show_hints,
)
from aigc_utils.checks.reading import cut, seen

HINTS: HintTable = {
    "affordable": (
        "Write down what the request costs when the answer runs on to its last token. Two prices, "
        "two counts, one million.",
        "Take the prompt off first: room = left * 1_000_000 - tokens * price of the prompt. How "
        "often does the price of an answer token go into that? What if it is less than one token, "
        "and what if that price is 0?",
        "Python's floats lose the last token; a Fraction made from str(left) does not, and its // "
        "rounds down. Three answers are possible: a refusal, `most`, or a quotient; what decides?",
    ),
    "run_call": (
        "Write down what can be wrong, in the order in which you find out: no JSON, no such "
        "object, no such function, wrong arguments, an error in the function.",
        "`json.loads` raises ValueError; check `isinstance(call, dict)` and its keys before you "
        "use them; `tools.get` finds only what you allow; pydantic does the arguments.",
        "A ValidationError lists its errors(): under 'loc' stands the field. The function's own "
        "errors are another matter, of any type, and need a `try` of their own.",
    ),
    "summarise_long": (
        "Two loops: one that goes on while the text is too long, and within it one that fills "
        "pieces with paragraphs.",
        "Keep a list of pieces; add a paragraph to the last one when the sum, with the two line "
        "ends between, is at most `limit`, otherwise begin a new one.",
        "A round is: cut what is too long, fill pieces, summarise each, join. Compare its length "
        "with the one before; and what is left to do when the text fits at last?",
    ),
    "ask_all": (
        "`asyncio.Semaphore(limit)` is the gate, `asyncio.gather` keeps the order. What happens "
        "to one call belongs into a small async function of its own.",
        "`async with gate:` around `await call()` only. When you wait for the next attempt, the "
        "gate must be open for others.",
        "Inside that small function, a loop over the attempts. Which outcome returns at once, "
        "which one goes round again, and what is returned when no attempt is left?",
    ),
}

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · affordable -------------------------------------------------------------------------------

_QUESTION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]
# Tokens of the prompt, its price and the answer's for a million, what is left, the highest cap.
Purchase = tuple[int, float, float, float, int]

# In most of these floats are right, so that no other mistake is mistaken for theirs.
_PURCHASES: list[Purchase] = [
    (1201, 2.5, 10, 0.0205, 10_000),
    (1201, 2.5, 10, 0.0205, 500),
    (1201, 2.5, 10, 0.0205, 1),
    (777, 3, 7, 0.5, 100_000),
    (300, 3, 100, 0, 800),
    (300, 3, 100, 0.0008, 800),
    (300, 3, 100, 0.0009, 800),  # the prompt is just paid
    (300, 3, 100, 0.00095, 800),
    (300, 3, 100, 0.001, 800),  # and one token, just
    (300, 3, 100, 0.0011, 800),
    (50, 0, 8, 0.25, 100_000),
    (400, 2.5, 0, 0.5, 700),
    (400, 2.5, 0, 0.001, 700),  # free answers, and the prompt is just paid
    (400, 2.5, 0, 0.0009, 700),
    (9, 0, 0, 0, 40),
]
# In the first two of these every usual way to write the sum in floats loses a token.
_FINE: list[Purchase] = [
    (4, 0.3, 0.2, 0.0006, 10_000),
    (4, 0.2, 1.1, 0.0003, 10_000),
    (4, 0.3, 0.2, 0.000599999999, 10_000),
    (0, 3, 100, 0.299999999999, 10_000),  # forgiving a float its last digit is a token too many
    (0, 3, 7, 0.000511, 10_000),  # `left * 1e6` is a little less than it should be
]


@exercise("13")
def affordable(answer: Answer) -> str:
    """Check ``affordable(messages, count, prices, left, most)``, to the last token."""
    found = [(case, *_cap(answer, *case)) for case in _PURCHASES]
    if any(cap != _largest(*case) for case, cap, _ in found):
        for slip, sentence in _PURCHASE_SLIPS:
            demand(any(cap != slip(*case) for case, cap, _ in found), sentence)
    for case, cap, said in found:
        _judge_cap(case, cap, said)
    for case in _FINE:
        cap, said = _cap(answer, *case)
        right = _largest(*case) or 0
        demand(
            cap is None or cap == right or abs(cap - right) > 1,
            f"{_bought(*case)}, {right} tokens of an answer can be paid, and your cap is {cap}: "
            "floats round, so take each number as it is written.",
        )
        _judge_cap(case, cap, said)
    return "no answer can cost more than is left, and no token is given away."


def _cap(
    answer: Answer, tokens: int, prompt: float, each: float, left: float, most: int
) -> tuple[int | None, str]:
    """Return (cap, "") of the learner, or (None, what it says) for a refusal."""

    def count(given: Any) -> int:
        demand(given == _QUESTION, "Give `count` the list of messages as it came to you.")
        return tokens

    prices = Prices(prompt, each, currency="coins", source="made up", date="today")
    args = (_QUESTION, count, prices, left, most)
    cap, error = answer.outcome(*args)
    if isinstance(error, ArithmeticError) and not each:
        demand(False, "A price of 0 for answers breaks your sum: ask what can be paid then.")
    if isinstance(error, ValueError):
        demand(str(error).strip(), "Your ValueError is silent: say in a sentence what is wrong.")
        return None, str(error)
    cap = answer.handed_back(cap, error, *args)
    demand(
        hasattr(cap, "__index__") and not isinstance(cap, bool),
        f"A cap is a whole number, an int, and yours is {seen(cap)}.",
    )
    return operator.index(cap), ""


def _largest(
    tokens: int,
    prompt: float,
    each: float,
    left: float,
    most: int,
    *,
    million: int = 10**6,
    whole: Callable[[Fraction], int] = math.floor,
    least: int = 1,
    cap: Callable[[int, int], int | None] = min,
) -> int | None:
    """Return the largest cap, None where nothing can be paid; the keywords make it go wrong."""
    room = Fraction(str(left)) * million - tokens * Fraction(str(prompt))
    if room < 0:
        return None
    if not each:
        return most
    found = whole(room / Fraction(str(each)))
    return cap(most, found) if found >= least else None


def _judge_cap(case: Purchase, cap: int | None, said: str) -> None:
    """Raise CheckFailed with what this cap would lead to, unless it is the right one."""
    tokens, prompt, each, _, most = case
    right = _largest(*case)
    if cap == right:
        return
    where = _bought(*case)
    if right is None:
        sentence = (
            f"not even one token of an answer can be paid, and your function returns {cap}: raise "
            "ValueError."
        )
    elif cap is None:
        sentence = (
            f"{right} tokens of an answer can be paid, and your function raises ValueError: "
            f"{cut(said, 100).rstrip('.')}."
        )
    elif cap > most:
        sentence = f"your cap is {cap}: more money is no reason to ask for more than `most`."
    elif cap > right:
        cost = (tokens * Fraction(str(prompt)) + cap * Fraction(str(each))) / 10**6
        sentence = (
            f"an answer of {cap} tokens would cost {float(cost):.6g} in all: only {right} tokens "
            "can be paid."
        )
    else:
        sentence = f"your cap is {cap}, and {right} could be paid: return the *largest* cap."
    raise CheckFailed(f"{where}, {sentence}")


def _bought(tokens: int, prompt: float, each: float, left: float, most: int) -> str:
    return (
        f"For a prompt of {tokens} tokens, prices of {prompt:g} (prompt) and {each:g} (answer), "
        f"{left!r} coins left and most={most}"
    )


_PURCHASE_SLIPS: list[tuple[Callable[..., int | None], str]] = [
    *(
        (partial(_largest, million=million), "Prices are for a *million* tokens, not for one.")
        for million in (1, 1000)
    ),
    (
        lambda n, prompt, each, left, most: _largest(0, prompt, each, left, most),
        "The prompt's price is missing: what the model reads is paid for, too.",
    ),
    (
        lambda n, prompt, each, left, most: _largest(n, prompt / 1e6, each, left, most),
        "In your sum the prompt costs next to nothing: divide by the million only once.",
    ),
    *(
        (slip, "Prompt and answer have a price each, and yours are paid with the same one.")
        for slip in (
            lambda n, prompt, each, left, most: _largest(n, each, each, left, most),
            lambda n, prompt, each, left, most: _largest(n, prompt, prompt, left, most),
        )
    ),
    (
        lambda n, prompt, each, left, most: _largest(n, each, prompt, left, most),
        "The two prices have changed places: `prices.prompt` is for what the model reads.",
    ),
    *(
        (slip, "Round down: the last token of your answer is not paid for in full.")
        for slip in (partial(_largest, whole=math.ceil), partial(_largest, whole=round))
    ),
    (
        partial(
            _largest, cap=lambda most, found: min(most, found) if found > 1 or most == 1 else None
        ),
        "When the money is just enough for one token of an answer, the cap is 1.",
    ),
    (
        partial(_largest, cap=lambda most, found: found),
        "More money is no reason to ask for more than `most`.",
    ),
    (
        partial(_largest, least=0),
        "Where the prompt alone can be paid, your cap is 0: raise ValueError, for not even one "
        "token of an answer can be paid.",
    ),
    (
        partial(_largest, cap=lambda most, found: max(1, min(most, found)), least=0),
        "Where not even one token of an answer can be paid, your cap is 1: raise ValueError.",
    ),
]


# --- 2 · calls ------------------------------------------------------------------------------------


class _Division(BaseModel, extra="forbid"):
    dividend: int
    divisor: int


class _Word(BaseModel, extra="forbid"):
    word: str


class _Rounding(BaseModel, extra="forbid"):
    number: float
    digits: int = 1


class _Place(BaseModel, extra="forbid"):
    word: str
    place: str | None = None


class _Tools(dict[str, Any]):
    """What is offered, by a short name in the checker's sentences; keeps the calls that ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []

        def divide(dividend: int, divisor: int) -> float:
            self.calls.append("divide")
            return dividend / divisor

        def count_letters(word: str) -> int:
            self.calls.append("count_letters")
            return len(word)

        def round_to(number: float, digits: int) -> float:
            self.calls.append("round_to")
            return round(number, digits)

        def forget(word: str) -> None:
            self.calls.append("forget")
            if word == "everything":
                raise KeyError(word)

        def look_up(*, word: str, place: str | None) -> str:
            self.calls.append("look_up")
            return f"{word}, {place or 'anywhere'}"

        super().__init__(
            divide=(_Division, divide),
            count_letters=(_Word, count_letters),
            round_to=(_Rounding, round_to),
            forget=(_Word, forget),
            look_up=(_Place, look_up),
        )

    def __repr__(self) -> str:
        return "tools"


_GOOD: list[tuple[str, dict[str, Any], Any]] = [
    ("divide", {"dividend": 6, "divisor": 4}, 1.5),
    ("divide", {"divisor": -8, "dividend": 2}, -0.25),
    ("count_letters", {"word": "straße"}, 6),
    ("count_letters", {"word": ""}, 0),  # results that count as false are results
    ("forget", {"word": "me"}, None),
    ("round_to", {"number": 2.345, "digits": 2}, 2.35),
    ("round_to", {"number": 2.345}, 2.3),  # the default of the class
    ("look_up", {"word": "cat", "place": "Paris"}, "cat, Paris"),  # by keyword only
    ("look_up", {"word": "cat"}, "cat, anywhere"),
]
# A text, what its complaint must name, and how the sentence calls it.
_BAD: list[tuple[str, str, str]] = [
    ("Sure, I will call divide for you!", "", "text that is not JSON"),
    ("", "", "an empty text"),
    (
        "dict(name='divide', arguments=dict(dividend=6, divisor=3))",
        "",
        "Python instead of JSON",
    ),
    (
        'Once {"name": "divide", "arguments": {"dividend": 6, "divisor": 3}} was called.',
        "",
        "a story with a call in it",
    ),
    ("[1, 2]", "", "a JSON list"),
    ('"divide"', "", "a JSON string"),
    ("7", "", "a JSON number"),
    ("null", "", "JSON null"),
    ("[" * 100_000, "", "a deep nest of brackets"),
    ("1" * 5_000, "", "a number of five thousand digits"),
    ("{}", "", "an empty object"),
    ('{"name": "divide"}', "", "a call without arguments"),
    ('{"arguments": {"word": "a"}}', "", "a call without a name"),
    ('{"name": ["divide"], "arguments": {}}', "", "a name that is no text"),
    ('{"name": null, "arguments": {}}', "", "a name that is null"),
    ('{"name": "eval", "arguments": {"word": "1 + 1"}}', "eval", "a function that is not offered"),
    ('{"name": "__import__", "arguments": {"name": "os"}}', "__import__", "a name of Python's own"),
    (
        '{"name": "Divide", "arguments": {"dividend": 6, "divisor": 3}}',
        "Divide",
        "a capital letter",
    ),
    (
        '{"name": "divide", "arguments": {"dividend": "6", "divisor": 3}}',
        "dividend",
        "a number given as text",
    ),
    (
        '{"name": "divide", "arguments": {"dividend": 6, "divisor": 3.5}}',
        "divisor",
        "a fraction where a whole number belongs",
    ),
    ('{"name": "divide", "arguments": {"dividend": 6}}', "divisor", "a missing argument"),
    (
        '{"name": "divide", "arguments": {"dividend": 6, "divisor": 3, "remainder": 1}}',
        "remainder",
        "one argument too many",
    ),
    ('{"name": "count_letters", "arguments": {"word": 5}}', "word", "a number instead of a text"),
    ('{"name": "divide", "arguments": [6, 3]}', "", "arguments in a list"),
    ('{"name": "divide", "arguments": null}', "", "arguments that are null"),
    ('{"name": "divide", "arguments": "dividend=6"}', "", "arguments in a text"),
]
# Valid calls whose function fails.
_FAILING = [
    ('{"name": "divide", "arguments": {"dividend": 1, "divisor": 0}}', "ZeroDivisionError"),
    ('{"name": "forget", "arguments": {"word": "everything"}}', "KeyError"),
]


@exercise("13")
def run_call(answer: Answer) -> str:
    """Check ``run_call(text, tools)`` -> (result, None) or (None, complaint)."""
    for name, arguments, right in _GOOD:
        text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        _judge_good(answer, text, right)
    _judge_good(answer, '  {"arguments" : {"word": "\\u00e9"},\n "name": "count_letters"}\n', 1)
    complaints = [_complaint(answer, *bad) for bad in _BAD]
    named = {field: said for (_, field, _), said in zip(_BAD, complaints, strict=True) if field}
    demand(
        len(set(named.values())) == len(named),
        "Wrong calls of different kinds get the same complaint: say which name or field it is.",
    )
    for text, kind in _FAILING:
        tools = _Tools()
        _refused(answer, text, tools, f"a call whose function raises {kind}")
        demand(
            len(tools.calls) == 1,
            f"A call whose function fails must run once, and `{tools.calls[0]}` ran "
            f"{len(tools.calls)} times."
            if tools.calls
            else f"The valid call {text} never reached its function.",
        )
    return "what is valid runs once, and nothing else runs at all."


def _judge_good(answer: Answer, text: str, right: Any) -> None:
    tools = _Tools()
    result, complaint = _pair(answer, text, tools, "a valid call")
    wanted = f"The valid call {cut(text, 100)} must give ({right!r}, None)"
    said = isinstance(complaint, str) and result is None and complaint.strip()
    demand(
        complaint is None,
        f"{wanted}, and yours is refused: {cut(str(complaint), 100).rstrip('.')}."
        if said
        else f"{wanted}, and yours is ({cut(repr(result), 60)}, {cut(repr(complaint), 60)}).",
    )
    demand(
        len(tools.calls) == 1,
        f"{wanted} and run its function once, and it ran {len(tools.calls)} times.",
    )
    demand(
        type(result) is type(right) and result == right,
        f"{wanted}, and the result is {seen(result)}.",
    )


def _complaint(answer: Answer, text: str, named: str, what: str) -> str:
    tools = _Tools()
    complaint = _refused(answer, text, tools, what)
    demand(
        not tools.calls,
        f"Given {what}, your function ran `{'`, `'.join(tools.calls)}` all the same.",
    )
    demand(
        named in complaint,
        f"Given {what}, the complaint must name it ({named}), or the model cannot mend it; yours "
        f"is {cut(repr(complaint), 90)}.",
    )
    return complaint


def _refused(answer: Answer, text: str, tools: _Tools, what: str) -> str:
    result, complaint = _pair(answer, text, tools, what)
    ran = f" (it ran `{'`, `'.join(tools.calls)}`)" if tools.calls else ""
    demand(
        result is None and isinstance(complaint, str) and complaint.strip(),
        f"Given {what}, the answer must be (None, complaint), and yours is "
        f"({cut(repr(result), 60)}, {cut(repr(complaint), 60)}){ran}.",
    )
    return str(complaint)


def _pair(answer: Answer, text: str, tools: _Tools, what: str) -> list[Any]:
    value, error = answer.outcome(text, tools)
    demand(
        tools.keys() == _Tools().keys(),
        "`run_call` changes its input `tools`: work on a copy, or build a new one.",
    )
    if error is not None:
        raise CheckFailed(
            f"Given {what}, {answer.stopped(error, text, tools)} A model's text must never stop "
            "the program."
        )
    value = answer.handed_back(value, error, text, tools)
    return read_several(value, "run_call", ("result", "complaint"))


# --- 3 · map and reduce ---------------------------------------------------------------------------


class _Endless(Exception):
    """Raised by a stand-in after too many calls."""


class _Summaries:
    """A stand-in that keeps of a piece only its marked words (#0, #1, …), and what was sent."""

    def __init__(self, limit: int):
        self.limit, self.wrong = limit, ""
        self.sent: list[str] = []
        self.given: list[str] = []

    def __call__(self, piece: Any) -> str:
        if not isinstance(piece, str):
            self._refuse(f"`summarise` takes a text, and it was given {seen(piece)}.")
        if len(piece) > self.limit:
            self._refuse(
                f"A piece has {len(piece)} characters, and `summarise` takes {self.limit} at most."
            )
        if not piece.strip():
            self._refuse("An empty piece was sent to `summarise`.")
        if len(self.sent) > 500:
            raise _Endless
        self.sent.append(piece)
        self.given.append(self.short(piece))
        return self.given[-1]

    def short(self, piece: str) -> str:
        return "+".join(word for word in piece.replace("+", " ").split() if word[0] == "#")

    def _refuse(self, sentence: str) -> None:
        self.wrong = self.wrong or sentence  # kept, in case the learner's code catches it
        raise ValueError(sentence)


class _Copies(_Summaries):
    def short(self, piece: str) -> str:
        return piece


class _Longer(_Summaries):
    def short(self, piece: str) -> str:
        return (piece + "!!")[-self.limit :]


class _Slowly(_Summaries):
    """Makes a piece shorter by a few letters, so that there are many rounds."""

    def short(self, piece: str) -> str:
        return piece.replace("\n\n", " ")[:-5]


@exercise("13")
def summarise_long(answer: Answer) -> str:
    """Check ``summarise_long(text, summarise, limit)`` with summaries that can be traced."""
    exact = _paragraphs(2, words=5)
    for text, limit in (("#first is short.\n\n#second too.", 200), (exact, len(exact))):
        summaries = _summarised(answer, text, limit)
        demand(
            summaries.sent == [text],
            "A text that fits takes exactly one call, with the whole text, also when it is just "
            "as long as `limit`.",
        )
    varied = [_paragraphs(1, words=70), *(_paragraphs(1, words=3, first=i) for i in range(1, 9))]
    for what, text, limit in (
        ("many paragraphs", _paragraphs(36, words=8), 200),
        ("paragraphs that fill a piece exactly", _paragraphs(8, words=5), 2 * len(exact) + 2),
        ("one character too many", exact, len(exact) - 1),
        ("paragraphs just as long as `limit`", exact, len(exact) // 2 - 1),
        ("paragraphs of very different length", "\n\n".join(varied), 200),
        (
            "one long paragraph",
            " ".join(f"filler filler filler filler #{i}" for i in range(36)),
            150,
        ),
        ("one word without an end", "x" * 700 + " #0", 200),
    ):
        _judge_summary(answer, what, text, limit)
    _judge_rounds(answer)
    return "every part is read once, no piece is too long, and it always ends."


def _summarised(answer: Answer, text: str, limit: int) -> _Summaries:
    """Run the learner's function and demand that it returns the last summary."""
    summaries = _Summaries(limit)
    args = (text, summaries, limit)
    value, error = answer.outcome(*args)
    demand(not summaries.wrong, summaries.wrong)
    demand(
        not isinstance(error, _Endless),
        "It never ends: after 500 calls the text is still not summarised.",
    )
    value = answer.handed_back(value, error, *args)
    demand(
        isinstance(value, str),
        f"`summarise_long` must return one text, and yours is {seen(value)}.",
    )
    demand(summaries.sent, "`summarise` is never called.")
    demand(
        value == summaries.given[-1],
        "What comes back must be the summary of the last call, which sums up what fits at last.",
    )
    return summaries


def _judge_summary(answer: Answer, what: str, text: str, limit: int) -> None:
    summaries = _summarised(answer, text, limit)
    found = summaries.given[-1].split("+")
    right = [word for word in text.split() if word[0] == "#"]
    demand(set(found) >= set(right), f"With {what}, parts of the text never reach the summary.")
    demand(found == right, f"With {what}, the order of the text is lost, or parts come twice.")
    paragraphs = text.split("\n\n")
    # A summary holds none of the other words, so that the first round can be told from the rest.
    first = [piece for piece in summaries.sent if "filler" in piece or "x" in piece]
    later = summaries.sent[len(first) :]
    if all(len(paragraph) <= limit for paragraph in paragraphs):
        demand(
            all(piece.split("\n\n")[0] in paragraphs for piece in first)
            and all(piece.split("\n\n")[-1] in paragraphs for piece in first),
            f"With {what}, paragraphs that fit must stay whole: cut between them, not within.",
        )
        demand(
            all(piece in text for piece in first),
            f'With {what}, the paragraphs of a piece must be joined as they stood, by "\\n\\n".',
        )
        best = _fill(paragraphs, limit)
        demand(
            len(first) == best,
            f"With {what}, as many paragraphs as fit belong into a piece: {best} pieces are "
            f"enough, and you made {len(first)}.",
        )
    else:
        whole = all(len(word) <= limit for word in text.split())
        demand(
            not whole or " ".join(first).split() == text.split(),
            f"With {what}, words are cut where a space is near: cut between words.",
        )
        demand(
            "".join("".join(first).split()) == "".join(text.split()),
            f"With {what}, some letters are lost or come twice.",
        )
    demand(
        all(part in summaries.given for piece in later for part in piece.split("\n\n")),
        f'With {what}, the summaries of a round must be joined by "\\n\\n".',
    )


def _judge_rounds(answer: Answer) -> None:
    """Check that summaries which do not get shorter end in ValueError, and slow ones do not."""
    for kind, how in ((_Copies, "as long as the text"), (_Longer, "longer than the text")):
        summaries = kind(60)
        _, error = answer.outcome(_paragraphs(12, words=7), summaries, 60)
        demand(not summaries.wrong, summaries.wrong)
        demand(
            not isinstance(error, _Endless | RecursionError),
            f"It never ends when the summaries are {how}.",
        )
        demand(
            error is None or isinstance(error, ValueError),
            answer.stopped(error, "…", summaries, 60) if error else "",
        )
        demand(error, f"When the summaries are {how}, raise ValueError: it would never end.")
        demand(
            len(summaries.sent) == 12,
            f"When the summaries are {how}, raise ValueError after the first round that makes the "
            "text no shorter.",
        )
    text = _paragraphs(12, words=7)
    slow = _Slowly(300)
    value, error = answer.outcome(text, slow, 300)
    demand(not slow.wrong, slow.wrong)
    demand(
        error is None,
        "Here each round makes the text a little shorter, so it ends after a while: raise "
        "ValueError only when a round makes it no shorter.",
    )
    demand(
        value == slow.given[-1] and all(p in slow.given for p in slow.sent[-1].split("\n\n")),
        "When a round shortens the text only a little, go on until it fits.",
    )


def _paragraphs(n: int, *, words: int, first: int = 0) -> str:
    marks = string.digits + string.ascii_uppercase  # letters show whether the text was changed
    return "\n\n".join(f"#{marks[first + i]} " + " ".join(["filler"] * words) for i in range(n))


def _fill(paragraphs: list[str], limit: int) -> int:
    """Return how many pieces the paragraphs make when each takes as many as fit."""
    pieces, size = 1, -2
    for paragraph in paragraphs:
        if size + 2 + len(paragraph) > limit:
            pieces, size = pieces + 1, -2
        size += 2 + len(paragraph)
    return pieces


# --- 4 · gate -------------------------------------------------------------------------------------


class _BusyError(Exception):
    """What the stand-in provider raises when it is busy."""


class _Skip(selectors.DefaultSelector):
    """Waits for nothing: the time that a loop would sleep is added to its clock."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.skipped += max(timeout or 0.0, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose seconds are counted, not waited: what it measures is exact."""

    def __init__(self) -> None:
        self.clock = _Skip()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.skipped


class _Calls(list[Callable[[], Coroutine[Any, Any, str]]]):
    def __repr__(self) -> str:
        return "calls"


class _Provider:
    """Answers after a while; keeps when each call came and went."""

    def __init__(
        self,
        lasts: list[float],
        refusals: dict[int, int] | None = None,
        broken: tuple[int, ...] = (),
    ):
        self.lasts, self.refusals, self.broken = lasts, refusals or {}, broken
        self.tries: dict[int, list[list[float]]] = {i: [] for i in range(len(lasts))}
        self.ended = 0.0

    def calls(self) -> _Calls:
        return _Calls(partial(self._answer, i) for i in range(len(self.lasts)))

    async def _answer(self, i: int) -> str:
        time = asyncio.get_running_loop().time
        span = [time(), math.inf]
        self.tries[i].append(span)
        await asyncio.sleep(self.lasts[i])
        span[1] = time()
        if len(self.tries[i]) <= self.refusals.get(i, 0):
            raise _BusyError(f"busy {i}")
        if i in self.broken:
            raise RuntimeError(f"broken {i}")
        return f"answer {i}"

    def at_once(self) -> Iterator[tuple[int, int]]:
        """Yield (calls being awaited, calls that have not begun) for each stretch of time."""
        spans = [span for tries in self.tries.values() for span in tries]
        begins = [tries[0][0] if tries else math.inf for tries in self.tries.values()]
        times = sorted({time for span in spans for time in span})
        for start, end in pairwise(times):
            if end > start + 1e-9:
                middle = (start + end) / 2
                inside = sum(begin < middle < stop for begin, stop in spans)
                yield inside, sum(begin > middle for begin in begins)


@exercise("13", seconds=10)
def ask_all(answer: Answer) -> str:
    """Check ``ask_all(calls, limit, busy, attempts, wait)``, an asynchronous function."""
    uneven = [0.5, 0.1, 0.1, 0.1, 0.3, 0.1, 0.2, 0.1, 0.1]
    for lasts, limit in (
        ([0.3 - 0.03 * i for i in range(8)], 3),  # the last ones are the first to end
        (uneven, 2),
        (uneven, 4),
        ([0.1, 0.1, 0.1], 1),
        ([0.2, 0.1], 7),
        ([], 2),
    ):
        provider = _Provider(lasts)
        answers = _answers(answer, provider, limit)
        _judge_gate(provider, answers, limit)
    _judge_failures(answer)
    _judge_pauses(answer)
    return "in order, never too many, and one failure costs no one else an answer."


def _answers(
    answer: Answer, provider: _Provider, limit: int, attempts: int = 3, wait: float = 0.25
) -> list[Any]:
    """Run the learner's coroutine in a thread of its own: a notebook's loop is taken."""
    n = len(provider.lasts)

    async def attempt() -> Any:
        work = answer.function(*args)
        if work is None or work is ...:  # for which the core has a sentence
            return work
        demand(inspect.isawaitable(work), "`ask_all` must stay an `async def` function.")
        found = await asyncio.wait_for(work, 1_000)
        provider.ended = asyncio.get_running_loop().time()
        if inspect.iscoroutine(found):
            found.close()
            raise CheckFailed("`ask_all` returns a coroutine: put `await` before it.")
        return found

    def run() -> tuple[Any, BaseException | None]:
        def work() -> Any:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                return runner.run(attempt())

        return answer.during(work, *args)

    args = (provider.calls(), limit, _BusyError, attempts, wait)
    answer.names_of_inputs(args)
    with ThreadPoolExecutor(1) as pool:
        value, error = pool.submit(run).result()
    demand(
        len(args[0]) == n,
        "`ask_all` changes its input `calls`: work on a copy, or build a new one.",
    )
    failed = any(provider.refusals) or provider.broken
    demand(
        not (failed and isinstance(error, _BusyError | RuntimeError)),
        "One call that fails takes all the others with it: keep its exception.",
    )
    demand(
        not isinstance(error, TimeoutError),
        "It does not end: a gate that is never opened again holds all others back.",
    )
    value = answer.handed_back(value, error, *args)
    demand(
        isinstance(value, list | tuple) and len(value) == n,
        f"`ask_all` must return a list with one entry for each of {n} calls, and yours is "
        f"{seen(value)}.",
    )
    return list(value)


def _judge_gate(provider: _Provider, answers: list[Any], limit: int) -> None:
    n = len(answers)
    right = [f"answer {i}" for i in range(n)]
    demand(
        answers == right or sorted(map(str, answers)) != right,
        "The answers must stand in the order of the calls, not in that of their arrival.",
    )
    demand(
        answers == right,
        f"The answers of {n} calls that all succeed must stand in the list, and yours is "
        f"{cut(repr(answers), 90)}.",
    )
    demand(
        all(len(tries) == 1 for tries in provider.tries.values()),
        "A call that has given its answer is made again: each of these must be awaited once.",
    )
    moments = list(provider.at_once())
    peak = max((inside for inside, _ in moments), default=0)
    demand(peak <= limit, f"With a limit of {limit}, {peak} calls were being awaited at once.")
    demand(
        peak > 1 or min(limit, n) < 2,
        "The calls run one after another: start them together and let the gate hold them back.",
    )
    idle = [inside for inside, later in moments if later and inside < limit]
    demand(
        not idle,
        f"With a limit of {limit}, only {min(idle, default=0)} calls are being awaited while "
        "others have not begun: when one ends, the next must start at once.",
    )


def _judge_failures(answer: Answer) -> None:
    provider = _Provider([0.1] * 6, refusals={1: 2, 4: 9}, broken=(2,))
    answers = _answers(answer, provider, 2)
    demand(
        answers[1] == "answer 1",
        "A call that was refused twice and would then succeed must be tried again.",
    )
    for i, kind in ((2, RuntimeError), (4, _BusyError)):
        demand(
            isinstance(answers[i], kind),
            "Where a call fails for good, its exception must stand in the list, and yours holds "
            f"{seen(answers[i])}.",
        )
    demand(
        len(provider.tries[2]) == 1,
        "Only `busy` is worth another try: another exception comes back each time.",
    )
    for attempts in (3, 1):
        provider = _Provider([0.1] * 3, refusals={1: 9})
        others = _answers(answer, provider, 3, attempts)
        made = len(provider.tries[1])
        demand(
            made == attempts,
            f"With attempts={attempts} a busy call was tried {made} times.",
        )
        demand(isinstance(others[1], _BusyError), "The last refusal must stand in the list.")
    demand(
        [answers[i] for i in (0, 3, 5)] == ["answer 0", "answer 3", "answer 5"],
        "The answers beside a failed call are lost.",
    )
    peak = max(inside for inside, _ in provider.at_once())
    demand(peak <= 3, f"With a limit of 3, {peak} calls were being awaited at once.")


def _judge_pauses(answer: Answer) -> None:
    for wait in (0.25, 2.0):
        # Beside it one call is refused as well, and one takes its time.
        provider = _Provider([0.1, 0.1, 50.0], refusals={0: 1, 1: 3})
        _answers(answer, provider, 3, attempts=4, wait=wait)
        tries = provider.tries[1]
        pauses = [b[0] - a[1] for a, b in pairwise(tries)]
        demand(
            all(pauses),
            "Wait before you try again (`await asyncio.sleep(…)`): a busy provider needs a pause.",
        )
        right = [wait, 2 * wait, 4 * wait]
        want, have = (", ".join(f"{pause:.3g}" for pause in p) for p in (right, pauses))
        demand(
            all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(pauses, right, strict=True)),
            f"The pauses must double: for wait={wait:g} they are {want} seconds, "
            f"and yours are {have}.",
        )
    provider = _Provider([0.1, 0.1], refusals={0: 1})
    _answers(answer, provider, 1, wait=0.5)
    demand(
        math.isclose(provider.tries[1][0][0], provider.tries[0][0][1]),
        "The gate stays shut while a refused call pauses: sleep outside of it.",
    )
    provider = _Provider([0.3, 0.3, 0.3, 0.3], refusals={0: 1, 1: 1})
    _answers(answer, provider, 2, wait=0.1)
    peak = max(inside for inside, _ in provider.at_once())
    demand(
        peak <= 2,
        f"With a limit of 2, {peak} calls were being awaited at once: the gate holds "
        "for another try, too.",
    )
    provider = _Provider([0.1], refusals={0: 9})
    _answers(answer, provider, 1)
    demand(
        math.isclose(provider.ended, provider.tries[0][-1][1]),
        "There is nothing to wait for after the last attempt: keep its exception at once.",
    )
