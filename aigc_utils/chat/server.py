"""The chat model behind an OpenAI-compatible web server on this machine (lessons 11 and 13).

`start()` runs ``transformers serve`` in a process of its own, on a port that only this machine can
reach, and waits until it answers. A guard stands in front of it (`aigc_utils.chat.guard`), and
requests compute in turn (`aigc_utils.chat.turns`). The server ends with the program that started
it, also when that one is killed. In a terminal: ``python -m aigc_utils.chat.server --port 8000``.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from typing import IO, TYPE_CHECKING, Any

from aigc_utils import smollm2

if TYPE_CHECKING:
    from aigc_utils.chat.guard import Guard

HOST = "127.0.0.1"
START_SECONDS = 90.0  # a slow disk and a busy machine; a quiet one takes about five
_STOP_SECONDS = 2.0
_COMMAND = (sys.executable, "-m", "aigc_utils.chat.server", "--child", "--port")
_TOKEN = "AIGC_SERVER_TOKEN"  # in the child's environment: what it calls itself
TOKEN_HEADER = "x-aigc-server"  # where its answer to /health says so

# All that the server gets to know of this process's environment: where things are, and how to
# compute. Keys and tokens have no business there, whatever they are called.
_KEPT = re.compile(
    r"""PATH | HOME | USER | LOGNAME | LANG | LANGUAGE | LC_.* | TZ | TMPDIR | TEMP | TMP
    | LD_LIBRARY_PATH | DYLD_.* | XDG_CACHE_HOME | VIRTUAL_ENV | CONDA_PREFIX
    | PYTHON(PATH | HOME | UTF8 | HASHSEED | DONTWRITEBYTECODE) | AIGC_(CACHE | STATIC)
    | SYSTEMROOT | SYSTEMDRIVE | WINDIR | USERPROFILE | (LOCAL)?APPDATA | PROGRAMDATA
    | PATHEXT | COMSPEC | NUMBER_OF_PROCESSORS | PROCESSOR_.*
    | (CUDA | OMP | MKL | KMP | GOMP | OPENBLAS | ATEN | ONEDNN | DNNL | TORCH)_.*""",
    re.VERBOSE | re.IGNORECASE,  # Windows does not tell cases apart
)

# The server must not ask the system's proxy for the way to this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start; the message says why and what to do."""


class _Stranger(ServerError):
    def __init__(self, port: int) -> None:
        super().__init__(
            f"Another program answers on port {port}: leave the port out to get a free one, or "
            "name another."
        )


class Server:
    """A running server; `start` makes it, leaving a ``with`` block or `stop` ends it."""

    model = smollm2.NAME

    def __init__(self, port: int, process: subprocess.Popen, log: IO[bytes], token: str) -> None:
        self.base_url = f"http://{HOST}:{port}/v1"
        self.process = process
        self._port, self._log, self._token = port, log, token

    def __repr__(self) -> str:
        return f"Server({self.model!r}, {'running' if self.running else 'stopped'})"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """True until the server's process ends."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the server; a second call does nothing."""
        if self.running:
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self._log.close()

    def last_words(self, lines: int = 3) -> str:
        """Return the end of the server's log in one line."""
        if self._log.closed:
            return ""
        self._log.seek(0)
        said = self._log.read().decode("utf-8", errors="replace").split("\n")
        return " | ".join([line.strip() for line in said if line.strip()][-lines:])


_running: Server | None = None
_lock = threading.Lock()


def start(*, port: int | None = None) -> Server:
    """Serve the chat model on this machine and return when it answers; a second call reuses it.

    `port=None` takes a free port. The chat model is converted first when it has not been. Raises
    ServerError when the port is taken or the server does not come up, `smollm2.ModelError` when the
    model is missing; the message says what to do.
    """
    global _running
    if port is not None and not 0 < port < 2**16:
        raise ServerError(f"port={port} is not a port: take a number from 1024 to 65535.")
    _pass_by_proxies()
    with _lock:
        if _running is not None and _running.running:
            if port is not None and port != _running._port:
                raise ServerError(
                    f"A server runs at {_running.base_url} already: use it, or stop it first."
                )
            return _running
        smollm2.convert()
        _running = _launch(port)
        return _running


def _pass_by_proxies() -> None:
    """Where the environment names a proxy, tell every HTTP client to reach this machine without."""
    if any(
        os.environ.get(f"{kind}_proxy".upper()) or os.environ.get(f"{kind}_proxy")
        for kind in ("http", "all")
    ):
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if HOST not in known.split(","):
            os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{known},{HOST}".strip(",")


def _launch(port: int | None) -> Server:
    """Start a process and wait for it; when a free port was snatched meanwhile, take another."""
    for attempt in range(3):
        chosen = _free_port(port)
        server = _spawn(chosen)
        try:
            _wait(server)
            return server
        except BaseException as error:  # Ctrl-C while waiting, too
            said = server.last_words(20).lower()
            snatched = isinstance(error, _Stranger) or "address already in use" in said
            server.stop()
            if not (snatched and port is None and attempt < 2 and isinstance(error, ServerError)):
                raise
    raise AssertionError("the last attempt returns or raises")


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        if os.name == "posix":  # as the server does: a port that was just given up is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            reason = "is taken" if port and port >= 1024 else f"cannot be used ({error.strerror})"
            raise ServerError(
                f"Port {port} {reason}: leave the port out to get a free one, or name another."
            ) from None
        return probe.getsockname()[1]


