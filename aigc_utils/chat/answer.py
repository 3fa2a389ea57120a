"""What arrives of an answer, event by event; none of it is trusted (lesson 13)."""

from collections.abc import Iterable
from typing import Any

from aigc_utils.chat.providers import EndlessAnswer
from aigc_utils.chat.text import Redactor, clean

CHARACTERS_PER_TOKEN = 128
"""No token of a known tokenizer is longer: an answer with more was not kept to its limit."""


class Answer:
    """An answer while it arrives: its text without ``keys``, why it ended, what it cost."""

    def __init__(self, keys: Iterable[str], max_tokens: int) -> None:
        self.text = ""
        self.refusal = ""
        self.reason: str | None = None
        self.usage: tuple[int, int] | None = None
        self.began = False
        self.failure = ""
        self._called = self._reasoned = False
        self._redactor = Redactor(keys)
        self._most = CHARACTERS_PER_TOKEN * max_tokens

    def take(self, event: Any) -> str:
        """Add an event of a stream, and return what can be shown of its text.

        The SDK does not check what it was sent: AttributeError and TypeError say that it is no
        event, and EndlessAnswer that there is too much.
        """
        self.usage = _usage(event) or self.usage
        choices = getattr(event, "choices", None)
        if not choices:  # only the usage, or a sign of life
            return ""
        delta, reason = choices[0].delta, choices[0].finish_reason
        refusal = getattr(delta, "refusal", None) or ""
        piece, thought = _parts(getattr(delta, "content", None) or "")
        if not isinstance(refusal, str) or not isinstance(reason or "", str):
            raise TypeError("a field of the answer is not text")
        self.reason = reason or self.reason
        self.refusal += refusal
        self._called |= bool(
            getattr(delta, "tool_calls", None) or getattr(delta, "function_call", None)
        )
        self._reasoned |= thought or bool(
            getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        )
        return self._add(self._redactor.feed(clean(piece)))

    def finish(self) -> str:
        """Return the rest that was held back because a key may begin so."""
        return self._add(self._redactor.finish())

    def _add(self, shown: str) -> str:
        if len(self.text) + len(shown) > self._most:
            raise EndlessAnswer
        self.text += shown
        return shown

    @property
    def refused(self) -> bool:
        """True when the model or the provider declined."""
        return self.reason == "content_filter" or bool(self.refusal)

    @property
    def kept(self) -> bool:
        """True when there is something to keep: blank text is none."""
        return bool(self.text.strip()) and not self.refused

    @property
    def shortcoming(self) -> str:
        """What an answer lacks that has ended, and what to do; empty when it is whole."""
        if not self.reason and self.text:
            return "ended the answer in the middle: ask it to go on, or undo()"
        if not self.reason:
            return "sent an answer without the fields of one: ask again"
        if self.kept:
            return ""
        if self._called:
            return "wants a function to be called and wrote no text: ask without, or use the SDK"
        if self._reasoned or self.reason == "length":
            return "came to no answer within max_tokens: give a larger one"
        return "sent an empty answer: ask again, or in other words"


def _parts(content: object) -> tuple[str, bool]:
    """Return the text of a content, which is text or a list of parts, and whether it reasons."""
    if isinstance(content, str):
        return content, False
    if not isinstance(content, list):
        raise TypeError("the content is neither text nor a list of parts")
    texts = [part["text"] for part in content if part["type"] in ("text", "output_text")]
    return "".join(texts), any(part["type"] in ("thinking", "reasoning") for part in content)


def _usage(event: Any) -> tuple[int, int] | None:
    usage = getattr(event, "usage", None)
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    return counts if all(type(n) is int and n >= 0 for n in counts) else None  # type: ignore[return-value]
