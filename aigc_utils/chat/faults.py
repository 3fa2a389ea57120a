"""A local server that fails on purpose (lesson 13, and the tests of ``aigc_utils.chat``).

It speaks the chat-completions protocol on a loopback port. The *model name* of a request picks
what happens: ``echo`` answers with the last user message, ``401`` refuses the key, ``cut`` breaks
the connection in the middle of the answer, and so on: ``FAULTS`` lists them all. Nothing is
imitated inside the client: it meets real HTTP, as it would far away.
"""

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

FAULTS = {
    "echo": "answers with the last user message, word by word, and counts words as tokens",
    "401": "the key is wrong",
    "403": "the key may not use this model",
    "404": "there is no such model (any name that is not in this table does the same)",
    "400": "the prompt is too long for the context",
    "429": "too many requests, without saying how long to wait",
    "429-wait": "too many requests: Retry-After: 60",
    "429-credit": "no credit left",
    "429-once": "refuses the first request with Retry-After: 0.1, then answers",
    "500": "an error inside the server",
    "500-once": "is overloaded at the first request, then answers",
    "slow": "sends nothing until the client gives up",
    "stall": "sends the first half of the answer, then nothing",
    "cut": "breaks the connection in the middle of the answer",
    "end": "closes the answer politely, but in the middle",
    "filter": "finish_reason content_filter after a few words",
    "refusal": "the model declines: a refusal and no content",
    "length": "finish_reason length: max_completion_tokens was reached",
    "error": "an error object in the middle of the stream",
    "json": "invalid JSON",
    "fields": "valid JSON without the fields of an answer",
    "types": "the right fields with the wrong types",
    "utf8": "bytes that are not UTF-8",
    "empty": "no choices",
    "nothing": "an empty body",
    "html": "a web page with status 200, as a captive portal sends",
    "leak": "an error message that quotes the key it was given",
    "leak-answer": "an answer that quotes the key it was given",
}
"""What the server plays for each model name."""

_STATUS = {
    "400": (400, "This model's maximum context length is 100 tokens.", "context_length_exceeded"),
    "401": (401, "Incorrect API key provided.", "invalid_api_key"),
    "403": (403, "This project may not use the model.", "model_not_allowed"),
    "404": (404, "The model does not exist.", "model_not_found"),
    "429": (429, "Rate limit reached.", "rate_limit_exceeded"),
    "429-wait": (429, "Rate limit reached.", "rate_limit_exceeded"),
    "429-credit": (429, "You exceeded your current quota.", "insufficient_quota"),
    "500": (500, "The server had an error.", "server_error"),
}


