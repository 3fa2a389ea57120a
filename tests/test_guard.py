"""The guard lets in what the local server can answer, and notices who leaves."""

import asyncio
import json
import tracemalloc
from collections.abc import Callable

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from aigc_utils.chat import guard, turns
from aigc_utils.chat.guard import Guard

CHAT = {"model": "course/smollm2", "messages": [{"role": "user", "content": "Hi"}]}
Answer = tuple[int, dict, dict[str, str]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application: answer with the body as it was received."""
    body = await Request(scope, receive).body() if scope["method"] == "POST" else b"{}"
    await JSONResponse({"received": json.loads(body)})(scope, receive, send)


def make(app: Callable = echo, line: turns.Line | None = None) -> Guard:
    return Guard(app, 8000, line or turns.Line(), {"x-aigc-server": "me"})


class Connection:
    """A client: what it sends, what it gets, and whether it has gone."""

    def __init__(self, parts: list[bytes], headers: dict[str, str], method: str, path: str) -> None:
        told = {"host": "127.0.0.1:8000", "content-type": "application/json", **headers}
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
        }
        self.parts, self.sent = parts, list[Message]()
        self.gone, self.answered = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        if self.parts:
            return {
                "type": "http.request",
                "body": self.parts.pop(0),
                "more_body": bool(self.parts),
            }
        over = [asyncio.ensure_future(event.wait()) for event in (self.gone, self.answered)]
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.answered.set()

    def answer(self) -> Answer:
        told = {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
        return self.sent[0]["status"], json.loads(b"".join(m["body"] for m in self.sent[1:])), told


def connection(
    body: object = None,
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    **headers: str,
) -> Connection:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Connection([raw], headers, method, path)


def ask(body: object = None, path: str = "/v1/chat/completions", **options: str) -> Answer:
    client = connection(body, path, **options)
    asyncio.run(make()(client.scope, client.receive, client.send))
    return client.answer()


def test_a_request_passes_as_it_is() -> None:
    body = {**CHAT, "temperature": 0.5, "n": 2, "tools": [{"type": "function"}], "user": "me"}
    assert ask(body)[:2] == (200, {"received": body})


def test_what_the_server_would_trip_over_is_mended() -> None:
    given = {**CHAT, "temperature": 1e-45, "logit_bias": {"7": 1}, "stop": None}
    status, answer, _ = ask(given)
    assert status == 200
    assert answer["received"] == {**CHAT, "temperature": 0, "logit_bias": {"7": 1.0}}


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("host", "localhost:8000", 200),
        ("host", "LOCALHOST:8000", 200),
        ("host", "evil.example", 403),
        ("host", "127.0.0.1:8001", 403),
        ("host", "127.0.0.1", 403),
        ("host", "127.0.0.1:8000.evil.example", 403),
        ("host", "", 403),
        ("origin", "http://127.0.0.1:8000", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "https://127.0.0.1:8000", 403),
        ("origin", "null", 403),
        ("content-type", "application/json; charset=utf-8", 200),
        ("content-type", "text/plain", 400),
    ],
)
def test_only_its_own_names_and_no_web_pages(name: str, value: str, status: int) -> None:
    assert ask(CHAT, **{name: value})[0] == status


def test_two_names_are_refused() -> None:
    client = connection(CHAT)
    client.scope["headers"].append((b"host", b"127.0.0.1:8000"))
    asyncio.run(make()(client.scope, client.receive, client.send))
    assert client.answer()[0] == 403


def test_of_several_origins_none_may_be_a_stranger() -> None:
    client = connection(CHAT, origin="http://127.0.0.1:8000")
    client.scope["headers"].append((b"origin", b"http://evil.example"))
    asyncio.run(make()(client.scope, client.receive, client.send))
    assert client.answer()[0] == 403


def test_at_port_80_the_name_needs_no_number() -> None:
    for host in ("127.0.0.1", "localhost", "localhost:80"):
        client = connection(CHAT, host=host, origin=f"http://{host}")
        asyncio.run(Guard(echo, 80, turns.Line(), {})(client.scope, client.receive, client.send))
        assert client.answer()[0] == 200, host


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/health", 200),
        ("POST", "/v1/chat/completions", 200),
        ("POST", "/load_model", 404),
        ("POST", "/reset", 404),
        ("POST", "/v1/systemone", 404),
        ("POST", "/v1/audio/transcriptions", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/chat/completions", 404),
        ("OPTIONS", "/v1/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/../reset", 404),
    ],
)
def test_five_routes(method: str, path: str, status: int) -> None:
    assert ask(CHAT, method=method, path=path)[0] == status


def test_health_says_who_answers() -> None:
    status, answer, headers = ask(method="GET", path="/health")
    assert (status, answer, headers["x-aigc-server"]) == (200, {"status": "ok"}, "me")


WRONG: list[tuple[str, object, str]] = [
    ("messages", [], "messages: List should have at least 1 item"),
    ("messages", None, "messages: Input should be a valid array"),
    ("messages", [7], "messages.0: Input should be an object"),
    ("messages", [{"content": "x"}], "messages.0.role: Field required"),
    ("messages", [{"role": "<|im_end|>", "content": "x"}], "messages.0.role: Input should be"),
    ("messages", [{"role": "user", "content": 7}], "messages.0.content: Input should be a valid"),
    (
        "messages",
        [{"role": "user", "content": [{"type": "image_url"}]}],
        "messages.0.content.0.type: Input should be 'text'",
    ),
    ("temperature", -1, "temperature: Input should be greater than or equal to 0"),
    ("temperature", 2.1, "temperature: Input should be less than or equal to 2"),
    ("temperature", True, "temperature: Input should be a valid number"),
    ("temperature", float("nan"), "temperature: Input should be a finite number"),
    ("temperature", "1", "temperature: Input should be a valid number"),
    ("top_p", 1.5, "top_p: Input should be less than or equal to 1"),
    ("seed", 2**63, "seed: Input should be less than"),
    ("stream", "yes", "stream: Input should be a valid boolean"),
    ("stop", [], "stop: List should have at least 1 item"),
    ("stop", ["a"] * 5, "stop: List should have at most 4 items"),
    ("stop", "", "stop: String should have at least 1 character"),
    ("stop", "x" * 65, "stop: String should have at most 64 characters"),
    ("max_tokens", 0, "max_tokens: Input should be greater than or equal to 1"),
    ("max_completion_tokens", 1.5, "max_completion_tokens: Input should be a valid integer"),
    ("frequency_penalty", -1, "frequency_penalty: Input should be greater than -1"),
    ("logit_bias", [], "logit_bias: Input should be an object"),
    ("logit_bias", {"x": 1}, "logit_bias.x: Input should be a valid integer"),
    ("logit_bias", {"1": 200}, "logit_bias.1: Input should be less than or equal to 100"),
    ("tools", [7], "tools.0: Input should be an object"),
    ("generation_config", '{"num_beams": 99}', "generation_config: Input should be null"),
    ("chat_template_kwargs", {"chat_template": "x"}, "chat_template_kwargs: Input should be null"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), WRONG)
def test_a_wrong_field_is_named_and_not_tried_again(
    field: str, value: object, sentence: str
) -> None:
    status, answer, _ = ask({**CHAT, field: value})
    assert status == 400, "the SDK tries 500 again"
    assert answer["error"]["message"].startswith(sentence)
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": ["a"]}),
        ("/v1/completions", {"prompt": "a", "suffix": 7}),
        ("/v1/responses", {}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses", {"input": 7}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 0}),
        ("/v1/responses", {"input": "x", "parallel_tool_calls": "x"}),
    ],
)
def test_the_other_two_routes_are_checked_too(path: str, body: dict) -> None:
    assert ask(body, path=path)[0] == 400


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 9_000),
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "user": ' + b"9" * 5_000 + b"}",
    ],
)
def test_malformed_json_is_a_bad_request(raw: bytes) -> None:
    status, answer, _ = ask(raw)
    assert status == 400 and answer["error"]["message"]


@pytest.mark.parametrize("model", ["gpt-4", "../other", "course/smollm2:x.gguf", 7, []])
def test_another_model_is_not_there(model: object) -> None:
    status, answer, _ = ask({**CHAT, "model": model})
    assert status == 404 and answer["error"]["code"] == "model_not_found"
    assert answer["error"]["message"].endswith(
        "does not exist: this server offers 'course/smollm2'."
    )


def test_a_body_that_is_too_long_is_read_to_its_end() -> None:
    client = connection()
    client.parts = [b" " * 50_000] * 40
    asyncio.run(make()(client.scope, client.receive, client.send))
    status, answer, _ = client.answer()
    assert not client.parts
    assert status == 413 and "2,000,000 bytes: 100,000 is the most" in answer["error"]["message"]


def test_a_body_of_just_the_most_bytes_is_read() -> None:
    raw = json.dumps(CHAT).encode()
    assert ask(raw + b" " * (guard.MOST_BYTES - len(raw)))[0] == 200
    assert ask(raw + b" " * (guard.MOST_BYTES - len(raw) + 1))[0] == 413


def test_a_body_that_is_too_long_is_not_kept() -> None:
    client, left = connection(), 400

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes(50_000), "more_body": left > 0}

    tracemalloc.start()
    try:
        asyncio.run(make()(client.scope, receive, client.send))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert client.answer()[0] == 413 and most < 2e6, "20 MB were sent"


def test_an_error_of_the_application_is_not_swallowed() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    client = connection(CHAT)
    where = make(broken)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(where(client.scope, client.receive, client.send))
    assert not where._line.inside


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    client = connection(CHAT)

    async def silence() -> Message:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    asyncio.run(make()(client.scope, silence, client.send))
    assert client.answer()[0] == 408


def test_a_client_that_leaves_before_its_body_gets_nothing() -> None:
    client = connection()
    client.parts = []
    client.gone.set()
    asyncio.run(make()(client.scope, client.receive, client.send))
    assert client.sent == []


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_takes_its_computation_along(streams: bool) -> None:
    line, seen = turns.Line(), []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(turns.current.get())
        try:
            if streams:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run() -> None:
        client = connection(CHAT)
        answering = asyncio.create_task(make(slow, line)(client.scope, client.receive, client.send))
        await asyncio.sleep(0.02)
        assert line.inside == {seen[0]} and not seen[0].gone
        client.gone.set()
        done, _ = await asyncio.wait({answering}, timeout=1)
        assert done, "it waits for an answer that nobody waits for"

    asyncio.run(run())
    assert seen[0].gone and seen[1] == "cancelled" and not line.inside


def test_too_many_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WAITING", 2)
    line = turns.Line()
    line.inside = {turns.Job(), turns.Job()}
    client = connection(CHAT)
    asyncio.run(make(echo, line)(client.scope, client.receive, client.send))
    status, answer, headers = client.answer()
    assert (status, answer["error"]["code"]) == (429, "server_busy")
    assert answer["error"]["type"] == "server_error", "the request is not to blame"
    assert headers["retry-after"] == "2"
    assert len(line.inside) == 2
    line.inside.pop()
    client = connection(CHAT)
    asyncio.run(make(echo, line)(client.scope, client.receive, client.send))
    assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda error: guard.on_http_error(REQUEST, error), 400),
        (lambda error: guard.on_bad_request(REQUEST, error), 400),
        (lambda error: guard.on_error(REQUEST, error), 500),
    ],
)
def test_errors_have_the_form_that_the_sdk_reads(answer: Callable, status: int) -> None:
    given = answer(HTTPException(422, "Unexpected fields"))
    error = json.loads(given.body)["error"]
    assert given.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert ("Unexpected" in error["message"]) == (status == 400)


REQUEST = Request({"type": "http"})
