"""A local server that fails on purpose (lesson 13, and the tests of ``aigc_utils.chat``).

It speaks Responses and chat completions on a loopback port. The *model name* of a request picks
what happens: ``echo`` answers with the last message, ``tools`` calls functions as its script says,
``401`` refuses the key, ``cut`` breaks the connection in the middle of the answer, and so on:
``FAULTS`` lists them all. Nothing is imitated inside the client: it meets real HTTP, as it would
far away.
"""

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from aigc_utils.chat.forms import Asked, Call, Completions, Responses, Said, event

Step = str | list[Call]
"""What model ``tools`` does at once: some calls, or a text; ``{results}`` in it become those of the
calls so far, ``{result}`` the last."""

SCRIPT: tuple[Step, ...] = (
    [("multiply", '{"a": 127, "b": 49}')],
    "The result is {result}.",
)


@dataclass(frozen=True)
class Fault:
    """One way to fail, in the order in which it can happen; what is not said goes well.

    Texts may hold ``{key}``, what the client sent as its key, and ``{asked}``, its last message.
    """

    text: str  # what `FAULTS` says about it

    # Nothing, or no answer
    silent: bool = False
    refuses: tuple[int, str, str | None] | None = None  # status, message, code
    retry_after: str | None = None
    once: bool = False  # refuses the first request only
    page: tuple[str, bytes] | None = None  # content type and body of something else, status 200

    # An answer
    says: str = "{asked}"
    share: float = 1.0  # of the words; what comes is half an answer, or none
    refusal: str = ""
    calls: bool = False  # functions, as the server's script says, when the request offers some
    finish: str | None = "stop"  # finish_reason; None: the stream has none

    # The answer on its way
    breaks: bool = False  # the stream stops after half of the words
    event: bytes | None = None  # sent after the words, before the end
    ending: Literal["whole", "polite", "cut", "stall"] = "whole"
    whole: Callable[[bytes], bytes] = bytes  # what becomes of an answer that is not streamed


