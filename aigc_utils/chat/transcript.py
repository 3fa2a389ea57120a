"""A base model as a chat partner: it writes the transcript of the conversation on (lesson 11)."""

import contextlib
from collections.abc import Generator
from types import SimpleNamespace

from aigc_utils import data, models
from aigc_utils.chat.providers import Message, Provider


class Transcript:
    """GPT-2 in this process, with the one method of the SDK's client that Chat calls.

    A base model was never taught to answer: it gets the conversation as a transcript and writes it
    on. Its line is the answer, since the next one would be the user's.
    """

    api_key = ""

    def __init__(self) -> None:
        from aigc_utils.huggingface import from_huggingface

        try:
            loaded = models.load("gpt2")
            self.why = f"({loaded.why})"
        except models.ModelError as error:
            loaded = models.load(data.folder("models/novel_gpt2"), "float32")
            self.why = (
                f"({error} Until then the course's small GPT-2 writes on, which has read one novel "
                "and nothing else.)"
            )
        self.tokenizer = loaded.tokenizer
        self.model = from_huggingface(loaded.model).to(loaded.model.dtype)
        self.place = Provider("", loaded.name, context=self.model.config.context)
        self.chat = self.completions = self

    def encode(self, messages: list[Message]) -> list[int]:
        """Return the ids of the transcript, with the beginning of the model's own line."""
        lines = [f"{m['role'].capitalize()}: {m['content']}" for m in messages]
        text = "\n".join([*lines, "Assistant:"])
        # Nobody's text becomes one of the model's special tokens.
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def create(
        self,
        *,
        messages: list[Message],
        max_completion_tokens: int,
        temperature: float = 1.0,
        **ignored: object,
    ) -> contextlib.closing:
        """Return a context manager over events, as the SDK's method does when it streams."""
        ids = self.encode(messages)
        return contextlib.closing(self._events(ids, max_completion_tokens, temperature))

    def _events(self, ids: list[int], most: int, temperature: float) -> Generator[SimpleNamespace]:
        from aigc_utils import decoding

        def event(piece: str, reason: str | None = None, usage: object = None) -> SimpleNamespace:
            delta = SimpleNamespace(content=piece, refusal=None)
            choice = SimpleNamespace(delta=delta, finish_reason=reason)
            return SimpleNamespace(choices=[choice], usage=usage)

        new: list[int] = []
        text = whole = ""
        end = self.tokenizer.eos_token_id
        for token in decoding.stream(self.model, ids, most, temperature=temperature, stop=end):
            new.append(token)
            whole = str(self.tokenizer.decode(new)).lstrip()
            line = whole.partition("\n")[0]
            if not whole.endswith("\ufffd"):  # a character may take several tokens
                yield event(line[len(text) :])
                text = line
            if "\n" in whole:
                break
        reason = "stop" if "\n" in whole or len(new) < most else "length"
        usage = SimpleNamespace(prompt_tokens=len(ids), completion_tokens=len(new))
        yield event("", reason, usage)