class Server:
    """A running server: ``base_url`` for the client, and what it has seen.

    ``served`` counts requests, ``peak`` is the most that were in work at once, ``last`` is the
    body of the last one.
    """

    def __init__(self, delay: float, parallel: int, limit: int | None) -> None:
        self.delay, self.limit = delay, limit
        self.served = self.peak = 0
        self.last: dict[str, Any] = {}
        self.stopping = threading.Event()
        self.once: set[str] = set()
        self._inside = 0
        self._lock = threading.Lock()
        self._workers = threading.Semaphore(parallel)
        self._http = _Threads(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @contextlib.contextmanager
    def working(self) -> Iterator[bool]:
        """Count a request in and out; give False when there are more than ``limit`` at once."""
        with self._lock:
            self.served += 1
            self._inside += 1
            welcome = self.limit is None or self._inside <= self.limit
            self.peak = max(self.peak, self._inside)
        try:
            if welcome:
                with self._workers:
                    self.stopping.wait(self.delay)
                    yield True
            else:
                yield False
        finally:
            with self._lock:
                self._inside -= 1

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and wake the requests that play slow."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()


def serve(delay: float = 0.0, *, parallel: int = 64, limit: int | None = None) -> Server:
    """Start the server; it ends with its ``stop()``, or with the ``with`` block that it opens.

    ``delay`` is the seconds that every answer takes, ``parallel`` how many are worked on at once
    (1: one after another, as ``transformers serve`` does), and ``limit`` the number of requests at
    once above which the server answers 429 with ``Retry-After: 0.1``.
    """
    return Server(delay, parallel, limit)


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up early is part of the play, not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Threads

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "faults"} for name in FAULTS
        ]
        self._json(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        owner.last = body
        with owner.working() as welcome:
            if not welcome:
                self._error("429", retry_after="0.1")
            elif not self.path.endswith("/chat/completions"):
                self._error("404")
            else:
                self._play(str(body.get("model")), body)

    def _play(self, fault: str, body: dict[str, Any]) -> None:
        owner = self.server.owner
        text = str(body["messages"][-1]["content"])
        if fault == "leak":
            self._json(400, {"error": {"message": f"Bad request: {self.headers['Authorization']}"}})
        elif fault in ("429-once", "500-once"):
            if fault not in owner.once:
                owner.once.add(fault)
                self._error("429" if fault == "429-once" else "500", retry_after="0.1")
            else:
                self._answer("echo", text, body)
        elif fault in _STATUS:
            self._error(fault, retry_after="60" if fault == "429-wait" else None)
        elif fault == "slow":
            owner.stopping.wait(120)
            self.close_connection = True
        elif fault == "html":
            self._whole(200, "text/html", b"<html><h1>Welcome to our network</h1></html>")
        elif fault == "nothing":
            self._whole(200, "text/event-stream", b"")
        elif fault not in FAULTS:
            self._error("404")
        else:
            if fault == "leak-answer":
                text = f"You sent me {self.headers['Authorization']}, thank you."
            self._answer(fault, text, body)

    def _answer(self, fault: str, text: str, body: dict[str, Any]) -> None:
        pieces = re.findall(r"\s*\S+|\s+$", text)
        if "max_completion_tokens" in body:
            pieces = pieces[: body["max_completion_tokens"]]
        asked = sum(len(str(message["content"]).split()) for message in body["messages"])
        usage = {
            "prompt_tokens": asked,
            "completion_tokens": len(pieces),
            "total_tokens": asked + len(pieces),
        }
        if body.get("stream"):
            self._stream(fault, pieces, usage)
        else:
            self._at_once(fault, pieces, usage)

    def _at_once(self, fault: str, pieces: list[str], usage: dict[str, int]) -> None:
        text, reason, refusal = "".join(pieces), "stop", None
        if fault == "filter":
            text, reason = "".join(pieces[:2]), "content_filter"
        elif fault == "refusal":
            text, refusal = "", "I cannot help with that."
        elif fault == "length":
            reason = "length"
        message = {"role": "assistant", "content": text, "refusal": refusal}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason}
        answer = {"id": "faults", "object": "chat.completion", "created": 0, "model": fault}
        whole: dict[str, Any] = answer | {"choices": [choice], "usage": usage}
        if fault == "empty":
            whole["choices"] = []
        elif fault == "fields":
            whole = {"answer": text}
        elif fault == "types":
            whole["choices"] = [{"message": 7, "finish_reason": ["stop"]}]
        raw = json.dumps(whole).encode()
        if fault == "json":
            raw = raw[:-9]
        elif fault == "utf8":
            raw = raw.replace(b'"faults"', b'"\xff\xfe"')
        elif fault in ("cut", "end", "stall"):
            self._whole(200, "application/json", raw[:-9], promised=len(raw))
            return
        self._whole(200, "application/json", raw)

    def _stream(self, fault: str, pieces: list[str], usage: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event(_piece({"role": "assistant", "content": ""}))
        half = max(1, len(pieces) // 2)
        shown = pieces[:half] if fault in ("cut", "end", "stall", "error", "filter") else pieces
        if fault in ("refusal", "empty", "fields", "types"):
            shown = []
        for piece in shown:
            self._event(_piece({"content": piece}))
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "stall":
            self.server.owner.stopping.wait(120)
            self.close_connection = True
            return
        if fault == "error":
            self._event({"error": {"message": "The server lost its mind.", "code": "overloaded"}})
        elif fault == "json":
            self._chunk(b'data: {"choices": [{"delta"\n\n')
        elif fault == "utf8":
            self._chunk(b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n')
        elif fault == "fields":
            self._event({"answer": "".join(pieces)})
        elif fault == "types":
            self._event({"choices": [{"delta": {"content": 7}, "finish_reason": ["stop"]}]})
        elif fault == "refusal":
            self._event(_piece({"refusal": "I cannot help with that."}))
        if fault in ("filter", "length"):
            self._event(_piece({}, {"filter": "content_filter"}.get(fault, fault)))
        elif fault not in ("end", "error", "json", "utf8", "fields", "types", "empty"):
            self._event(_piece({}, "stop"))
        if fault != "end":
            self._event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, data: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(data)}\n\n".encode())

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))

    def _error(self, fault: str, retry_after: str | None = None) -> None:
        status, message, code = _STATUS[fault]
        body = {"error": {"message": message, "type": "error", "code": code}}
        self._json(status, body, retry_after)

    def _json(self, status: int, body: object, retry_after: str | None = None) -> None:
        self._whole(status, "application/json", json.dumps(body).encode(), retry_after=retry_after)

    def _whole(
        self,
        status: int,
        kind: str,
        raw: bytes,
        *,
        promised: int | None = None,
        retry_after: str | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(promised or len(raw)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(raw)
        if promised is not None:  # less was sent than the header says: the client must notice
            self.close_connection = True


def _piece(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "faults", "object": "chat.completion.chunk", "created": 0, "choices": [choice]}
