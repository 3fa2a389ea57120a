"""The local server answers the real SDK, is shared, and never outlives what began it."""

import contextlib
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import openai
import psutil
import pytest
import soak
from serving import local  # noqa: F401  (a fixture)

from aigc_utils import smollm2
from aigc_utils.chat import server

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's here")


@pytest.fixture
def client(local: server.Server) -> openai.OpenAI:  # noqa: F811
    return openai.OpenAI(base_url=local.base_url, api_key="none", timeout=60, max_retries=0)


def ask(client: openai.OpenAI, text: str, **options: object) -> str:
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": text}],
        **{"model": smollm2.NAME, "temperature": 0, "max_completion_tokens": 30, **options},
    )
    return answer.choices[0].message.content


def gone(process: psutil.Process, seconds: float = 5) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        deadline = time.monotonic() + seconds
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


@pytest.mark.slow
def test_it_knows_the_capital_of_france(client: openai.OpenAI) -> None:
    assert "Paris" in ask(client, "What is the capital of France?")


@pytest.mark.slow
def test_streaming_temperature_and_lengths_work(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=smollm2.NAME,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        stream=True,
    )
    pieces = [c.choices[0].delta.content for c in stream if c.choices]
    assert "Paris" in "".join(piece or "" for piece in pieces) and len(pieces) > 4
    short = {"max_completion_tokens": 6}
    same = {ask(client, "Invent a name.", **short) for _ in range(2)}
    other = {ask(client, "Invent a name.", temperature=1.5, seed=i, **short) for i in range(3)}
    assert len(same) == 1 and len(other) > 1, "the temperature has an effect"


@pytest.mark.slow
def test_the_model_has_a_plain_name(local: server.Server, client: openai.OpenAI) -> None:  # noqa: F811
    assert [model.id for model in client.models.list()] == [smollm2.NAME] == [local.model]
    assert str(smollm2.cache_root()) not in client.models.with_raw_response.list().text
    assert local.base_url.startswith("http://127.0.0.1:")
    assert "/" not in repr(local).replace(smollm2.NAME, "")
    with pytest.raises(openai.NotFoundError, match="this server offers 'course/smollm2'"):
        ask(client, "Hello.", model="gpt-4")


@pytest.mark.slow
def test_a_second_call_gives_the_same_server(local: server.Server) -> None:  # noqa: F811
    found = []
    threads = [threading.Thread(target=lambda: found.append(server.start())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is local for one in found) and len(found) == 4
    assert server.start(port=local._port) is local
    with pytest.raises(server.ServerError, match=f"runs at {local.base_url} already"):
        server.start(port=local._port + 1)


@pytest.mark.slow
def test_only_this_machine_reaches_it(local: server.Server) -> None:  # noqa: F811
    connections = psutil.Process(local.process.pid).net_connections("inet")
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_whatever_a_client_does_the_next_one_is_answered(
    local: server.Server,  # noqa: F811
    client: openai.OpenAI,
) -> None:
    """A thousand: `python tests/soak.py 1000`; another number here: AIGC_SOAK."""
    assert soak.quiet(local) < 5
    hasty = client.with_options(timeout=1, max_retries=2)
    for most in (None, 5_000):
        with pytest.raises(openai.APITimeoutError):
            ask(hasty, "Write a very long story. " * 40, max_completion_tokens=most)
        assert soak.quiet(local) < 5
    report = soak.soak(local, int(os.environ.get("AIGC_SOAK", "60")))
    statuses = {saw for _, saw in report.statuses}
    assert statuses <= {"200", "400", "403", "404", "413", "left"}, report.statuses
    assert max(report.small) < 5, report.small
    assert report.memory[-1] < 1_200, report.memory


@pytest.mark.slow
def test_a_long_answer_does_not_hold_up_a_short_one(client: openai.OpenAI) -> None:
    long = client.chat.completions.create(
        model=smollm2.NAME,
        messages=[{"role": "user", "content": "Write a very long story."}],
        stream=True,
    )
    with long:
        pieces = iter(long)
        for _ in range(3):
            next(pieces)
        start = time.perf_counter()
        assert ask(client, "What is the capital of France?", max_completion_tokens=3)
        assert time.perf_counter() - start < 5
        assert next(pieces).choices, "the long one goes on"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"unknown": 1}, 400, "Unexpected fields in the request: {'unknown'}"),
        ({"logit_bias": {"60000": 1}}, 400, "logit_bias: the tokens end at 49151"),
        (
            {"messages": [{"role": "user", "content": "a b " * 9_000}]},
            400,
            "context length is 8192",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            400,
            "cannot be read (KeyError)",
        ),
        ({"logit_bias": {"100": 1}}, 200, ""),
    ],
)
def test_requests_that_make_no_sense_are_named(
    client: openai.OpenAI, options: dict, status: int, sentence: str
) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **options}
    found = client.with_options(max_retries=0)._client.post("chat/completions", json=body)
    assert found.status_code == status
    assert sentence in found.json().get("error", {"message": ""})["message"]