def _spawn(port: int) -> Server:
    token = secrets.token_hex(16)
    environment = {
        **{name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)},
        _TOKEN: token,
        "HF_HUB_CACHE": str(smollm2.hub_cache()),  # what /v1/models lists
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
        # Whoever asks waits, so the cores are free: threads that stay awake between two products
        # write 20 tokens/s instead of 16. (Beside a busy program it is 6 instead of 12.)
        "GOMP_SPINCOUNT": "10000",
        # Answers are computed in many threads; glibc would give each a heap that only grows.
        "MALLOC_ARENA_MAX": "2",
    }
    log = tempfile.TemporaryFile()  # noqa: SIM115  (the Server closes it)
    # Away from this process's signals: interrupting a cell or Ctrl-C must not end the server.
    apart: dict[str, Any] = (
        {"start_new_session": True}
        if os.name == "posix"
        else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    )
    process = subprocess.Popen(
        [*_COMMAND, str(port)],
        stdin=subprocess.PIPE,  # never written to: it closes when this process ends
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        **apart,
    )
    return Server(port, process, log, token)


def _wait(server: Server) -> None:
    """Wait until the server answers, then let it answer once, so that it is warm."""
    deadline = time.monotonic() + START_SECONDS
    root = server.base_url.removesuffix("/v1")
    while True:
        if not server.running:
            code = server.process.returncode
            raise ServerError(
                f"The server ended while starting, with code {code}: {server.last_words()}"
            )
        try:
            _, headers = _ask(f"{root}/health", timeout=1)
        except urllib.error.HTTPError:  # an answer, but not one of ours
            raise _Stranger(server._port) from None
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"The server did not answer within {START_SECONDS:.0f} s: close other "
                    f"programs and start it again. Its last words: {server.last_words()}"
                ) from None
            time.sleep(0.05)
        else:
            if headers.get(TOKEN_HEADER) != server._token:
                raise _Stranger(server._port)
            break
    greeting = {"role": "user", "content": "Hello"}
    body = {"model": server.model, "messages": [greeting], "max_completion_tokens": 1}
    try:
        _ask(f"{server.base_url}/chat/completions", body, timeout=START_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(
            f"The server started but cannot answer ({error}): {server.last_words()}"
        ) from None


def _ask(url: str, body: dict[str, Any] | None = None, *, timeout: float) -> Any:
    """Return the answer's body and its headers."""
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, {"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=timeout) as answer:
        return answer.read(), answer.headers


@atexit.register
def _stop_all() -> None:
    if _running is not None:
        _running.stop()


# --- the process that serves -------------------------------------------------------------------


def _end_with_parent() -> None:
    """End this process when the one that started it ends, whatever becomes of that one.

    The system then closes the pipe to this process's standard input, on Linux, macOS and Windows
    alike. A fork of the parent may hold the pipe open; so the parent's number is watched as well.
    """
    parent = os.getppid()

    def watch_pipe() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(0)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    for watch in (watch_pipe, watch_parent):
        threading.Thread(target=watch, daemon=True).start()


def _serve(port: int) -> None:
    """Be ``transformers serve course/smollm2 --host 127.0.0.1 --port …``, with a guard in front."""
    _end_with_parent()
    import uvicorn

    app = _application(port, os.environ.pop(_TOKEN, ""))
    uvicorn.run(app, host=HOST, port=port, log_level="error", timeout_graceful_shutdown=1)
    os._exit(0)  # a computation under way must not hold up the end


def _application(port: int, token: str) -> Guard:
    """Put together what the command puts together, but for the guard and the turns."""
    from jinja2 import TemplateError
    from starlette.exceptions import HTTPException
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.utils import GenerationState
    from transformers.utils import logging

    from aigc_utils.chat import guard, replies, turns

    logging.set_verbosity_error()
    models = ModelManager(force_model=smollm2.NAME)
    model, _ = models.load_model_and_processor(models.process_model_name(smollm2.NAME))
    line = turns.Line()
    manager = turns.TakingTurns(line, model)

    class State(GenerationState):
        def get_manager(self, model_id: str, use_cb: bool = False) -> turns.TakingTurns:
            return manager

    state = State()
    app = build_server(
        models,
        replies.Completions(models, state),
        CompletionHandler(models, state),
        replies.Responses(models, state),
        systemone_handler=None,  # type: ignore[arg-type]  # the guard leads nobody to these two
        transcription_handler=None,  # type: ignore[arg-type]
        generation_state=state,
    )
    app.add_exception_handler(HTTPException, guard.on_http_error)
    for kind in (KeyError, TypeError, ValueError, AttributeError, TemplateError):
        app.add_exception_handler(kind, guard.on_bad_request)
    app.add_exception_handler(Exception, guard.on_error)
    return guard.Guard(app, port, line, {TOKEN_HEADER: token})


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; the first line on standard output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m aigc_utils.chat.server", description=__doc__)
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _serve(options.port)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server is stopped, too
    try:
        with start(port=options.port) as server:
            print(server.base_url, flush=True)
            print(f"Serving {server.model} to this machine only; Ctrl-C stops.", flush=True)
            while server.running:
                time.sleep(0.2)
            print(f"The server ended by itself: {server.last_words()}", file=sys.stderr)
            return 1
    except (ServerError, smollm2.ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
