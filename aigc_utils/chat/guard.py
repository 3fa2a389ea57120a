"""What the local server lets in: its own names, five routes, sensible requests (lesson 13).

`Guard` stands in front of the application of ``transformers serve``. A web page that was made to
look like this machine (DNS rebinding), a request that is too large or makes no sense, and one
too many are answered here, in OpenAI's form; a client that goes is noticed, and takes its
computation along.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aigc_utils.chat.turns import WAITING, Job, Line, Refused, current
from aigc_utils.smollm2 import NAME

MOST_BYTES = 100_000
"""The longest body: even in six bytes for each letter, the model's context is shorter."""

BODY_SECONDS = 10.0
"""A body that takes longer to arrive is given up."""


# --- requests ------------------------------------------------------------------------------------

# Divided by less, the logits overflow.
_Temperature = Annotated[float, Field(ge=0, le=2), AfterValidator(lambda t: t if t > 1e-3 else 0)]
_Count = Annotated[int, Field(ge=1)]
_Token = Annotated[int, Field(ge=0)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_Stop = Annotated[str, Field(min_length=1, max_length=64)]  # the search for one costs its length


class _Body(BaseModel):
    """What the three kinds of request share. Other fields are passed on."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    temperature: _Temperature | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    # transformers' own: any generation at all, and any program in the template's language.
    generation_config: None = None
    chat_template_kwargs: None = None


class _Sampled(_Body):
    max_tokens: _Count | None = None
    frequency_penalty: Annotated[float, Field(gt=-1, le=2)] | None = None  # the server adds 1
    stop: _Stop | Annotated[list[_Stop], Field(min_length=1, max_length=4)] | None = None


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None


class _Chat(_Sampled):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: _Count | None = None
    tools: list[dict[str, Any]] | None = None
    logit_bias: dict[_Token, _Bias] | None = None


class _Completion(_Sampled):
    prompt: Annotated[str, Field(min_length=1)]
    suffix: str | None = None


def _none_of(reason: str) -> AfterValidator:
    """Refuse whatever asks for something; empty, false and null ask for nothing."""

    def check(value: Any) -> Any:
        if value:
            raise PydanticCustomError("unsupported", "{reason}", {"reason": reason})
        return value

    return AfterValidator(check)


_Kept = Annotated[
    str | bool | dict[str, Any] | None,
    _none_of("this server keeps no answers, so send the whole conversation as input"),
]
_Tools = Annotated[
    list[dict[str, Any]] | None,
    _none_of("this server's model was not taught to call functions, so ask it without"),
]


class _Format(BaseModel):
    type: Literal["text"]


class _Text(BaseModel):
    model_config = ConfigDict(extra="allow")

    format: _Format | None = None


class _Response(_Body):
    input: Annotated[str | list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: _Count | None = None
    parallel_tool_calls: bool | None = None
    # What a client would rely on is refused, not passed over.
    previous_response_id: _Kept = None
    conversation: _Kept = None
    background: _Kept = None
    store: _Kept = None
    tools: _Tools = None
    text: _Text | None = None


_POSTS: dict[str, type[_Body]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Completion,
    "/v1/responses": _Response,
}


def _read(kind: type[_Body], raw: bytes) -> _Body:
    """Return a body that can be answered; raise Refused with the first thing that is wrong."""
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise Refused(400, _sentence(error)) from None
    model = (body.model_extra or {}).get("model")
    if model not in (None, NAME):
        raise Refused(
            404,
            f"The model {str(model)[:100]!r} does not exist: this server offers {NAME!r}.",
            "model_not_found",
        )
    return body


def _sentence(error: ValidationError) -> str:
    """Say what is wrong with the first field that is wrong, as deep inside as can be told."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    field = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    deepest = max(field, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    # Where a field may be one of several types, the path names ours: no business of the client's.
    where = [str(part) for part in deepest["loc"] if not re.search(r"\W|^str$", str(part))]
    return f"{'.'.join(where)[:100]}: {deepest['msg'][:200]}.".removeprefix(": ")


# --- answers -------------------------------------------------------------------------------------


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> JSONResponse:
    """Return an error in OpenAI's form."""
    kind = "invalid_request_error" if status < 429 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers)


