"""Where language models are served, and the SDK's client for each place (lesson 13).

``"local"`` is the course's model on this machine, OpenAI is reached only by who names it *and* has
set its key, and any other address that speaks the chat-completions protocol is a ``Provider``.
Importing this module calls `session.prepare`: transformers stays without a network, unless chosen
otherwise.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from aigc_utils import session, smollm2
from aigc_utils.chat.text import SHORTEST_KEY

session.prepare()  # before transformers, which counts a conversation's tokens

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``"""

TIMEOUT = 30.0
"""Seconds without a single byte after which a request is given up; the SDK's own value is 600."""

_RETRIES = 2
_BYTES_PER_TOKEN = 4_096  # each token comes in a JSON object of its own, of 200 to 500 bytes
_LOOK_SECONDS = 5.0  # how long an address is asked what it has, after it failed

# Keys that are known by their beginning, and long rows of letters and digits mixed.
_KEY = re.compile(
    r"(?:sk-|xai-|pplx-|nvapi-|gsk_|hf_|AIza)[\w-]{16,}"
    r"|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{24,}"
)


class EndlessAnswer(Exception):
    """Far more arrives than was asked for."""


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

    def __post_init__(self) -> None:
        # A key in the wrong place is forgotten at once, so that nothing can show it; what is empty
        # is refused by whoever uses the provider.
        if self.key_name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_name):
            object.__setattr__(self, "key_name", "")
        if _KEY.fullmatch(self.model):
            object.__setattr__(self, "model", "")


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "gpt-5.4-mini", "OPENAI_API_KEY", 128_000),
}
"""Providers by name, beside ``"local"``: add your own. Models retire: see your provider's list."""

LOCAL_CONTEXT = 2_048  # the local model could take 8,192, but a processor reads them slowly


def connect(
    provider: str | Provider = "local",
    *,
    timeout: float = TIMEOUT,
    max_retries: int | None = None,
) -> tuple[openai.OpenAI, str]:
    """Return the SDK's client for a provider, and the name of its model.

    The SDK tries a request again after a short and growing wait when the provider is busy, has an
    error or does not answer: twice, or ``max_retries`` times; ``"local"`` is asked once, because a
    machine that is too slow for an answer is not faster the second time. Redirects are not
    followed. Raises ChatError when the provider is unknown or its key is not set.
    """
    place = find(provider)
    http = openai.DefaultHttpx2Client(
        trust_env=not is_here(place), follow_redirects=False, event_hooks={"response": [_watch]}
    )
    settings = _settings(place, timeout, retries(provider, max_retries))
    return openai.OpenAI(**settings, http_client=http), place.model


def connect_async(
    provider: str | Provider = "local",
    *,
    timeout: float = TIMEOUT,
    max_retries: int | None = None,
) -> tuple[openai.AsyncOpenAI, str]:
    """Return the SDK's asynchronous client for a provider, and the name of its model."""
    place = find(provider)
    http = openai.DefaultAsyncHttpx2Client(
        trust_env=not is_here(place),
        follow_redirects=False,
        event_hooks={"response": [_watch_async]},
    )
    settings = _settings(place, timeout, retries(provider, max_retries))
    return openai.AsyncOpenAI(**settings, http_client=http), place.model


def find(provider: str | Provider) -> Provider:
    """Return the place that ``provider`` names; ``"local"`` starts the server where needed.

    Raises ChatError when there is no such place, or it has no proper address, or its key is not
    set.
    """
    if isinstance(provider, Provider):
        place = provider
    elif provider == "local":
        place = local()
    elif provider == "gpt2":
        raise ChatError("GPT-2 runs inside of Chat and has no client: use chat.Chat('gpt2').")
    elif provider in PROVIDERS:
        place = PROVIDERS[provider]
    else:  # not quoted: it may be a key
        names = ", ".join(["local", "gpt2", *PROVIDERS])
        raise ChatError(f"There is no provider of this name: choose {names}, or give a Provider.")
    if problem := _address_problem(place) or _key_problem(place):
        raise ChatError(problem)  # out here, where no variable holds the key
    return place


def local() -> Provider:
    """Return the place of the local server, which runs from now on."""
    # Here, because `python -m aigc_utils.chat.server` would find itself imported already.
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


def retries(provider: str | Provider, max_retries: int | None) -> int:
    """Return how often a request to ``provider`` is tried again."""
    if max_retries is not None:
        return max_retries
    return 0 if provider == "local" else _RETRIES


