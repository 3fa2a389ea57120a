"""A chat with memory over the OpenAI SDK (lessons 11 and 13).

The same class speaks to the model on this machine (``"local"``), to OpenAI, and to every provider
that serves the chat-completions protocol. Whatever goes wrong becomes one ``ChatError`` sentence,
and the conversation stays. ``python -m aigc_utils.chat`` talks in the terminal, ``panel()`` in a
notebook.
"""

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import openai

from aigc_utils.chat import providers
from aigc_utils.chat.providers import (
    TIMEOUT,
    ChatError,
    Message,
    Provider,
    connect,
)
from aigc_utils.chat.text import CUT, clean, neutralise
from aigc_utils.chat.transcript import Transcript

TOKENS_PER_MESSAGE = 8
"""What a chat template may add around a message, where no tokenizer is at hand to count."""

MOST_PIECES = 100_000
"""An answer in more pieces than this is given up: something is wrong with whoever sends it."""

_SHORTEST_KEY = 8  # a placeholder such as "none" is no secret, and a word of its own


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
    retries count once: who must be certain of the budget sets ``max_retries=0``.
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
        max_retries: int = 2,
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
        self._base = Transcript() if provider == "gpt2" else None
        place = self._base.place if self._base else providers.find(provider)
        self.context = place.context if context is None else context
        if self._base:
            max_tokens = min(max_tokens, self.context // 2)
            notify(self._base.why)
        if not 0 < max_tokens < self.context:
            raise ValueError(f"max_tokens is between 1 and the context of {self.context:,} tokens.")
        self.temperature, self.max_tokens = temperature, max_tokens
        self.budget, self.prices, self.notify = budget, prices, notify
        self.usage = Usage()
        self.messages: list[Message] = []
        self._is_local = provider == "local"
        self._timeout, self._max_retries = timeout, max_retries
        self._busy = False
        self.model = model or place.model
        self._reach(place)
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
        if self._is_local and (place := providers.local()) != self._place:
            self._reach(place)  # the server was stopped: another one has started
        asked = self._fit({"role": "user", "content": self._tidy(text)})
        prompt_tokens = self.count(asked)
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
        target = Path(path)
        part = target.parent / f".{target.name}.part"
        try:
            part.write_text(json.dumps(saved, ensure_ascii=False, indent=1), encoding="utf-8")
            part.replace(target)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):
                part.unlink()
            why = getattr(error, "strerror", None) or error
            raise ChatError(f"{target.name!r} cannot be written: {why}.") from None

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], provider: str | Provider = "local", **settings: Any
    ) -> "Chat":
        """Return a chat that goes on where a saved one ended; ``settings`` are those of ``Chat``.

        The file does not choose the provider: you do. Raises ChatError when it is no saved chat.
        """
        name = Path(path).name
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            messages = [{"role": m["role"], "content": m["content"]} for m in saved["messages"]]
            usage = Usage(**saved["usage"])
            _check_saved(messages, usage)
        except OSError as error:
            problem = f"{name} cannot be read: {error.strerror}."
        except (ValueError, TypeError, KeyError, RecursionError):
            problem = (
                f"{name} is not a saved chat, or is damaged: load another, or begin a new Chat."
            )
        else:
            chat = cls(provider, **settings)
            own = chat.messages if "system" in settings else []
            kept = [m for m in messages if m["role"] != "system" or not own]
            chat.messages = [m | {"content": chat._tidy(m["content"])} for m in own + kept]
            chat.usage = usage
            return chat
        raise ChatError(problem)

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
        return self._hide(clean(text))

    def _keys(self) -> list[str]:
        keys = (self._client.api_key, os.environ.get("OPENAI_API_KEY", "").strip())
        return [key for key in keys if len(key) >= _SHORTEST_KEY]

    def _hide(self, text: str) -> str:
        """Return ``text`` without a key, wherever it got it from."""
        for key in self._keys():
            text = text.replace(key, "[key]")
        return text

    def _safe_length(self, text: str) -> int:
        """Return how much of ``text`` can be shown: not what may be the beginning of a key."""
        starts = {key[:n] for key in self._keys() for n in range(1, len(key))}
        return len(text) - max((len(s) for s in starts if text.endswith(s)), default=0)

    def _wire(self, messages: list[Message]) -> list[Message]:
        """Return ``messages`` as they are sent, whoever wrote them."""
        return [
            {"role": message["role"], "content": neutralise(self._tidy(message["content"]))}
            for message in messages
        ]

    def _fit(self, question: Message) -> list[Message]:
        """Return what to send: the conversation without its oldest turns, as far as necessary."""
        head = [m for m in self.messages[:1] if m["role"] == "system"]
        rest = self.messages[len(head) :]
        starts = [i for i, message in enumerate(rest) if message["role"] == "user"]
        room = self.context - self.max_tokens
        for dropped, start in enumerate([*starts, len(rest)]):
            asked = [*head, *rest[start:], question]
            if self.count(asked) <= room:
                if dropped:
                    self.notify(
                        f"(The context of {self.context:,} tokens is full: "
                        f"the oldest {_several(dropped, 'turn')} left out from now on.)"
                    )
                return asked
        raise ChatError(
            f"The message is too long: with the system message it has {self.count(asked):,} tokens "
            f"and there is room for {room:,}; shorten it or divide it."
        )

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
        self._place = place
        self._client: Any = self._base
        if not self._base:
            self._client, _ = connect(place, timeout=self._timeout, max_retries=self._max_retries)

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
        reply, failure, began = _Reply(), "", False
        self._busy = True
        try:
            try:
                with self._request(asked) as events:
                    began = True
                    for event in events:
                        if piece := self._take(event, reply):
                            yield piece
                if reply.reason and reply.held:
                    reply.pieces.append(reply.held)
                    yield reply.held
            # What arrives is foreign: whatever it breaks in the SDK is a malformed answer.
            except Exception as error:
                failure = "" if reply.reason else self._explain(error, began)
                began = began or isinstance(error, openai.APITimeoutError)
        finally:  # also when the reader stops here, or Ctrl-C does
            self._busy = False
            if reply.kept:
                text = reply.text if reply.reason else reply.text + CUT
                self.messages = [*asked, {"role": "assistant", "content": text}]
            if began:
                self._account(prompt_tokens, reply)
        if reply.refused:
            why = f" ({self._quote(reply.refusal)})" if reply.refusal else ""
            failure = f"{self._who} refused this content{why}: put it in other words"
        elif not reply.reason and not failure:
            what = "ended the answer in the middle: ask it to go on, or undo()"
            nothing = "sent an answer without the fields of one: ask again"
            failure = f"{self._who} {what if reply.text else nothing}"
        if failure:
            same = "the conversation is as it was"
            state = "the part that came is kept and marked" if reply.kept else same
            # Raised out here, so that nothing of the request hangs on it as its context.
            raise ChatError(f"{failure}; {state}.")
        if reply.reason == "length":
            self.notify(f"(The answer stopped at max_tokens={self.max_tokens}.)")

    def _take(self, event: Any, reply: "_Reply") -> str:
        """Add an event to the reply, and return what can be shown of its text."""
        piece, refusal, reason = _read(event)
        reply.usage = _read_usage(event) or reply.usage
        reply.refusal += refusal
        reply.reason = reason or reply.reason
        if len(reply.pieces) > MOST_PIECES:
            raise ValueError("the answer does not end")
        reply.held = self._hide(reply.held + clean(piece))
        safe = self._safe_length(reply.held)
        shown, reply.held = reply.held[:safe], reply.held[safe:]
        if shown:
            reply.pieces.append(shown)
        return shown

    def _account(self, prompt_tokens: int, reply: "_Reply") -> None:
        estimate = (prompt_tokens, min(self.max_tokens, len(reply.text.encode())))
        prompt, answer = reply.usage or estimate
        self.usage.prompt_tokens += prompt
        self.usage.answer_tokens += answer
        self.usage.calls += 1
        self.usage.estimated_calls += reply.usage is None

    @property
    def _who(self) -> str:
        host = httpx2.URL(self._place.base_url).host or self.model
        return "The local server" if self._is_local else host

    def _quote(self, error: openai.APIError | str) -> str:
        """Return a stranger's words as a part of one line."""
        words: object = error if isinstance(error, str) else error.message
        if isinstance(error, openai.APIError) and isinstance(error.body, dict):
            words = error.body.get("message") or error.body.get("detail") or "no reason given"
        line = " ".join(self._tidy(str(words)).split()).rstrip(".")
        return line if len(line) <= 160 else line[:159] + "…"

    def _explain(self, error: Exception, began: bool) -> str:
        """Return what went wrong and what to do, without a full stop."""
        who, key_name = self._who, self._place.key_name
        code = getattr(error, "status_code", 0)
        match error:
            case openai.APITimeoutError():
                what = f"sent nothing for {self._timeout:g} s: ask again, or give a longer timeout"
            case openai.APIConnectionError() if began:
                what = "broke the connection in the middle: ask it to go on, or undo()"
            case openai.APIConnectionError():
                what = "cannot be reached: check the network and the address, and ask again"
            case openai.AuthenticationError() if key_name is None:
                what = "wants a key (401): name its environment variable in Provider(key_name=…)"
            case openai.AuthenticationError():
                what = f"does not accept the key (401): correct the variable {key_name}"
            case openai.PermissionDeniedError():
                what = f"does not allow you to use {self.model!r} (403): choose another model"
            case openai.NotFoundError():
                what = f"has no model {self.model!r} (404): choose one that it lists"
            case openai.RateLimitError(code="insufficient_quota"):
                what = "says that no credit is left (429): see your account there"
            case openai.RateLimitError():
                wait = providers.retry_after(error.response)
                when = f"in {wait:g} s" if wait else "in a minute"
                what = f"gets too many requests (429): ask again {when}"
            case openai.APIStatusError(code="context_length_exceeded"):
                what = f"finds the conversation too long ({code}): reset, or give a smaller context"
            case openai.APIStatusError() if code >= 500:
                what = f"has an error of its own ({code}): ask again in a moment"
            case openai.APIStatusError():
                what = f"refuses the request ({code}, {self._quote(error)}): change what it names"
            case openai.APIError():
                what = f"broke off ({self._quote(error)}): ask again"
            case _:
                what = f"sent an answer that cannot be read ({type(error).__name__}): ask again"
        return f"{who} {what}"