def _replace(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda raw: json.dumps(json.loads(raw) | fields).encode()


_BUSY = (429, "Rate limit reached.", "rate_limit_exceeded")
_BROKEN = (500, "The server had an error.", "server_error")

_FAULTS = {
    "echo": Fault("answers with the last user message, word by word, and counts words as tokens"),
    "401": Fault(
        "the key is wrong",
        refuses=(401, "Incorrect API key provided.", "invalid_api_key"),
    ),
    "403": Fault(
        "the key may not use this model",
        refuses=(403, "This project may not use the model.", "model_not_allowed"),
    ),
    "404": Fault(
        "there is no such model (any name that is not in this table does the same)",
        refuses=(404, "The model does not exist.", "model_not_found"),
    ),
    "400": Fault(
        "the prompt is too long for the context",
        refuses=(
            400,
            "This model's maximum context length is 100 tokens.",
            "context_length_exceeded",
        ),
    ),
    "429": Fault("too many requests, without saying how long to wait", refuses=_BUSY),
    "429-wait": Fault("too many requests: Retry-After: 60", refuses=_BUSY, retry_after="60"),
    "429-credit": Fault(
        "no credit left",
        refuses=(429, "You exceeded your current quota.", "insufficient_quota"),
    ),
    "429-once": Fault(
        "refuses the first request with Retry-After: 0.1, then answers",
        refuses=_BUSY,
        retry_after="0.1",
        once=True,
    ),
    "500": Fault("an error inside the server", refuses=_BROKEN),
    "500-once": Fault(
        "is overloaded at the first request, then answers",
        refuses=_BROKEN,
        retry_after="0.1",
        once=True,
    ),
    "slow": Fault("sends nothing until the client gives up", silent=True),
    "stall": Fault(
        "sends the first half of the answer, then nothing",
        breaks=True,
        finish=None,
        ending="stall",
    ),
    "cut": Fault(
        "breaks the connection in the middle of the answer",
        breaks=True,
        finish=None,
        ending="cut",
    ),
    "end": Fault(
        "closes the answer politely, but in the middle",
        breaks=True,
        finish=None,
        ending="polite",
    ),
    "filter": Fault(
        "finish_reason content_filter after a few words", share=0.5, finish="content_filter"
    ),
    "refusal": Fault(
        "the model declines: a refusal and no content",
        share=0,
        refusal="I cannot help with that.",
    ),
    "length": Fault(
        "finish_reason length: max_completion_tokens was reached",
        finish="length",
    ),
    "tools": Fault("calls the functions of its script, one step a request", calls=True),
    "error": Fault(
        "an error object in the middle of the stream",
        breaks=True,
        event=event({"error": {"message": "The server lost its mind.", "code": "overloaded"}}),
        finish=None,
    ),
    "json": Fault(
        "invalid JSON",
        event=b'data: {"choices": [{"delta"\n\n',
        finish=None,
        whole=lambda raw: raw[:-9],
    ),
    "fields": Fault(
        "valid JSON without the fields of an answer",
        share=0,
        event=event({"answer": "Yes."}),
        finish=None,
        whole=lambda _: b'{"answer": "Yes."}',
    ),
    "types": Fault(
        "the right fields with the wrong types",
        share=0,
        event=event({"choices": [{"delta": {"content": 7}, "finish_reason": ["stop"]}]}),
        finish=None,
        whole=_replace(choices=[{"message": 7, "finish_reason": ["stop"]}], output=7),
    ),
    "utf8": Fault(
        "bytes that are not UTF-8",
        event=b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
        finish=None,
        whole=lambda raw: raw.replace(b'"faults"', b'"\xff\xfe"'),
    ),
    "empty": Fault("no choices", share=0, finish=None, whole=_replace(choices=[], output=[])),
    "nothing": Fault("an empty body", page=("text/event-stream", b"")),
    "html": Fault(
        "a web page with status 200, as a captive portal sends",
        page=("text/html", b"<html><h1>Welcome to our network</h1></html>"),
    ),
    "leak": Fault(
        "an error message that quotes the key it was given",
        refuses=(400, "Bad request: {key}", None),
    ),
    "leak-answer": Fault(
        "an answer that quotes the key it was given", says="You sent me {key}, thank you."
    ),
}

FAULTS = {name: fault.text for name, fault in _FAULTS.items()}
"""What the server plays for each model name."""


class FaultyServer:
    """A running server: ``base_url`` for the client, and what it has seen.

    ``served`` counts requests, ``peak`` is the most that were in work at once, ``last`` is the
    body of the last one. ``script`` is what model ``tools`` does; its last step is repeated.
    """

    def __init__(self, delay: float, parallel: int, limit: int | None) -> None:
        self.delay, self.limit = delay, limit
        self.script: Sequence[Step] = SCRIPT
        self.served = self.peak = 0
        self.last: dict[str, Any] = {}
        self.stopping = threading.Event()
        self.played: set[str] = set()  # names of models that were asked for before
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

    def __enter__(self) -> "FaultyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and wake the requests that play slow."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()


def serve(delay: float = 0.0, *, parallel: int = 64, limit: int | None = None) -> FaultyServer:
    """Start the server; it ends with its ``stop()``, or with the ``with`` block that it opens.

    ``delay`` is the seconds that every answer takes, ``parallel`` how many are worked on at once
    (1: one after another, as ``transformers serve`` does), and ``limit`` the number of requests at
    once above which the server answers 429 with ``Retry-After: 0.1``.
    """
    return FaultyServer(delay, parallel, limit)


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: FaultyServer

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
                self._refuse(_FAULTS["429-once"])
            elif form := next((f for end, f in _FORMS.items() if self.path.endswith(end)), None):
                self._play(str(body.get("model")), body, form(body))
            else:
                self._refuse(_FAULTS["404"])

    def _play(self, name: str, body: dict[str, Any], form: Completions | Responses) -> None:
        owner, fault = self.server.owner, _FAULTS.get(name, _FAULTS["404"])
        first = name not in owner.played
        owner.played.add(name)
        if fault.silent:
            self._wait()
        elif fault.refuses and (first or not fault.once):
            self._refuse(fault)
        elif fault.page:
            self._whole(200, *fault.page)
        elif kept := body.get("previous_response_id"):
            message = f"Previous response with id '{kept}' not found."
            self._error(400, message, "previous_response_not_found")
        else:
            self._answer(fault, body, form)

    def _wait(self) -> None:
        """Send nothing (more) until the server stops, or nobody can be waiting any longer."""
        self.server.owner.stopping.wait(120)
        self.close_connection = True

    def _fill(self, text: str, asked: Asked | None = None) -> str:
        """Put the key, the question and the results into a text, which may hold braces itself."""
        known = {"{key}": str(self.headers["Authorization"])}
        if asked:
            results = list(asked.results.values())
            known |= {"{asked}": asked.last, "{results}": ", ".join(results)}
            known["{result}"] = results[-1] if results else ""
        return re.sub("|".join(map(re.escape, known)), lambda found: known[found[0]], text)

    def _refuse(self, fault: Fault) -> None:
        assert fault.refuses
        status, message, code = fault.refuses
        self._error(status, self._fill(message), code, fault.retry_after)

    def _error(self, status: int, message: str, code: str | None, wait: str | None = None) -> None:
        error = {"message": message, "type": "error", "param": None, "code": code}
        self._json(status, {"error": error}, wait)

    def _answer(self, fault: Fault, body: dict[str, Any], form: Completions | Responses) -> None:
        asked = form.asked()
        if open_calls := [key for key in asked.called if key not in asked.results]:
            self._error(400, f"No tool output found for function call {open_calls[0]}.", None)
            return
        if strangers := [key for key in asked.results if key not in asked.called]:
            self._error(400, f"No tool call found for function call output {strangers[0]}.", None)
            return
        said = self._say(fault, asked, body, form.cap)
        if body.get("stream"):
            self._stream(fault, form, said)
        else:
            self._at_once(fault, form.whole(said))

    def _say(self, fault: Fault, asked: Asked, body: dict[str, Any], cap: str) -> Said:
        made = len(asked.called)
        step: Step = fault.says
        if fault.calls and body.get("tools"):
            step = _next_step(self.server.owner.script, made)
        if isinstance(step, list):
            calls = [(f"call_{made + number}", call) for number, call in enumerate(step)]
            return Said([], calls, "", "tool_calls", asked.words)
        words = re.findall(r"\s*\S+|\s+$", self._fill(step, asked))
        most = body.get(cap) or len(words)
        finish = "length" if fault.finish and len(words) > most else fault.finish
        return Said(_first(words[:most], fault.share), [], fault.refusal, finish, asked.words)

    def _at_once(self, fault: Fault, answer: dict[str, Any]) -> None:
        raw = json.dumps(answer).encode()
        if fault.ending == "whole":
            self._whole(200, "application/json", fault.whole(raw))
        else:
            self._whole(200, "application/json", raw[:-9], promised=len(raw))

    def _stream(self, fault: Fault, form: Completions | Responses, said: Said) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in form.begin(said):
            self._chunk(part)
        for word in _first(said.words, 0.5 if fault.breaks else 1):
            self._chunk(form.word(word))
        if fault.ending == "cut":
            self.close_connection = True
            return
        if fault.ending == "stall":
            self._wait()
            return
        if fault.event:
            self._chunk(fault.event)
        if fault.finish:
            for part in form.end(said):
                self._chunk(part)
        if fault.ending == "whole":
            for part in form.close(said):
                self._chunk(part)
        self._chunk(b"")

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))

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


def _first(pieces: list[str], share: float) -> list[str]:
    """Return the first part of the pieces: all, none, or at least one."""
    return pieces[: max(1, int(len(pieces) * share))] if share else []


def _next_step(script: Sequence[Step], made: int) -> Step:
    """Return what a script does after so many calls: a model decides by what it reads."""
    before = 0
    for step in script:
        if isinstance(step, str) or before >= made:
            return step
        before += len(step)
    return script[-1]


_FORMS: dict[str, type[Completions | Responses]] = {
    "/chat/completions": Completions,
    "/responses": Responses,
}