def models_at(place: Provider) -> list[str] | None:
    """Return the names of the models that a place lists, or None when it lists none."""
    try:
        client, _ = connect(place, timeout=_LOOK_SECONDS, max_retries=0)
        with client:
            return [str(model.id) for model in client.models.list().data]
    except Exception:  # whatever a stranger's server breaks
        return None


def better_address(place: Provider) -> str | None:
    """Return an address like the given one that has models, by asking; None when there is none."""
    given = place.base_url.rstrip("/")
    for address in (given.removesuffix("/chat/completions"), f"{given}/v1"):
        if address != given and models_at(replace(place, base_url=address)):
            return shown_address(address)
    return None


def shown_address(address: str) -> str:
    """Return an address without what may be secret: a user, a password, a query."""
    url = httpx2.URL(address)
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}{url.path}".rstrip("/")


def _address_problem(place: Provider) -> str | None:
    wrong = "The provider's base_url is no address: it starts with https:// or http://."
    try:
        address = httpx2.URL(place.base_url)
    except (httpx2.InvalidURL, TypeError):
        return wrong  # without quoting it: it may be a key
    if address.scheme not in ("http", "https") or not address.host:
        return wrong
    if address.scheme == "http" and place.key_name and not is_here(place):
        return f"{address.host} must be reached by https, or everyone on the way reads the key."
    return None


_NO_MODEL = "The provider's model is empty or a key: give the name of a model that it serves."


def _key_problem(place: Provider) -> str | None:
    if place.key_name == "":
        return (
            "key_name is the name of the environment variable that holds the key, such as "
            "MY_API_KEY, and never the key itself."
        )
    if not place.model:
        return _NO_MODEL
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
    if len(key) >= SHORTEST_KEY and key in place.model:
        return _NO_MODEL
    return None


def _key(place: Provider) -> str:
    return os.environ.get(place.key_name, "").strip() if place.key_name else "none"


def _settings(place: Provider, timeout: float, max_retries: int) -> dict[str, Any]:
    key = _key(place)
    headers: dict[str, Any] = {}
    if place.key_name != "OPENAI_API_KEY":
        # The SDK would send these of OpenAI's settings to every provider.
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        own = [name.strip() for name, colon, _ in (line.partition(":") for line in lines) if colon]
        headers = dict.fromkeys([*own, "OpenAI-Organization", "OpenAI-Project"], openai.Omit()) | {
            name: f"Bearer {key}" for name in own if name.lower() == "authorization"
        }
    return {
        "base_url": place.base_url,
        "api_key": key,
        "default_headers": headers,
        "timeout": timeout,
        "max_retries": max_retries,
    }


# --- what is watched while an answer arrives -----------------------------------------------------

_WAITS = {"retry-after-ms": 0.001, "retry-after": 1.0}  # seconds in a unit; the SDK's order


def _watch(response: httpx2.Response) -> None:
    _refuse_a_long_wait(response)
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Bounded(response.stream, _most_bytes(response.request))


async def _watch_async(response: httpx2.Response) -> None:
    _refuse_a_long_wait(response)
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedAsync(response.stream, _most_bytes(response.request))


def _refuse_a_long_wait(response: httpx2.Response) -> None:
    """Say a long Retry-After at once: the SDK would sit it out in silence, up to two minutes."""
    wait = retry_after(response)
    if any(name in response.headers for name in _WAITS) and (wait is None or wait > TIMEOUT):
        response.headers["x-should-retry"] = "false"


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds that a busy server asks to wait, or None when it gives no number."""
    for name, unit in _WAITS.items():
        said = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said):
            return unit * float(said)
    return None


def _most_bytes(request: httpx2.Request) -> float:
    """Return how long the answer to a request may be before it is given up as endless."""
    try:
        asked = json.loads(request.content)
        most = asked.get("max_completion_tokens") or asked.get("max_output_tokens")
        return 1e6 + _BYTES_PER_TOKEN * int(most)
    except (ValueError, TypeError, AttributeError, httpx2.RequestNotRead):
        return 64e6  # no limit was asked for


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, most: float) -> None:
        self._stream, self._left = stream, most

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise EndlessAnswer
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _BoundedAsync(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: float) -> None:
        self._stream, self._left = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise EndlessAnswer
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