@dataclass
class _Reply:
    """What has arrived of an answer."""

    pieces: list[str] = field(default_factory=list)
    held: str = ""  # not shown yet: it may be the beginning of the key
    refusal: str = ""
    reason: str | None = None
    usage: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def refused(self) -> bool:
        return self.reason == "content_filter" or bool(self.refusal)

    @property
    def kept(self) -> bool:
        return bool(self.reason or self.pieces) and not self.refused


def _several(number: int, noun: str) -> str:
    return f"{noun} is" if number == 1 else f"{number} {noun}s are"


def _read(event: Any) -> tuple[str, str, str | None]:
    """Return the text, the refusal and the finish reason in an event of a stream.

    The SDK does not check what it was sent; TypeError and AttributeError say that it is no event.
    """
    choices = getattr(event, "choices", None)
    if not choices:  # only the usage, or a sign of life
        return "", "", None
    delta, reason = choices[0].delta, choices[0].finish_reason
    piece, refusal = getattr(delta, "content", None) or "", getattr(delta, "refusal", None) or ""
    if not (isinstance(piece, str) and isinstance(refusal, str) and isinstance(reason or "", str)):
        raise TypeError("a field of the answer is not text")
    return piece, refusal, reason


def _read_usage(event: Any) -> tuple[int, int] | None:
    usage = getattr(event, "usage", None)
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    return counts if all(type(n) is int and n >= 0 for n in counts) else None  # type: ignore[return-value]


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

    from aigc_utils import smollm2

    return AutoTokenizer.from_pretrained(smollm2.convert())