def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Give an error that the server knows OpenAI's form."""
    assert isinstance(error, HTTPException)
    status = 400 if error.status_code == 422 else error.status_code
    return refusal(status, str(error.detail), getattr(error, "code", None), **error.headers or {})


def on_bad_request(_: Request, error: Exception) -> JSONResponse:
    """Blame the request for what its fields led to: trying it again would not help."""
    return refusal(400, f"The request cannot be read ({type(error).__name__}): {str(error)[:200]}.")


def on_error(_: Request, error: Exception) -> JSONResponse:
    """Say that the fault is here; the server's log has the rest."""
    return refusal(500, f"The server failed ({type(error).__name__}): start it again.")


# --- the guard -----------------------------------------------------------------------------------


class Guard:
    """An ASGI application around another one.

    ``port`` is where it listens, ``line`` holds its requests, and ``name`` is a header of the
    answer to ``/health``, which says who answers.
    """

    def __init__(self, app: ASGIApp, port: int, line: Line, name: dict[str, str]) -> None:
        self._app, self._line, self._name = app, line, name
        hosts = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")]
        self._hosts = {*hosts, *(host.removesuffix(":80") for host in hosts)}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive)
            try:
                self._let_in(request)
                await self._serve(request, send)
            except HTTPException as error:
                await on_http_error(request, error)(scope, receive, send)
            except ClientDisconnect:
                pass

    def _let_in(self, request: Request) -> None:
        """Refuse other hosts' names, pages of other origins, and what is no route."""
        headers, path = request.headers, request.url.path
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Refused(403, "This server answers on 127.0.0.1 and localhost only.")
        if not self._origins.issuperset(origin.lower() for origin in headers.getlist("origin")):
            raise Refused(403, "This server answers no web pages.")
        if (request.method, path) not in _ROUTES:
            raise Refused(404, f"There is no {request.method} {path[:100]} here.")

    async def _serve(self, request: Request, send: Send) -> None:
        scope, receive = request.scope, request.receive
        if request.method == "GET":
            if request.url.path == "/health":
                answer = JSONResponse({"status": "ok"}, headers=self._name)
                await answer(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        raw = await _body(request)
        if len(self._line.inside) >= WAITING:
            raise Refused(429, "The server has too many requests at once.", "server_busy")
        body = _read(_POSTS[request.url.path], raw)
        job = Job()
        self._line.inside.add(job)
        current.set(job)
        try:
            await self._until_gone(job, body, request, send)
        finally:
            self._line.inside.remove(job)

    async def _until_gone(self, job: Job, body: _Body, request: Request, send: Send) -> None:
        """Let the application answer, and stop it when the client goes."""
        gone = asyncio.Event()
        raw = body.model_dump_json(exclude_unset=True, exclude_none=True).encode()
        unread: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(self._app(request.scope, receive, send))
        leaving = asyncio.ensure_future(request.receive())  # returns when the answer is sent, too
        try:
            await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self._line.leave(job)
                answer.cancel()
                await asyncio.wait({answer})
        finally:
            leaving.cancel()
        if not answer.cancelled():
            answer.result()  # raises what the application raised


_ROUTES = {
    *(("POST", path) for path in _POSTS),
    ("GET", "/v1/models"),
    ("GET", "/health"),
}


async def _body(request: Request) -> bytes:
    """Return the body. One that is too long is read to its end first, and forgotten: a client that
    is still sending does not see an answer."""
    if "application/json" not in request.headers.get("content-type", ""):
        raise Refused(400, "The body must be JSON: send Content-Type: application/json.")
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                length += len(part)
                parts = [*parts, part] if length <= MOST_BYTES else []
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {BODY_SECONDS:.0f} s.") from None
    if length > MOST_BYTES:
        raise Refused(413, f"The request has {length:,} bytes: {MOST_BYTES:,} is the most.")
    return b"".join(parts)
