"""Checkers and hints of lesson 13's exercises (trimming, checked calls, map–reduce, a gate)."""

import asyncio
import copy
import json
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import BaseModel

from aigc_utils.checks import HintTable, answered, demand, praise, show_hint

HINTS: HintTable = {
    "trim": (
        "Where may the part that you keep begin? Only where a turn begins.",
        "Take the system message off, list the places of the user messages in the rest, and try "
        "them from the oldest: the first that fits keeps the most.",
        "for start in starts: kept = head + rest[start:]; if count(kept) <= limit: return kept. "
        "After the loop nothing fitted.",
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

Messages = list[dict[str, str]]


def hint(name: str, level: int = 1) -> None:
    """Print hint ``level`` (1 to 3) of the exercise called ``name``."""
    show_hint(HINTS, name, level)


def _talk(turns: int, *, system: bool) -> Messages:
    head = [{"role": "system", "content": "rules rules"}] if system else []
    said = [
        {"role": role, "content": " ".join([f"{role}{turn}"] * (turn % 3 + 2))}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]
    return [*head, *said, {"role": "user", "content": "the last question"}]


def _words(messages: Messages) -> int:
    """Count as a chat template does: words, one more a message, and three for the answer."""
    return sum(len(message["content"].split()) + 1 for message in messages) + 3


def trim(function: Callable[..., Any]) -> None:
    """Check ``trim(messages, limit, count)``: whole old turns go, nothing else does."""
    for system in (True, False):
        messages = _talk(6, system=system)
        head = messages[:1] if system else []
        bare = _words([*head, messages[-1]])
        for limit in range(bare, _words(messages) + 3):
            given = copy.deepcopy(messages)
            kept = function(given, limit, _words)
            answered(kept, "trim")
            demand(given == messages, "Your function changes the list that it was given.")
            _check_trimmed(kept, messages, head, limit)
        try:
            function(copy.deepcopy(messages), bare - 1, _words)
        except ValueError:
            continue
        demand(False, "When even the question does not fit, your function must raise ValueError.")
    praise("whole turns go, the oldest first, and no more of them than necessary.")


def _check_trimmed(kept: Any, messages: Messages, head: Messages, limit: int) -> None:
    demand(isinstance(kept, list) and kept, "`trim` must return a list of messages.")
    demand(kept[-1] == messages[-1], "The question, the last message, must stay.")
    demand(
        not head or kept[0] == head[0],
        "The system message is gone: the rules must stay when old turns go.",
    )
    rest = kept[len(head) :]
    demand(
        rest == messages[len(messages) - len(rest) :],
        "What stays must be the newest messages, unchanged and in order.",
    )
    demand(
        rest[0]["role"] == "user",
        "A half turn stays: the conversation would begin with an answer to nothing.",
    )
    demand(
        _words(kept) <= limit,
        f"With a limit of {limit} your messages have {_words(kept)} tokens.",
    )
    longer = [*head, *messages[len(messages) - len(rest) - 2 :]]
    room = len(head) + len(rest) < len(messages) and _words(longer) <= limit
    demand(not room, "More was left out than necessary: one more turn would have fitted.")


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
