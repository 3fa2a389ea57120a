"""A web server on loopback that answers just what a test says, for what no real server does."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], bytes | Iterable[bytes]]
"""Status, headers and body; a body in parts is sent part by part, and ends with the connection."""


class Odd:
    """A running server: its address, and each request as (method, path, headers, body)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.base_url = f"{root}/v1"
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def last_messages(self) -> list[dict[str, str]]:
        """The messages of the last chat that was asked for."""
        return json.loads(self.requests[-1][3])["messages"]


@contextlib.contextmanager
def answering(respond: Callable[[str, str], Reply]) -> Iterator[Odd]:
    """Serve ``respond(method, path)`` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            odd.requests.append((self.command, self.path, dict(self.headers), body))
            status, headers, raw = respond(self.command, self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that has heard enough
                for part in [raw] if isinstance(raw, bytes) else raw:
                    self.wfile.write(part)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    odd = Odd(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield odd
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def events(*deltas: dict, reason: str | None = "stop") -> bytes:
    """Return the stream of an answer: one event for each delta, then how it ended."""
    ends = [] if reason is None else [({}, reason)]
    choices = [{"delta": d, "finish_reason": r} for d, r in [*((d, None) for d in deltas), *ends]]
    return b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"
        for choice in choices
    )


def stream(*deltas: dict, reason: str | None = "stop") -> Reply:
    """Return a reply that streams an answer."""
    return 200, {"Content-Type": "text/event-stream"}, events(*deltas, reason=reason)


def say(raw: bytes, status: int = 200, kind: str = "text/event-stream", **headers: str) -> Reply:
    """Return a reply with the given bytes."""
    return status, {"Content-Type": kind, **headers}, raw


def listing(*names: str) -> Reply:
    """Return the list of a provider's models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in names]
    return 200, {"Content-Type": "application/json"}, json.dumps({"data": data}).encode()
