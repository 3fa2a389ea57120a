"""`Chat`: a conversation, what it costs, and how it is kept (lessons 11 and 13).

The same class speaks to the model on this machine (``"local"``), to OpenAI, and to every provider
that serves the chat-completions protocol. Whatever goes wrong becomes one ``ChatError`` sentence,
and the conversation stays.
"""

import bisect
import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx2
import openai

from aigc_utils import files, smollm2
from aigc_utils.chat import failures, providers
from aigc_utils.chat.answer import Answer
from aigc_utils.chat.providers import TIMEOUT, ChatError, Message, Provider
from aigc_utils.chat.text import CUT, SHORTEST_KEY, clean, hide, neutralise
from aigc_utils.chat.transcript import Transcript

TOKENS_PER_MESSAGE = 8
"""What a chat template may add around a message, where no tokenizer is at hand to count."""


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, as read at ``source`` on ``date``; the course knows no prices."""

    prompt: float
    answer: float
    currency: str
    source: str
    date: str

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < math.inf and 0 <= self.answer < math.inf):
            raise ValueError("A price is a number of money per million tokens, 0 or more.")
        if not (self.currency.strip() and self.source.strip() and self.date.strip()):
            raise ValueError("A price needs its currency, its source and the date you read it.")

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return the price of one call in ``currency``."""
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / 1e6


