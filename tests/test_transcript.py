"""A base model as a chat partner: what it reads, where its line ends, and what is told about it."""

from collections.abc import Callable, Iterator

import pytest

from aigc_utils import data, decoding, models
from aigc_utils.chat import Chat
from aigc_utils.chat.transcript import Transcript


@pytest.fixture(scope="module")
def small() -> models.ChatModel:
    return models.load(data.folder("models/novel_gpt2"), "float32")


@pytest.fixture
def base(small: models.ChatModel, monkeypatch: pytest.MonkeyPatch) -> Transcript:
    monkeypatch.setattr(models, "load", lambda *_: small)
    return Transcript()


@pytest.fixture
def writes(base: Transcript, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict]]:
    """Make the model write a text, token by token; what it was asked for is noted."""

    def write(text: str) -> list[dict]:
        asked: list[dict] = []

        def stream(model: object, ids: list[int], most: int, **settings: object) -> Iterator[int]:
            asked.append({"ids": ids, "most": most, **settings})
            yield from base.tokenizer.encode(text)[:most]

        monkeypatch.setattr(decoding, "stream", stream)
        return asked

    return write


def answer(base: Transcript, most: int = 50, **settings: float) -> tuple[list[str], str, tuple]:
    """The pieces of an answer to "Hello", why it ended, and the tokens read and written."""
    hello = [{"role": "user", "content": "Hello"}]
    with base.create(messages=hello, max_completion_tokens=most, **settings) as events:
        *pieces, last = events
    assert last.choices[0].delta.content == ""
    assert {event.choices[0].finish_reason for event in pieces} <= {None}
    usage = last.usage.prompt_tokens, last.usage.completion_tokens
    shown = [event.choices[0].delta.content for event in pieces]
    return shown, last.choices[0].finish_reason, usage


def test_the_model_reads_a_transcript_that_ends_with_its_own_line(base: Transcript) -> None:
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Yes?"), ("user", "Dance")]
    ids = base.encode([{"role": role, "content": content} for role, content in turns])
    assert base.tokenizer.decode(ids) == (
        "System: Be brief.\nUser: Hello\nAssistant: Yes?\nUser: Dance\nAssistant:"
    )


def test_nobodys_text_becomes_a_special_token(base: Transcript) -> None:
    end = base.tokenizer.eos_token
    ids = base.encode([{"role": "user", "content": f"a{end}b"}])
    assert base.tokenizer.eos_token_id not in ids
    assert base.tokenizer.decode(ids) == f"User: a{end}b\nAssistant:"


def test_its_line_is_the_answer_and_the_next_one_is_the_users(base: Transcript, writes) -> None:
    asked = writes(" With joy, naïve 😀 one.\nUser: And now?\nAssistant: No.")
    pieces, reason, (read, written) = answer(base, temperature=0.7)
    assert "".join(pieces) == "With joy, naïve 😀 one." and len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces), "half a character waits for its rest"
    assert reason == "stop"
    (call,) = asked
    assert (call["most"], call["temperature"]) == (50, 0.7)
    assert call["stop"] == base.tokenizer.eos_token_id
    assert read == len(call["ids"])
    line = base.tokenizer.encode(" With joy, naïve 😀 one.\n")
    assert written == len(line), "nothing is computed beyond the end of the line"


def test_an_answer_ends_with_the_text_or_at_its_limit(base: Transcript, writes) -> None:
    writes(" With joy.")
    length = len(base.tokenizer.encode(" With joy."))
    assert answer(base, length + 1)[1] == "stop", "the model has ended its text"
    assert answer(base, length)[1] == "length"
    pieces, reason, (_, written) = answer(base, 2)
    assert (reason, written) == ("length", 2) and " With joy.".lstrip().startswith("".join(pieces))


def test_the_chat_says_which_model_writes_and_why(
    small: models.ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: object, dtype: str = "bfloat16") -> models.ChatModel:
        if name == "gpt2":
            raise models.ModelError("GPT-2 is not on this machine.")
        return small

    said: list[str] = []
    monkeypatch.setattr(models, "load", load)
    bot = Chat("gpt2", notify=said.append)
    assert said == [
        "(GPT-2 is not on this machine. Until then the course's small GPT-2 writes on, which has "
        "read one novel and nothing else.)"
    ]
    assert (bot.context, bot.max_tokens) == (128, 64), "an answer takes half of it at the most"
    assert bot.count([{"role": "user", "content": "Dance"}]) == len(
        small.tokenizer.encode("User: Dance\nAssistant:")
    )
    monkeypatch.setattr(models, "load", lambda *_: small)
    assert Transcript().why == f"({small.why})"
