"""What the local server answers is what the installed SDK's types promise."""

import json

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from serving import local  # noqa: F401  (a fixture)

from aigc_utils import smollm2
from aigc_utils.chat import server

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"
EVENT: TypeAdapter = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def client(local: server.Server) -> openai.OpenAI:  # noqa: F811
    return openai.OpenAI(base_url=local.base_url, api_key="none", timeout=60, max_retries=0)


def body(cap: int, **more: object) -> dict:
    return {"model": smollm2.NAME, "temperature": 0, "max_output_tokens": cap, **more}


def lines(local: server.Server, path: str, body: dict) -> list[str]:  # noqa: F811
    raw = httpx2.post(f"{local.base_url}/{path}", json=body, timeout=60, trust_env=False).text
    return [event.removeprefix("data: ") for event in raw.split("\n\n") if event]


@pytest.mark.parametrize(("cap", "status"), [(20, "completed"), (3, "incomplete")])
def test_a_response_is_one(local: server.Server, cap: int, status: str) -> None:  # noqa: F811
    asked = body(cap, input=QUESTION, instructions="Be brief.", store=False)
    raw = "".join(lines(local, "responses", asked))
    found = Response.model_validate_json(raw, strict=True)
    assert (found.status, found.output[0].status) == (status, status)
    assert (found.incomplete_details is None) == (status == "completed")
    assert found.instructions == "Be brief." and found.max_output_tokens == cap
    assert found.usage.output_tokens == min(cap, 8)
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens


@pytest.mark.parametrize(("cap", "status"), [(20, "completed"), (3, "incomplete")])
def test_a_stream_has_the_events_of_one(
    local: server.Server,  # noqa: F811
    cap: int,
    status: str,
) -> None:
    raw = lines(local, "responses", body(cap, input=QUESTION, stream=True))
    events = [EVENT.validate_python(json.loads(event)) for event in raw]
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == f"response.{status}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.status == "in_progress" and events[-1].response.status == status
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text
    whole = Response.model_validate_json(
        "".join(lines(local, "responses", body(cap, input=QUESTION)))
    )
    assert events[-1].response.usage == whole.usage
    assert events[-1].response.output_text == whole.output_text


def test_a_stream_of_chunks_tells_its_usage_when_asked(local: server.Server) -> None:  # noqa: F811
    asked = {
        "model": smollm2.NAME,
        "temperature": 0,
        "max_completion_tokens": 3,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    whole = ChatCompletion.model_validate_json("".join(lines(local, "chat/completions", asked)))
    for counted in (True, False):
        options = {"stream": True, "stream_options": {"include_usage": counted}}
        *raw, end = lines(local, "chat/completions", asked | options)
        chunks = [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in raw]
        assert end == "[DONE]"
        assert chunks[-1 - counted].choices[0].finish_reason == "length"
        assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage] * counted
        assert not counted or chunks[-1].choices == []


def test_what_was_read_before_is_counted(client: openai.OpenAI) -> None:
    turns = [
        {"role": "user", "content": "Which books about the river do you have?"},
        {"role": "assistant", "content": "There are nine, and the best stands near the door."},
    ]
    counts = []
    for number in (7, 8):
        asked = [{"role": "system", "content": "You guide the counted."}, *turns * number, turns[0]]
        usage = client.responses.create(**body(1, input=asked)).usage
        counts.append((usage.input_tokens, usage.input_tokens_details.cached_tokens))
    (first, none), (_, cached) = counts
    assert none == 0 and cached == first // 64 * 64
    other = client.chat.completions.create(
        model=smollm2.NAME, messages=asked, max_completion_tokens=1, temperature=0
    )
    assert other.usage.prompt_tokens_details.cached_tokens >= cached


def test_a_response_is_fed_back_as_input(client: openai.OpenAI) -> None:
    first = client.responses.create(**body(20, input=QUESTION))
    asked = [{"role": "user", "content": QUESTION}, *first.output]
    asked.append({"role": "user", "content": "And of Italy?"})
    assert "Rome" in client.responses.create(**body(20, input=asked)).output_text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: this server keeps no answers"),
        ({"conversation": {"id": "c"}}, "conversation: this server keeps no answers"),
        ({"store": True}, "store: this server keeps no answers"),
        ({"background": True}, "background: this server keeps no answers"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type: Input should be 'text'"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools: this server's"),
    ],
)
def test_what_it_cannot_do_is_refused(client: openai.OpenAI, options: dict, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.responses.create(**body(1, input="Hello."), **options)