@dataclass
class Usage:
    """Tokens so far: as the provider counted them, or estimated where it did not say."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    calls: int = 0
    estimated_calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.answer_tokens


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


class Chat:
    """A conversation with a model.

    ``provider`` is ``"local"``, a name in ``PROVIDERS``, or a ``Provider``; ``model`` replaces its
    model. ``"gpt2"`` is no assistant: it writes the transcript on, up to the end of the line.
    ``temperature=None`` leaves it to the provider. ``max_tokens`` is the longest answer.
    ``context`` is the most tokens that a request and its answer may have: when the conversation
    outgrows it, the oldest turns are dropped, and ``notify`` is told so.

    ``budget`` is enforced before each call, with the dearest way it could end: in money when
    ``prices`` are given, in tokens otherwise. Local tokens are counted with the model's tokenizer;
    elsewhere every byte of UTF-8 counts as a token, which is never too few (a token of a byte-level
    tokenizer has a byte or more). After the call the provider's own count is taken. The SDK's
    retries (``providers.connect``) count once: who must be certain of the budget sets
    ``max_retries=0``.
    """

    def __init__(
        self,
        provider: str | Provider = "local",
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 256,
        context: int | None = None,
        budget: float | None = None,
        prices: Prices | None = None,
        timeout: float = TIMEOUT,
        max_retries: int | None = None,
        notify: Callable[[str], None] = print,
    ) -> None:
        if temperature is not None and not (_is_number(temperature) and 0 <= temperature <= 2):
            raise ValueError("temperature is a number from 0 to 2, or None.")
        if budget is not None and not (_is_number(budget) and budget >= 0):
            raise ValueError("budget is a number, 0 or more, or None.")
        if not (_is_number(timeout) and timeout > 0):
            raise ValueError("timeout is a number of seconds, above 0.")
        if not isinstance(max_tokens, int):
            raise ValueError("max_tokens is a whole number of tokens.")
        self.model, self.usage = "", Usage()
        self.messages: list[Message] = []
        self._base = Transcript() if provider == "gpt2" else None
        place = self._base.place if self._base else providers.find(provider)
        if model is not None:
            place = replace(place, model=model)
        self.context = place.context if context is None else context
        if self._base:
            max_tokens = min(max_tokens, self.context // 2)
            notify(self._base.why)
        if not 0 < max_tokens < self.context:
            raise ValueError(f"max_tokens is between 1 and the context of {self.context:,} tokens.")
        self.temperature, self.max_tokens = temperature, max_tokens
        self.budget, self.prices, self.notify = budget, prices, notify
        self._is_local = provider == "local"
        self._timeout, self._max_retries = timeout, providers.retries(provider, max_retries)
        self._busy = False
        self._reach(place)
        self.model = place.model
        self.system = system

    def __repr__(self) -> str:
        turns = sum(message["role"] == "user" for message in self.messages)
        return f"Chat({self.model!r}, {turns} turns, {self.usage.total_tokens} tokens)"

    @property
    def system(self) -> str | None:
        """The system message, or None."""
        first = self.messages[0] if self.messages else None
        return first["content"] if first and first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        self._not_busy()
        rest = self.messages[1:] if self.system is not None else self.messages
        head = [{"role": "system", "content": self._tidy(text)}] if text else []
        self.messages = head + rest

    @property
    def spent(self) -> float:
        """What the conversation has cost: money when there are prices, tokens otherwise."""
        used = self.usage
        if self.prices is None:
            return used.total_tokens
        return self.prices.cost(used.prompt_tokens, used.answer_tokens)

    def ask(self, text: str, *, show: bool = False) -> str:
        """Send a message and return the whole answer; ``show`` prints it as it comes.

        Raises ValueError when the message is no text or empty, and ChatError when there is no
        answer, or only a part of it; the conversation then holds what it held before, or the part.
        """
        pieces = []
        # Closed at once when Ctrl-C ends the loop, so that the part that came is kept.
        with contextlib.closing(self.stream(text)) as stream:
            for piece in stream:
                pieces.append(piece)
                if show:
                    print(piece, end="", flush=True)
        if show:
            print()
        return "".join(pieces)

    def stream(self, text: str) -> Generator[str]:
        """Send a message and yield the answer piece by piece; errors as in ``ask``.

        Nothing happens before the first piece is asked for. Whoever stops in the middle keeps the
        part that came, marked with ``CUT``.
        """
        if not isinstance(text, str) or not self._tidy(text).strip():
            raise ValueError("A message is a text that is not empty.")
        self._not_busy()
        if self._is_local and (place := providers.local()).base_url != self._place.base_url:
            self._reach(place)  # the server was stopped: another one has started
        asked, prompt_tokens = self._fit({"role": "user", "content": self._tidy(text)})
        self._afford(prompt_tokens)
        yield from self._answer(asked, prompt_tokens)

    def reset(self) -> None:
        """Forget the conversation; the system message and the accounts stay."""
        self._not_busy()
        self.messages = [m for m in self.messages if m["role"] == "system"]

    def undo(self) -> None:
        """Take back the last message and its answer."""
        self._not_busy()
        users = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            raise ChatError("There is nothing to undo: the conversation is empty.")
        del self.messages[users[-1] :]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, whole or not at all; neither key nor address is in it."""
        saved = {
            "model": self.model,
            "messages": [m | {"content": self._tidy(m["content"])} for m in self.messages],
            "usage": asdict(self.usage),
        }
        try:
            files.write_whole(path, json.dumps(saved, ensure_ascii=False, indent=1))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            problem = f"{Path(path).name!r} cannot be written: {why}."
        else:
            return
        raise ChatError(problem)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on where a saved conversation ended; the one held so far is replaced.

        A system message that the chat has goes before the saved one. Raises ChatError when the
        file is no saved chat; nothing has changed then.
        """
        self._not_busy()
        messages, usage = _read_saved(Path(path))
        own = self.messages[:1] if self.system is not None else []
        kept = [m for m in messages if m["role"] != "system" or not own]
        self.messages = [m | {"content": self._tidy(m["content"])} for m in own + kept]
        self.usage = usage

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], provider: str | Provider = "local", **settings: Any
    ) -> "Chat":
        """Return a chat that goes on where a saved one ended; ``settings`` are those of ``Chat``.

        The file does not choose the provider: you do. Raises ChatError when it is no saved chat.
        """
        _read_saved(Path(path))  # a damaged file is said before a server starts
        chat = cls(provider, **settings)
        chat.resume(path)
        return chat

    def count(self, messages: list[Message]) -> int:
        """Return how many tokens ``messages`` are as a prompt, or an upper bound of it."""
        wire = self._wire(messages)
        if self._base:
            return len(self._base.encode(wire))
        if self._is_local:
            ids = _local_tokenizer().apply_chat_template(wire, add_generation_prompt=True)
            return len(ids["input_ids"])
        size = sum(len(message["content"].encode()) + TOKENS_PER_MESSAGE for message in wire)
        return size + TOKENS_PER_MESSAGE  # the answer's own opening

    def _not_busy(self) -> None:
        if self._busy:
            raise ChatError("An answer is still being written: take all of it, or close it.")

    def _tidy(self, text: str) -> str:
        return hide(clean(text), self._keys())

    def _keys(self) -> list[str]:
        keys = (self._client.api_key, os.environ.get("OPENAI_API_KEY", "").strip())
        return [key for key in keys if len(key) >= SHORTEST_KEY]

    def _wire(self, messages: list[Message]) -> list[Message]:
        """Return ``messages`` as they are sent, whoever wrote them."""
        marks = _local_marks() if self._is_local else ()
        return [
            {"role": m["role"], "content": neutralise(self._tidy(m["content"]), marks)}
            for m in messages
        ]

    def _fit(self, question: Message) -> tuple[list[Message], int]:
        """Return what to send, without the oldest turns as far as necessary, and its tokens."""
        head = [m for m in self.messages[:1] if m["role"] == "system"]
        rest = self.messages[len(head) :]
        starts = [i for i, message in enumerate(rest) if message["role"] == "user"] + [len(rest)]
        room = self.context - self.max_tokens

        def size(dropped: int) -> int:
            return self.count([*head, *rest[starts[dropped] :], question])

        dropped, tokens = 0, size(0)
        if tokens > room:  # the longest rest that fits is searched by halves
            turns = range(len(starts))
            dropped = bisect.bisect_left(turns, True, key=lambda number: size(number) <= room)
            tokens = size(min(dropped, turns[-1]))
        if tokens > room:
            raise ChatError(
                f"The message is too long: with the system message it has {tokens:,} tokens and "
                f"there is room for {room:,}; shorten it or divide it."
            )
        if dropped:
            self.notify(
                f"(The context of {self.context:,} tokens is full: "
                f"the oldest {_several(dropped, 'turn')} left out from now on.)"
            )
        return [*head, *rest[starts[dropped] :], question], tokens

    def _afford(self, prompt_tokens: int) -> None:
        """Raise ChatError when the dearest way that a call can end is above the budget."""
        if self.budget is None:
            return
        tokens = prompt_tokens + self.max_tokens
        most = self.prices.cost(prompt_tokens, self.max_tokens) if self.prices else tokens
        if self.spent + most > self.budget:
            unit = self.prices.currency if self.prices else "tokens"
            raise ChatError(
                f"The budget of {self.budget:,.6g} {unit} has {self.budget - self.spent:,.6g} left "
                f"and this call may take {most:,.6g}: make the message, the conversation (reset, "
                "undo) or max_tokens shorter, or raise the budget."
            )

    def _reach(self, place: Provider) -> None:
        self._client: Any = self._base
        if not self._base:
            self._client, _ = providers.connect(
                place, timeout=self._timeout, max_retries=self._max_retries
            )
        self._place = place

    def _request(self, asked: list[Message]) -> openai.Stream:
        settings: dict[str, Any] = {}
        if self.temperature is not None:
            settings["temperature"] = self.temperature
        return self._client.chat.completions.create(
            model=self.model,
            messages=cast(Any, self._wire(asked)),
            max_completion_tokens=self.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **settings,
        )

    def _answer(self, asked: list[Message], prompt_tokens: int) -> Generator[str]:
        answer = Answer(self._keys(), self.max_tokens)
        self._busy = True
        try:
            yield from self._receive(asked, answer)
        finally:  # also when the reader stops here, or Ctrl-C does
            self._busy = False
            if answer.kept:
                text = answer.text if answer.reason else answer.text + CUT
                self.messages = [*asked, {"role": "assistant", "content": text}]
            if answer.began:
                self._account(prompt_tokens, answer)
        # Raised from out here, so that nothing of the request hangs on it as its context.
        self._conclude(answer)

    def _receive(self, asked: list[Message], answer: Answer) -> Generator[str]:
        """Yield what can be shown of an answer; a failure is noted in it."""
        try:
            with self._request(asked) as events:
                answer.began = True
                for event in events:
                    if piece := answer.take(event):
                        yield piece
            if rest := answer.finish():
                yield rest
        # What arrives is foreign: whatever it breaks in the SDK is a malformed answer.
        except Exception as error:
            if not answer.reason:
                place = replace(self._place, model=self.model)
                request = failures.Request(place, self._timeout, self.max_tokens)
                answer.failure = self._tidy(failures.explain(error, request, answer.began))
            # Who only was too slow may have worked, and may want to be paid.
            answer.began = answer.began or isinstance(error, openai.APITimeoutError)

    def _conclude(self, answer: Answer) -> None:
        """Raise ChatError unless a whole answer came; say when it stopped at its limit."""
        failure = answer.failure
        if answer.refused:
            why = f" ({self._tidy(failures.quote(answer.refusal))})" if answer.refusal else ""
            failure = f"refused this content{why}: put it in other words"
        elif not failure:
            failure = answer.shortcoming
        if failure:
            same = "the conversation is as it was"
            state = "the part that came is kept and marked" if answer.kept else same
            raise ChatError(f"{self._who} {failure}; {state}.")
        if answer.reason == "length":
            self.notify(f"(The answer stopped at max_tokens={self.max_tokens}.)")

    def _account(self, prompt_tokens: int, answer: Answer) -> None:
        estimate = (prompt_tokens, min(self.max_tokens, len(answer.text.encode())))
        prompt, written = answer.usage or estimate
        self.usage.prompt_tokens += prompt
        self.usage.answer_tokens += written
        self.usage.calls += 1
        self.usage.estimated_calls += answer.usage is None

    @property
    def _who(self) -> str:
        host = httpx2.URL(self._place.base_url).host or self.model
        return "The local server" if self._is_local else host


def _several(number: int, noun: str) -> str:
    return f"{noun} is" if number == 1 else f"{number} {noun}s are"


def _read_saved(path: Path) -> tuple[list[Message], Usage]:
    """Return what ``Chat.save`` wrote; raise ChatError when the file is nothing of the kind."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        messages = [{"role": m["role"], "content": m["content"]} for m in saved["messages"]]
        usage = Usage(**saved["usage"])
        _check_saved(messages, usage)
    except OSError as error:
        problem = f"{path.name} cannot be read: {error.strerror}."
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = (
            f"{path.name} is not a saved chat, or is damaged: load another, or begin a new Chat."
        )
    else:
        return messages, usage
    raise ChatError(problem)


def _check_saved(messages: list[Message], usage: Usage) -> None:
    """Raise ValueError unless roles, their order and every type are those of a conversation."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    sound = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(turns))
    texts = all(isinstance(message["content"], str) for message in messages)
    counts = all(type(n) is int and n >= 0 for n in asdict(usage).values())
    if not (sound and len(turns) % 2 == 0 and texts and counts):
        raise ValueError("no conversation")


@functools.cache
def _local_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2.convert())


@functools.cache
def _local_marks() -> tuple[str, ...]:
    return tuple(str(token) for token in _local_tokenizer().added_tokens_decoder.values())
