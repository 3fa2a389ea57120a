"""The answers of ``transformers serve``, made what the SDK's types promise (lesson 13).

Its handlers count and stream, but leave out what a client goes by: that a capped response is
*incomplete*, how much of a prompt was cached, and that a stream tells its usage when asked to.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.response import ResponseHandler

from aigc_utils.chat.turns import Job, current

_Body = dict[str, Any]
_Answer = StreamingResponse | JSONResponse
_Change = Callable[[_Body], Iterator[_Body]]

_ECHOED = ("instructions", "max_output_tokens", "temperature", "top_p", "metadata")


class Completions(ChatCompletionHandler):
    """``/v1/chat/completions``."""

    async def handle_request(self, body: _Body, request_id: str) -> _Answer:
        """As the parent's; a stream has a last chunk with the usage only when asked for it."""
        answer = await super().handle_request(body, request_id)
        job = current.get()
        counted = bool((body.get("stream_options") or {}).get("include_usage"))

        def change(chunk: _Body) -> Iterator[_Body]:
            usage = chunk.pop("usage", None)
            yield chunk
            if usage and counted:
                yield chunk | {"choices": [], "usage": _with_cached(usage, "prompt", job)}

        if isinstance(answer, StreamingResponse):
            return _stream(answer, change, "data: [DONE]\n\n")
        whole = json.loads(bytes(answer.body))
        return JSONResponse(whole | {"usage": _with_cached(whole["usage"], "prompt", job)})


class Responses(ResponseHandler):
    """``/v1/responses``, which keeps nothing: there is no ``previous_response_id``."""

    async def handle_request(self, body: _Body, request_id: str) -> _Answer:
        """As the parent's, but at once unless a stream is wanted; what was capped is incomplete."""
        answer = await super().handle_request({"stream": False} | body, request_id)
        job = current.get()
        echo = {name: body[name] for name in _ECHOED if name in body} | {"store": False}

        def change(event: _Body) -> Iterator[_Body]:
            if "response" in event:
                response = _finished(event["response"] | echo, job)
                queued = response["status"] == "queued"  # it is in work when this is sent
                event["response"] = response | ({"status": "in_progress"} if queued else {})
                if response["status"] == "incomplete":
                    event["type"] = "response.incomplete"
            yield event

        if isinstance(answer, StreamingResponse):
            return _stream(answer, change)
        return JSONResponse(_finished(json.loads(bytes(answer.body)) | echo, job))


def _finished(response: _Body, job: Job) -> _Body:
    """Add to a response with usage what was cached, and whether its cap cut it off."""
    if not (usage := response.get("usage")):
        return response
    response = response | {"usage": _with_cached(usage, "input", job)}
    if usage["total_tokens"] >= job.tokens:
        cut = {"status": "incomplete"}
        response |= cut | {"incomplete_details": {"reason": "max_output_tokens"}}
        response["output"] = [item | cut for item in response["output"]]
    return response


def _with_cached(usage: _Body, kind: str, job: Job) -> _Body:
    field = f"{kind}_tokens_details"
    return usage | {field: usage.get(field, {}) | {"cached_tokens": job.cached}}


def _stream(answer: StreamingResponse, change: _Change, end: str = "") -> StreamingResponse:
    """Change each event of a stream; one that is no JSON is passed on."""
    source: Any = answer.body_iterator

    async def events() -> AsyncGenerator[str]:
        async with contextlib.aclosing(source):
            async for some in source:
                yield "".join(map(rewrite, some.removesuffix("\n\n").split("\n\n")))
        if end:
            yield end

    def rewrite(event: str) -> str:
        try:
            found = json.loads(event.removeprefix("data: "))
        except ValueError:
            return f"{event}\n\n"
        changed = change(found) if isinstance(found, dict) else [found]
        return "".join(f"data: {json.dumps(one)}\n\n" for one in changed)

    return StreamingResponse(events(), media_type="text/event-stream")
