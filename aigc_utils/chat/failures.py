"""What a failed request means, and what to do about it, in a sentence (lesson 13)."""

import difflib
from dataclasses import dataclass

import httpx2
import openai

from aigc_utils.chat.providers import (
    EndlessAnswer,
    Provider,
    better_address,
    models_at,
    retry_after,
    shown_address,
)
from aigc_utils.chat.text import clean

_NAMED = 5  # so many models are listed


@dataclass(frozen=True)
class Request:
    """What was asked of whom, as far as a failure depends on it."""

    place: Provider
    timeout: float
    max_tokens: int


def explain(error: Exception, asked: Request, began: bool) -> str:
    """Return what went wrong and what to do, without the name of who failed and a full stop.

    ``began`` says that an answer had begun. After "not found" the provider is asked what it has.
    """
    place, code = asked.place, getattr(error, "status_code", 0)
    match error:
        case EndlessAnswer():
            return (
                f"writes on and on, beyond max_tokens={asked.max_tokens}: ask again, or allow more"
            )
        case openai.APITimeoutError():
            return f"sent nothing for {asked.timeout:g} s: ask again, or give a longer timeout"
        case openai.APIConnectionError() if began:
            return "broke the connection in the middle: ask it to go on, or undo()"
        case openai.APIConnectionError():
            port = httpx2.URL(place.base_url).port
            where = "" if port is None else f" at port {port}"
            return f"cannot be reached{where}: check the network and the address, and ask again"
        case openai.APIStatusError():
            return _explain_status(error, code, place)
        case openai.APIError():
            return f"broke off ({quote(error)}): ask again"
        case _:
            return f"sent an answer that cannot be read ({type(error).__name__}): ask again"


def _explain_status(error: openai.APIStatusError, code: int, place: Provider) -> str:
    match error:
        case openai.AuthenticationError() if place.key_name is None:
            return "wants a key (401): name its environment variable in Provider(key_name=…)"
        case openai.AuthenticationError():
            return f"does not accept the key (401): correct the variable {place.key_name}"
        case openai.PermissionDeniedError():
            return f"does not allow you to use {place.model!r} (403): choose another model"
        case openai.NotFoundError():
            return _not_found(code, place)
        case openai.RateLimitError(code="insufficient_quota"):
            return "says that no credit is left (429): see your account there"
        case openai.RateLimitError():
            wait = retry_after(error.response)
            when = f"in {wait:g} s" if wait else "in a minute"
            return f"gets too many requests (429): ask again {when}"
        case openai.APIStatusError(code="context_length_exceeded"):
            return f"finds the conversation too long ({code}): reset, or give a smaller context"
    if code >= 500:
        return f"has an error of its own ({code}): ask again in a moment"
    if code == 405:
        return _not_found(code, place)
    if 300 <= code < 400:
        there = error.response.headers.get("location", "")
        host = f" to {quote(httpx2.URL(there).host)}" if there.startswith("http") else ""
        return f"sends the request elsewhere{host} ({code}): give that address if you trust it"
    return f"refuses the request ({code}, {quote(error)}): change what it names"


def _not_found(code: int, place: Provider) -> str:
    """Say which is wrong, the model or the address: the provider is asked what it has."""
    names = models_at(place)
    if names and place.model in names:
        return f"lists {place.model!r} and cannot chat with it ({code}): choose another model"
    if names:
        near = difflib.get_close_matches(place.model, names, _NAMED)
        shown = list(dict.fromkeys([*near, *names]))[:_NAMED]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        listed = ", ".join(map(quote, shown)) + more
        return f"has no model {place.model!r} ({code}): choose one that it lists: {listed}"
    if address := better_address(place):
        return f"has no chat at {shown_address(place.base_url)} ({code}): did you mean {address}?"
    return (
        f"has no chat at {shown_address(place.base_url)} or no model {place.model!r} ({code}): "
        "check the address and the name"
    )


def quote(error: openai.APIError | str) -> str:
    """Return a stranger's words as a part of one line."""
    words: object = error if isinstance(error, str) else error.message
    if isinstance(error, openai.APIError) and isinstance(error.body, dict):
        words = error.body.get("message") or error.body.get("detail") or "no reason given"
    line = " ".join(clean(str(words)).split()).rstrip(".")
    return line if len(line) <= 160 else line[:159] + "…"