@pytest.mark.slow
def test_a_proxy_is_not_asked_for_the_way_to_this_machine(
    local: server.Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "")
    assert server.start() is local
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,127.0.0.1"
    client = openai.OpenAI(base_url=local.base_url, api_key="none", max_retries=0)
    assert client.models.list().data


@contextlib.contextmanager
def module(*arguments: str) -> Iterator[subprocess.Popen]:
    """Run ``python -m aigc_utils.chat.server`` and make sure that nothing of it stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aigc_utils.chat.server", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children: list[psutil.Process] = []
    try:
        yield process
        children = psutil.Process(process.pid).children() if process.poll() is None else []
    finally:
        process.kill()
        process.communicate()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def child_of(process: subprocess.Popen) -> psutil.Process:
    """Return the process that serves, as soon as there is one."""
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(process.pid).children()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return children[0]


@pytest.mark.slow
def test_the_terminal_form_serves_and_a_killed_parent_leaves_no_orphan() -> None:
    port = server._free_port(None)
    with module("--port", str(port)) as process:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/v1\n"
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        assert "Paris" in ask(client, "What is the capital of France?")
        child = child_of(process)
        process.kill()
        assert gone(child), "the server outlived the killed program that started it"


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_starting_nothing_stays(end: signal.Signals) -> None:
    with module() as process:
        child = child_of(process)
        time.sleep(0.3)
        process.send_signal(end)
        out, err = process.communicate(timeout=20)
        assert gone(child)
        assert process.returncode == (-9 if end == signal.SIGKILL else 0)
        assert (out, err) == ("", "")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No server runs, as far as `start` knows, and the model needs no look."""
    monkeypatch.setattr(server, "_running", None)
    monkeypatch.setattr(smollm2, "convert", lambda: Path())
    return monkeypatch


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def test_a_server_that_dies_says_its_last_words(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(server, "_COMMAND", python("print('first'); raise SystemExit('no such part')"))
    with pytest.raises(server.ServerError, match=r"while starting, with code 1: .*no such part"):
        server.start()
    alone.setattr(server, "_COMMAND", python("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(server.ServerError, match="with code -9"):
        server.start()


def test_a_server_that_never_answers_is_stopped(alone: pytest.MonkeyPatch) -> None:
    started = []
    real = server._spawn
    alone.setattr(server, "_spawn", lambda port: started.append(real(port)) or started[-1])
    alone.setattr(server, "START_SECONDS", 0.5)
    alone.setattr(server, "_COMMAND", python("import time; time.sleep(60)"))
    with pytest.raises(server.ServerError, match="did not answer within"):
        server.start()
    assert not started[0].running


# A stand-in that says who it is, as ours does; what it answers to a chat is put in.
STAND_IN = """
import http.server, os, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("x-aigc-server", os.environ["AIGC_SERVER_TOKEN"])
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response({status})
        self.end_headers()
        {then}
    def log_message(self, *_):
        pass
print("one\\ntwo\\n\\nthree\\nfour", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def stand_in(status: int = 200, then: str = "pass") -> tuple[str, ...]:
    return python(STAND_IN.format(status=status, then=then))


def test_a_server_that_answers_is_shared_and_ends_alone(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(server, "_COMMAND", stand_in())
    with server.start() as first:
        assert server.start() is first is server.start(port=first._port)
        with pytest.raises(server.ServerError, match=f"runs at {first.base_url} already"):
            server.start(port=first._port + 1)
        assert os.getsid(first.process.pid) != os.getsid(0), "Ctrl-C here is not for it"
        assert first.last_words() == "two | three | four"
    assert first.last_words() == "", "its log has gone with it"


def test_a_server_that_cannot_answer_is_not_handed_out(alone: pytest.MonkeyPatch) -> None:
    started = []
    real = server._spawn
    alone.setattr(server, "_spawn", lambda port: started.append(real(port)) or started[-1])
    alone.setattr(server, "_COMMAND", stand_in(status=500))
    with pytest.raises(server.ServerError, match=r"started but cannot answer \(HTTP Error 500"):
        server.start()
    assert [one.running for one in started] == [False]


def test_a_server_that_will_not_end_is_killed(alone: pytest.MonkeyPatch) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    alone.setattr(server, "_COMMAND", python(deaf))
    alone.setattr(server, "_STOP_SECONDS", 0.2)
    alone.setattr(server, "_wait", lambda server: None)
    one = server.start()
    while one.running and one.last_words() != "up":
        time.sleep(0.02)
    begin = time.monotonic()
    one.stop()
    assert one.process.returncode == -signal.SIGKILL and time.monotonic() - begin < 20


def test_the_program_ends_with_its_server(
    alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone.setattr(signal, "signal", lambda *_: None)
    alone.setattr(server, "_COMMAND", stand_in(then="threading.Timer(0.5, os._exit, [3]).start()"))
    assert server.main([]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{server._running.base_url}\nServing course/smollm2 to this machine")
    assert err == "The server ended by itself: two | three | four\n"


def test_the_program_is_told_to_end_and_stops_its_server(alone: pytest.MonkeyPatch) -> None:
    handlers = {}
    alone.setattr(signal, "signal", handlers.__setitem__)
    alone.setattr(server, "_COMMAND", stand_in())
    alone.setattr(server.time, "sleep", lambda seconds: seconds < 0.1 or handlers[15](15, None))
    with pytest.raises(SystemExit) as ended:
        server.main([])
    assert ended.value.code == 0 and not server._running.running


def test_the_process_that_serves_ends_when_nobody_holds_its_pipe() -> None:
    program = """
import time, uvicorn
from aigc_utils.chat import server
server._application = lambda *_: None
uvicorn.run = lambda *_, **__: print("up", flush=True) or time.sleep(60)
server._serve(8000)
"""
    process = subprocess.Popen(
        python(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "up\n"
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize(
    ("set_before", "expected"),
    [
        ({"HTTP_PROXY": "p"}, "127.0.0.1"),
        ({"http_proxy": "p", "NO_PROXY": "example.org"}, "example.org,127.0.0.1"),
        ({"ALL_PROXY": "p", "no_proxy": "a,b"}, "a,b,127.0.0.1"),
        ({"all_proxy": "p", "no_proxy": "127.0.0.1,b"}, "127.0.0.1,b"),
        ({"NO_PROXY": "example.org"}, "example.org"),
        ({}, None),
    ],
)
def test_other_clients_pass_by_a_proxy_too(
    monkeypatch: pytest.MonkeyPatch, set_before: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(set_before))
    server._pass_by_proxies()
    assert (os.environ.get("no_proxy") or os.environ.get("NO_PROXY")) == expected


def test_the_server_is_reached_without_a_proxy() -> None:
    with http.server.HTTPServer((server.HOST, 0), Stranger) as other:
        threading.Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        ask = (
            "from aigc_utils.chat import server; "
            f"print(server._ask('http://127.0.0.1:{other.server_port}/health', timeout=20)[0])"
        )
        nowhere = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
        done = subprocess.run(
            python(ask), capture_output=True, text=True, env={**os.environ, **nowhere}
        )
        other.shutdown()
    assert done.stdout == """b'{"status":"ok"}'\n""", done.stderr


def test_a_port_that_is_taken_is_refused(alone: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(server.ServerError, match=f"Port {port} is taken: leave the port out"):
            server.start(port=port)
    for port in (0, -1, 65536):
        with pytest.raises(server.ServerError, match="is not a port"):
            server.start(port=port)


def test_a_port_snatched_meanwhile_is_tried_again(alone: pytest.MonkeyPatch) -> None:
    ports = []
    alone.setattr(
        server, "_COMMAND", python("raise SystemExit('[Errno 98] address already in use')")
    )
    real = server._free_port
    alone.setattr(server, "_free_port", lambda port: ports.append(real(port)) or ports[-1])
    with pytest.raises(server.ServerError, match="address already in use"):
        server.start()
    assert len(ports) == 3
    with pytest.raises(server.ServerError, match="address already in use"):
        server.start(port=real(None))
    assert len(ports) == 4, "a port that was asked for is not replaced by another"


def test_a_stopped_server_is_not_reused(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(server, "_COMMAND", python("import sys; sys.stdin.read()"))
    alone.setattr(server, "_wait", lambda server: None)
    with server.start() as first:
        assert first.running
    assert not first.running and "stopped" in repr(first)
    first.stop()
    second = server.start()
    assert second is not first and second.running
    second.stop()


class Stranger(http.server.BaseHTTPRequestHandler):
    """Says that all is well, as our server does."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if "health" in self.path else 404)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.mark.parametrize("healthy", [True, False])
def test_a_stranger_on_the_port_is_not_taken_for_ours(
    alone: pytest.MonkeyPatch, healthy: bool
) -> None:
    alone.setattr(server, "_COMMAND", python("import time; time.sleep(60)"))
    alone.setattr(Stranger, "asked", [])
    real, ports = server._free_port, []
    with http.server.HTTPServer((server.HOST, 0), Stranger) as other:
        threading.Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        if not healthy:
            alone.setattr(Stranger, "do_GET", lambda self: self.send_error(404))
        taken = other.server_port
        # It came between our look at the port and our server's start.
        alone.setattr(server, "_free_port", lambda port: ports.append(port) or taken)
        with pytest.raises(server.ServerError, match=f"Another program answers on port {taken}"):
            server.start(port=taken)
        assert len(ports) == 1
        with pytest.raises(server.ServerError, match=f"Another program answers on port {taken}"):
            server.start()
        assert len(ports) == 4, "another port is tried where none was asked for"
        assert set(Stranger.asked) <= {"/health"}, "no text was sent to it"
        other.shutdown()
    assert real(None)


def test_the_server_gets_no_secrets(alone: pytest.MonkeyPatch) -> None:
    secret = (
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "OPENAI_CUSTOM_HEADERS",
        "PGPASSWORD",
        "HOMEPAGE_TOKEN",  # begins like HOME
        "MY_PAT",
        "DB_URL",
    )
    for name in secret:
        alone.setenv(name, "secret")
    alone.setenv("OMP_NUM_THREADS", "2")
    alone.setenv("https_proxy", "http://me:secret@proxy")
    say = "import os, sys; sys.exit(f'{sorted(os.environ)} {os.environ[\"HF_HUB_OFFLINE\"]!r}')"
    alone.setattr(server, "_COMMAND", python(say))
    with pytest.raises(server.ServerError) as ended:
        server.start()
    names = set(re.findall(r"'(\w+)'", str(ended.value)))
    assert not names & {*secret, "https_proxy"}
    assert {"PATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "AIGC_SERVER_TOKEN"} <= names
    assert str(ended.value).endswith(" '1'"), "offline"


def test_a_missing_model_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "_running", None)

    def missing() -> Path:
        raise smollm2.ModelError("The chat model is missing.")

    monkeypatch.setattr(smollm2, "convert", missing)
    with pytest.raises(smollm2.ModelError):
        server.start()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert server.main([]) == 1
    assert capsys.readouterr() == ("", "The chat model is missing.\n")
