"""The stand-in provider speaks both forms as the installed SDK's types promise, and calls tools."""

import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

from aigc_utils.chat import faults

EVENT: TypeAdapter = TypeAdapter(ResponseStreamEvent)
WORDS = "one two three four"
TOOL = {
    "type": "function",
    "name": "multiply",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": True,
}
CHAT_TOOL = {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}
# model, and what the request has besides: the status, and why it is incomplete
ENDS = [
    ("echo", {}, "completed", None),
    ("echo", {"max_output_tokens": 2}, "incomplete", "max_output_tokens"),
    ("filter", {}, "incomplete", "content_filter"),
    ("length", {}, "incomplete", "max_output_tokens"),
    ("refusal", {}, "completed", None),
    ("tools", {"tools": [TOOL]}, "completed", None),
]


@pytest.fixture(scope="module")
def server() -> Iterator[faults.FaultyServer]:
    with faults.serve() as running:
        yield running


@pytest.fixture
def client(server: faults.FaultyServer) -> openai.OpenAI:
    server.script = faults.SCRIPT
    return openai.OpenAI(base_url=server.base_url, api_key="none", timeout=5, max_retries=0)


def sent(server: faults.FaultyServer, path: str, **body: object) -> str:
    return httpx2.post(f"{server.base_url}/{path}", json=body, timeout=5, trust_env=False).text


def data_of(raw: str) -> list[str]:
    lines = [line for line in raw.split("\n") if line]
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize(("model", "more", "status", "reason"), ENDS)
def test_responses_whole_and_streamed(
    server: faults.FaultyServer, model: str, more: dict, status: str, reason: str | None
) -> None:
    asked = {"model": model, "input": WORDS, "instructions": "Be brief.", **more}
    whole = Response.model_validate_json(sent(server, "responses", **asked), strict=True)
    assert whole.status == status and whole.usage.input_tokens == 6
    assert (whole.incomplete_details and whole.incomplete_details.reason) == reason
    events = [
        EVENT.validate_json(event)
        for event in data_of(sent(server, "responses", **asked, stream=1))
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == f"response.{status}"
    assert events[-1].response == whole
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) == whole.usage.output_tokens
    items = [event.item for event in events if event.type == "response.output_item.done"]
    assert items == whole.output
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    calls = [item.arguments for item in items if item.type == "function_call"]
    assert pieces == calls and bool(calls) == (model == "tools")


@pytest.mark.parametrize("model", [end[0] for end in ENDS])
def test_chat_completions_whole_and_streamed(server: faults.FaultyServer, model: str) -> None:
    asked = {"model": model, "messages": [{"role": "user", "content": WORDS}], "tools": [CHAT_TOOL]}
    whole = ChatCompletion.model_validate_json(
        sent(server, "chat/completions", **asked), strict=True
    )
    for counted in (True, False):
        options = {"stream": True, "stream_options": {"include_usage": counted}}
        *raw, end = data_of(sent(server, "chat/completions", **asked, **options))
        chunks = [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in raw]
        assert end == "[DONE]"
        assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage] * counted
        assert not counted or chunks[-1].choices == []
        assert chunks[-1 - counted].choices[0].finish_reason == whole.choices[0].finish_reason
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "".join(d.content or "" for d in deltas) == (whole.choices[0].message.content or "")
        calls = [call.function for d in deltas for call in d.tool_calls or []]
        message = whole.choices[0].message
        assert [call.name for call in calls] == [c.function.name for c in message.tool_calls or []]


def test_calls_go_out_and_their_results_come_back(
    server: faults.FaultyServer, client: openai.OpenAI
) -> None:
    pair = [("f", "{}"), ("g", '{"a": 1}')]
    server.script = [pair, [("h", "{}")], "All told: {results}; {result}."]
    items: list = [{"role": "user", "content": WORDS}]
    called = []
    for _ in range(5):
        found = client.responses.create(model="tools", input=items, tools=[TOOL])
        items += found.output
        calls = [item for item in found.output if item.type == "function_call"]
        called.append([(call.name, call.arguments) for call in calls])
        mark = f"r{len(called)}"
        items += [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": f"{mark}{number}",
            }
            for number, call in enumerate(calls)
        ]
        if not calls:
            break
    assert called == [pair, [("h", "{}")], []]
    assert found.output_text == "All told: r10, r11, r20; r20."


def test_a_script_that_ends_with_a_call_never_ends(
    server: faults.FaultyServer, client: openai.OpenAI
) -> None:
    server.script = [[("f", "{}")]]
    items: list = [{"role": "user", "content": WORDS}]
    for number in range(4):
        (call,) = client.responses.create(model="tools", input=items, tools=[TOOL]).output
        assert call.call_id == f"call_{number}"
        items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "1"}]


def test_the_same_loop_in_chat_completions(client: openai.OpenAI) -> None:
    messages: list = [{"role": "user", "content": WORDS}]
    asked = {"model": "tools", "messages": messages, "tools": [CHAT_TOOL]}
    choice = client.chat.completions.create(**asked).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert json.loads(call.function.arguments) == {"a": 127, "b": 49}
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "6223"}]
    found = client.chat.completions.create(**asked).choices[0]
    assert (found.message.content, found.finish_reason) == ("The result is 6223.", "stop")


def test_without_functions_to_call_it_answers(client: openai.OpenAI) -> None:
    assert client.responses.create(model="tools", input=WORDS).output_text == WORDS


def test_a_call_without_a_result_and_a_result_without_a_call_are_refused(
    client: openai.OpenAI,
) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "1"}
    for items, words in (
        ([call], "No tool output found for function call c1"),
        ([output], "No tool call found for function call output c1"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.responses.create(model="tools", input=items, tools=[TOOL])
    assert client.responses.create(model="tools", input=[call, output], tools=[TOOL]).output_text


def test_it_keeps_no_answers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="response with id 'resp_1' not found"):
        client.responses.create(model="echo", input=WORDS, previous_response_id="resp_1")


class Book(BaseModel):
    title: str
    year: int


def test_what_parse_makes_of_an_answer(client: openai.OpenAI) -> None:
    raw = '{"title": "Frankenstein", "year": 1790}'

    def parse(model: str, **more: object) -> Response:
        return client.responses.parse(model=model, input=raw, text_format=Book, **more)

    assert parse("echo").output_parsed == Book(title="Frankenstein", year=1790)
    assert parse("refusal").output_parsed is None
    with pytest.raises(ValidationError):
        parse("echo", max_output_tokens=2)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("401", openai.AuthenticationError),
        ("404", openai.NotFoundError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("cut", openai.APIConnectionError),
        ("json", json.JSONDecodeError),
    ],
)
def test_responses_fail_as_chat_completions_do(
    client: openai.OpenAI, fault: str, error: type[Exception], streamed: bool
) -> None:
    with pytest.raises(error):
        answer = client.responses.create(model=fault, input=WORDS, stream=streamed)
        list(answer) if streamed else None


@pytest.mark.parametrize("fault", [name for name in faults.FAULTS if name not in ("slow", "stall")])
@pytest.mark.parametrize("streamed", [True, False])
def test_every_fault_is_played_as_a_response(
    client: openai.OpenAI, server: faults.FaultyServer, fault: str, streamed: bool
) -> None:
    before = server.served
    try:
        answer = client.responses.create(model=fault, input=WORDS, stream=streamed)
        kinds = [event.type for event in answer] if streamed else []
        ended = {"response.completed", "response.incomplete"} & set(kinds)
        assert fault != "end" or not ended, "it ends in the middle"
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
        assert not isinstance(error, openai.APITimeoutError)
    assert server.served == before + 1
