"""A question and its answer in the two forms of OpenAI's interface (lesson 13, ``chat.faults``).

``Completions`` and ``Responses`` each read a request's body and write the same `Said` their way,
whole or as the events of a stream, with the fields that the SDK's types promise.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Call = tuple[str, str]
"""The name of a function and its arguments, as JSON or as what a model takes for it."""

_Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a request says: the last message, and what became of the calls so far, by their id."""

    last: str
    words: int
    called: list[str]
    results: dict[str, str]


@dataclass(frozen=True)
class Said:
    """An answer: its words, the functions it calls, or why it declines."""

    words: list[str]
    calls: list[tuple[str, Call]]  # with their ids
    refusal: str
    finish: str | None  # in the words of finish_reason; None: it does not say
    read: int  # tokens of the request

    @property
    def text(self) -> str:
        """The words in one piece."""
        return "".join(self.words)


_PLACE = {"item_id": "msg_faults", "output_index": 0, "content_index": 0}


def event(data: _Json, name: str = "") -> bytes:
    """Return an event of a stream as it is sent."""
    kind = f"event: {name}\n" if name else ""
    return f"{kind}data: {json.dumps(data)}\n\n".encode()


def _text(content: Any) -> str:
    """Return the text of a content, which is text or a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content)
    return str(content or "")


class Completions:
    """``/chat/completions``."""

    cap = "max_completion_tokens"

    def __init__(self, body: _Json) -> None:
        self._body = body
        self._counted = (body.get("stream_options") or {}).get("include_usage", False)

    def asked(self) -> Asked:
        """Return what the request says."""
        messages = self._body["messages"]
        texts = [_text(message.get("content")) for message in messages]
        calls = [call["id"] for message in messages for call in message.get("tool_calls") or []]
        results = {m["tool_call_id"]: _text(m["content"]) for m in messages if m["role"] == "tool"}
        return Asked(texts[-1], sum(len(text.split()) for text in texts), calls, results)

    def whole(self, said: Said) -> _Json:
        """Return an answer in one piece."""
        calls = self._calls(said)
        message = {
            "role": "assistant",
            "content": said.text if said.words or not calls else None,
            "refusal": said.refusal or None,
        } | ({"tool_calls": calls} if calls else {})
        choice = {"index": 0, "message": message, "finish_reason": said.finish or "stop"}
        about = {"object": "chat.completion", "choices": [choice], "usage": self._usage(said)}
        return {"id": "faults", "created": 0, "model": self._body["model"]} | about

    def begin(self, _: Said) -> Iterator[bytes]:
        """Yield what comes before the words."""
        yield self._chunk({"role": "assistant", "content": ""})

    def word(self, word: str) -> bytes:
        """Return the event of a word."""
        return self._chunk({"content": word})

    def end(self, said: Said) -> Iterator[bytes]:
        """Yield what comes after the words of an answer that says how it ended."""
        if said.refusal:
            yield self._chunk({"refusal": said.refusal})
        for index, call in enumerate(self._calls(said)):
            yield self._chunk({"tool_calls": [call | {"index": index}]})
        yield self._chunk({}, said.finish)

    def close(self, said: Said) -> Iterator[bytes]:
        """Yield what closes a stream."""
        if self._counted:
            yield self._chunk(None, usage=self._usage(said))
        yield b"data: [DONE]\n\n"

    def _calls(self, said: Said) -> list[_Json]:
        return [
            {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
            for key, (name, arguments) in said.calls
        ]

    def _usage(self, said: Said) -> _Json:
        wrote = len(said.words)
        counts = {"prompt_tokens": said.read, "completion_tokens": wrote}
        return counts | {"total_tokens": said.read + wrote}

    def _chunk(self, delta: _Json | None, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        about = {"id": "faults", "object": "chat.completion.chunk", "created": 0}
        about |= {"model": self._body["model"]}
        return event(about | {"choices": [] if delta is None else [choice]} | more)


class Responses:
    """``/responses``."""

    cap = "max_output_tokens"

    def __init__(self, body: _Json) -> None:
        self._body = body
        self._number = -1

    def asked(self) -> Asked:
        """Return what the request says."""
        given = self._body["input"]
        items = [{"content": given}] if isinstance(given, str) else given
        texts = [_text(item.get("content") or item.get("output")) for item in items]
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        outputs = [item for item in items if item.get("type") == "function_call_output"]
        results = {item["call_id"]: _text(item["output"]) for item in outputs}
        words = [*texts, str(self._body.get("instructions") or "")]
        return Asked(texts[-1], sum(len(text.split()) for text in words), calls, results)

    def whole(self, said: Said) -> _Json:
        """Return an answer in one piece."""
        return self._response(said, self._status(said), self._items(said))

    def begin(self, said: Said) -> Iterator[bytes]:
        """Yield what comes before the words."""
        for kind in ("created", "in_progress"):
            yield self._event(kind, response=self._response(None, "in_progress", []))
        if said.words:
            item = self._message(said, "in_progress") | {"content": []}
            yield self._event("output_item.added", output_index=0, item=item)
            part = {"type": "output_text", "text": "", "annotations": []}
            yield self._event("content_part.added", **_PLACE, part=part)

    def word(self, word: str) -> bytes:
        """Return the event of a word."""
        return self._event("output_text.delta", **_PLACE, delta=word, logprobs=[])

    def end(self, said: Said) -> Iterator[bytes]:
        """Yield what comes after the words of an answer that says how it ended."""
        items = self._items(said)
        if said.words:
            done = {"text": said.text, "logprobs": []}
            yield self._event("output_text.done", **_PLACE, **done)
            yield self._event("content_part.done", **_PLACE, part=items[0]["content"][0])
        for index, item in enumerate(items):
            where = {"output_index": index, "item": item}
            if item["type"] == "function_call":
                yield from self._call(index, item)
            elif not said.words:
                yield self._event("output_item.added", **where)
            yield self._event("output_item.done", **where)
        status = self._status(said)
        yield self._event(status, response=self._response(said, status, items))

    def close(self, _: Said) -> Iterator[bytes]:
        """Yield what closes a stream: the last event did."""
        yield from ()

    def _call(self, index: int, item: _Json) -> Iterator[bytes]:
        begun = item | {"arguments": "", "status": "in_progress"}
        yield self._event("output_item.added", output_index=index, item=begun)
        place, arguments = {"item_id": item["id"], "output_index": index}, item["arguments"]
        yield self._event("function_call_arguments.delta", **place, delta=arguments)
        done = {"arguments": arguments, "name": item["name"]}
        yield self._event("function_call_arguments.done", **place, **done)

    def _items(self, said: Said) -> list[_Json]:
        calls = [
            {
                "type": "function_call",
                "id": f"fc_{key}",
                "call_id": key,
                "name": name,
                "arguments": arguments,
                "status": "completed",
            }
            for key, (name, arguments) in said.calls
        ]
        speaks = said.words or said.refusal or not calls
        return [*([self._message(said, self._status(said))] if speaks else []), *calls]

    def _message(self, said: Said, status: str) -> _Json:
        text = {"type": "output_text", "text": said.text, "annotations": []}
        part = {"type": "refusal", "refusal": said.refusal} if said.refusal else text
        about = {"id": "msg_faults", "type": "message", "role": "assistant"}
        return about | {"status": status, "content": [part]}

    def _status(self, said: Said) -> str:
        return "incomplete" if said.finish in ("length", "content_filter") else "completed"

    def _response(self, said: Said | None, status: str, output: list[_Json]) -> _Json:
        body = self._body
        reason = {"length": "max_output_tokens"}.get(said.finish or "", said.finish) if said else ""
        cut = {"reason": reason} if status == "incomplete" else None
        response = {
            "id": "resp_faults",
            "object": "response",
            "created_at": 0,
            "model": body["model"],
            "status": status,
            "error": None,
            "incomplete_details": cut,
            "instructions": body.get("instructions"),
            "metadata": {},
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": body.get("tools") or [],
        }
        return response | ({"usage": self._usage(said)} if said else {})

    def _usage(self, said: Said) -> _Json:
        return {
            "input_tokens": said.read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": len(said.words),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": said.read + len(said.words),
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        name = f"response.{kind}"
        return event({"type": name, "sequence_number": self._number, **fields}, name)
