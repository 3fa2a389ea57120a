"""What happens to a text before it is sent, shown or saved (lesson 13)."""

import re
from collections.abc import Iterable

CUT = " […cut off]"
"""Ends an answer that did not arrive whole."""

SHORTEST_KEY = 8
"""A key of fewer characters is a placeholder such as "none": no secret, and a word of its own."""

_HELD = 4  # so much of the beginning of a key makes a piece of text wait for the next one
_JOINER = "\u2060"  # word joiner: it has no width, and nothing is broken at it
# Everything below the space but tab and newline, delete, the second set of control characters, and
# what turns the direction of writing: a text could look like another one with them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def neutralise(text: str, marks: Iterable[str]) -> str:
    """Return ``text`` with each of a model's ``marks`` broken up by an invisible word joiner.

    ``marks`` are the special tokens of the model's tokenizer, such as ``<|im_end|>``. A server
    pastes all messages into one text with these marks between them: inside a message they would
    end it and begin another one, in the role that the text likes. All other text stays as it is.
    """
    known = "|".join(re.escape(mark) for mark in marks)
    if not known:
        return text
    # Looked for from every character on, because marks may overlap.
    return re.sub(f"(?s)(?=(?:{known})).", lambda found: found[0] + _JOINER, text)


def clean(text: str) -> str:
    """Return ``text`` as something that every terminal, file and request can hold.

    Control characters but tab and newline go (a model could steer your terminal with them), and
    those that turn the direction of writing; halves of surrogate pairs, which UTF-8 cannot write,
    become U+FFFD.
    """
    return _CONTROL.sub("", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def hide(text: str, keys: Iterable[str]) -> str:
    """Return ``text`` with ``[key]`` where one of the keys stood."""
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, "[key]")
    return text


class Redactor:
    """Hides keys in a text that comes in pieces.

    A piece is held back only while it ends with four or more characters that begin a key, so
    ordinary text passes as it comes.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = sorted(keys, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._keys)) or r"(?!)")
        self._open = ""  # the end of the text, when it begins a key
        self._given = 0  # so many of its characters were given away before they were enough

    def feed(self, piece: str) -> str:
        """Add a piece and return what can be shown by now."""
        text, shown = self._open + piece, ""
        given, after_key = self._given, 0
        for found in self._pattern.finditer(text):
            shown += text[given : found.start()] + "[key]"
            given = after_key = found.end()
        begins = max(after_key, self._end_that_begins_a_key(text))
        stop = begins if len(text) - begins >= _HELD else len(text)
        shown += text[given:stop]
        self._open, self._given = text[begins:], max(given, stop) - begins
        return shown

    def finish(self) -> str:
        """Return what is still held back, at the end of the text; half a key is hidden."""
        rest = "[key]" if len(self._open) >= SHORTEST_KEY else self._open[self._given :]
        self._open, self._given = "", 0
        return rest

    def _end_that_begins_a_key(self, text: str) -> int:
        """Return where the longest end of ``text`` stands with which a key begins."""
        longest = max((len(key) for key in self._keys), default=1)
        ends = range(max(0, len(text) - longest + 1), len(text))
        return next(
            (i for i in ends if any(key.startswith(text[i:]) for key in self._keys)), len(text)
        )
