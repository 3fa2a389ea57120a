"""Where language models are served, and the SDK's client for each place (lesson 13).

``"local"`` is the course's model on this machine, OpenAI is reached only by who names it *and* has
set its key, and any other address that speaks the chat-completions protocol is a ``Provider``.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from aigc_utils import session  # noqa: F401  (before the libraries that read its environment)

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``"""

TIMEOUT = 30.0
"""Seconds without a single byte after which a request is given up; the SDK's own value is 600."""


class ChatError(RuntimeError):
    """Something that stopped the chat, as one sentence; Jupyter shows just the sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"ChatError: {self}"]


@dataclass(frozen=True)
class Provider:
    """Where a model is served: its address, its name, and where the key is.

    ``key_name`` is the *name* of the environment variable that holds the key, never the key
    itself. ``context`` is the most tokens that a request and its answer may have together.
    """

    base_url: str
    model: str
    key_name: str | None = None
    context: int = 32_000


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "gpt-5.4-mini", "OPENAI_API_KEY", 128_000),
}
"""Providers by name, beside ``"local"``: add your own. Models retire: see your provider's list."""

LOCAL_CONTEXT = 2_048  # the local model could take 8,192, but a processor reads them slowly


def connect(
    provider: str | Provider = "local", *, timeout: float = TIMEOUT, max_retries: int = 2
) -> tuple[openai.OpenAI, str]:
    """Return the SDK's client for a provider, and the name of its model.

    The SDK tries a request again after a short and growing wait when the provider is busy, has an
    error or does not answer. Raises ChatError when the provider is unknown or its key is not set.
    """
    place = find(provider)
    _check(place)
    http = openai.DefaultHttpx2Client(
        trust_env=not is_here(place), event_hooks={"response": [_refuse_a_long_wait]}
    )
    client = openai.OpenAI(
        **_settings(place), timeout=timeout, max_retries=max_retries, http_client=http
    )
    return client, place.model


def connect_async(
    provider: str | Provider = "local", *, timeout: float = TIMEOUT, max_retries: int = 2
) -> tuple[openai.AsyncOpenAI, str]:
    """Return the SDK's asynchronous client for a provider, and the name of its model."""
    place = find(provider)
    _check(place)
    http = openai.DefaultAsyncHttpx2Client(
        trust_env=not is_here(place), event_hooks={"response": [_refuse_a_long_wait_async]}
    )
    client = openai.AsyncOpenAI(
        **_settings(place), timeout=timeout, max_retries=max_retries, http_client=http
    )
    return client, place.model


def find(provider: str | Provider) -> Provider:
    """Return the place that ``provider`` names; ``"local"`` starts the server where needed."""
    if isinstance(provider, Provider):
        return provider
    if provider == "local":
        return local()
    if provider == "gpt2":
        raise ChatError("GPT-2 runs inside of Chat and has no client: use chat.Chat('gpt2').")
    if provider not in PROVIDERS:
        names = ", ".join(["local", "gpt2", *PROVIDERS])
        raise ChatError(f"There is no provider {provider!r}: choose {names}, or give a Provider.")
    return PROVIDERS[provider]


def local() -> Provider:
    """Return the place of the local server, which runs from now on."""
    from aigc_utils import smollm2
    from aigc_utils.chat import server

    try:
        running = server.start()
    except (server.ServerError, smollm2.ModelError) as error:
        problem = str(error)
    else:
        return Provider(running.base_url, running.model, context=LOCAL_CONTEXT)
    raise ChatError(problem)


def is_here(place: Provider) -> bool:
    """Return True when a place is on this machine: no proxy leads there, and no one listens."""
    return httpx2.URL(place.base_url).host in ("127.0.0.1", "localhost", "::1")


def _check(place: Provider) -> None:
    """Raise ChatError when a place has no proper address, or not the key that it needs."""
    if problem := _address_problem(place) or _key_problem(place):
        raise ChatError(problem)  # out here, where no variable holds the key


def _address_problem(place: Provider) -> str | None:
    try:
        address = httpx2.URL(place.base_url)
    except (httpx2.InvalidURL, TypeError):
        return f"{place.base_url!r} is no address."
    if address.scheme not in ("http", "https") or not address.host:
        return f"{place.base_url!r} is no address: it starts with https:// or http://."
    if address.scheme == "http" and place.key_name and not is_here(place):
        return f"{address.host} must be reached by https, or everyone on the way reads the key."
    return None


def _key_problem(place: Provider) -> str | None:
    if place.key_name is None:
        return None
    key = _key(place)
    if not key:
        return (
            f"{httpx2.URL(place.base_url).host} needs a key: set the environment variable "
            f"{place.key_name} before you start, or choose the provider 'local'."
        )
    if not (key.isascii() and key.isprintable()):
        return f"The key in {place.key_name} has characters that no key has."
    return None


def _key(place: Provider) -> str:
    return os.environ.get(place.key_name, "").strip() if place.key_name else "none"


def _settings(place: Provider) -> dict[str, Any]:
    # The SDK would send these two of OpenAI's settings to every provider.
    private = () if place.key_name == "OPENAI_API_KEY" else ("Organization", "Project")
    without = {f"OpenAI-{name}": openai.Omit() for name in private}
    return {"base_url": place.base_url, "api_key": _key(place), "default_headers": without}


_WAITS = {"retry-after-ms": 0.001, "retry-after": 1.0}  # seconds in a unit; the SDK's order


def _refuse_a_long_wait(response: httpx2.Response) -> None:
    """Say a long Retry-After at once: the SDK would sit it out in silence, up to two minutes."""
    wait = retry_after(response)
    if any(name in response.headers for name in _WAITS) and (wait is None or wait > TIMEOUT):
        response.headers["x-should-retry"] = "false"


async def _refuse_a_long_wait_async(response: httpx2.Response) -> None:
    _refuse_a_long_wait(response)


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds that a busy server asks to wait, or None when it gives no number."""
    for name, unit in _WAITS.items():
        said = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said):
            return unit * float(said)
    return None
