"""What happens to a text before it is sent, shown or saved (lesson 13)."""

import re

CUT = " […cut off]"
"""Ends an answer that did not arrive whole."""

# Text that means something to a chat template, such as <|im_end|>, <file_sep> or [INST].
_TEMPLATE_TOKEN = re.compile(
    r"<(?=[|｜]|(?:reponame|filename|[a-z]+_[a-z_]+|/?s|bos|eos|pad|unk)>)|\[(?=/?INST])", re.I
)
# Everything below the space but tab and newline, delete, and the second set of control characters.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def neutralise(text: str) -> str:
    """Return ``text`` with template tokens broken up by a word joiner (U+2060), which is invisible.

    A server pastes all messages into one text with tokens such as ``<|im_end|>`` between them. In
    a message they would end it and begin another one, in the role that the text likes.
    """
    return _TEMPLATE_TOKEN.sub(lambda found: found[0] + "\u2060", text)


def clean(text: str) -> str:
    """Return ``text`` as something that every terminal, file and request can hold.

    Control characters but tab and newline go (a model could steer your terminal with them), and
    halves of surrogate pairs, which UTF-8 cannot write, become U+FFFD.
    """
    return _CONTROL.sub("", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
