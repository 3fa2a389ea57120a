"""Who computes when in the local server: all in turn, nobody for a client that left (lesson 13).

``transformers serve`` computes one request after another, each to its end, whether its client still
waits or not. Here a request that has computed for `SLICE` seconds lets those pass that have had
less, and one whose client has gone stops before the model's next layer. So a small request never
waits for a large one, and answers that take less than a slice still come strictly in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from starlette.exceptions import HTTPException
from transformers import DynamicCache
from transformers.cli.serving.utils import DirectStreamer, GenerateManager

from aigc_utils.chat.prefixes import Prefixes

SLICE = 1.0
"""Seconds that a request may compute while another one waits."""

WAITING = 64
"""Requests that are taken in at once; the next one is told to come again."""

ROOM = 65_536
"""Tokens that all requests together may keep in memory: 1.5 GB of keys and values at the most."""

CHUNK = 512
"""Prompts above twice this length are read in pieces, so that no layer takes long."""


class Refused(HTTPException):
    """A request that is not served: the status, OpenAI's code for the reason, and one sentence."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        again = {"Retry-After": "2"} if status == 429 else None
        super().__init__(status, message, again)
        self.code = code


class Job:
    """One request: its place in the line, and whether its client is still there."""

    def __init__(self) -> None:
        self.gone = False
        self.slices = 0  # used up so far
        self.until = 0.0  # the end of the present one, by time.monotonic
        self.prompt: list[int] = []
        self.past: DynamicCache | None = None  # what the model made of it, in the end
        self.tokens = 0  # of the prompt and the longest answer
        self.cached = 0  # tokens of the prompt that were read before


class Gone(Exception):
    """The client has gone: stop computing for it."""


current: ContextVar[Job] = ContextVar("current")
"""The request that the running task, or the computing thread, works for."""


class Line:
    """The requests that want to compute, one of which does.

    ``inside`` are all that were taken in, those that are being read or sent included.
    """

    def __init__(self) -> None:
        self.inside: set[Job] = set()
        self._working: Job | None = None
        self._waiting: list[Job] = []
        self._moved = threading.Condition()

    @contextlib.contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Wait until it is this request's turn, and leave the line at the end."""
        try:
            self._queue(job)
            yield
        finally:
            with self._moved:
                if self._working is job:
                    self._call_next()
                else:
                    self._waiting.remove(job)

    def step(self, job: Job) -> None:
        """Between two pieces of work: let others pass when it is time. Raises Gone."""
        if job.gone:
            raise Gone
        if self._waiting and time.monotonic() > job.until:
            job.slices += 1
            self._queue(job)

    def leave(self, job: Job) -> None:
        """Say that the client has gone."""
        with self._moved:
            job.gone = True
            self._moved.notify_all()

    def _queue(self, job: Job) -> None:
        with self._moved:
            self._waiting.append(job)
            if self._working in (None, job):
                self._call_next()
            self._moved.wait_for(lambda: job.gone or self._working is job)
        if job.gone:
            raise Gone
        job.until = time.monotonic() + SLICE

    def _call_next(self) -> None:
        """Let the one that has had least compute; of equals, the one that came first."""
        self._working = min(self._waiting, key=lambda job: job.slices, default=None)
        if self._working is not None:
            self._waiting.remove(self._working)
        self._moved.notify_all()


class TakingTurns(GenerateManager):
    """The manager of ``transformers serve``, with a line in front of the model.

    Every request computes in a thread of its own, which stands still unless it is first in line.
    """

    def __init__(self, line: Line, model: Any) -> None:
        # Not the parent's: it would start the one thread that computes everything to its end.
        self._line = line
        self._prefixes = Prefixes()
        self._pool = ThreadPoolExecutor(WAITING, "answer")
        for layer in model.base_model.layers:
            layer.register_forward_pre_hook(lambda *_: line.step(current.get()))

    def generate_streaming(
        self,
        model: Any,
        processor: Any,
        inputs: dict,
        gen_config: Any,
        request_id: str,
        response_parser: Any = None,
    ) -> tuple[asyncio.Queue, DirectStreamer]:
        """As the parent's, within the limits."""
        self._admit(model, inputs, gen_config)
        return super().generate_streaming(
            model, processor, inputs, gen_config, request_id, response_parser
        )

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: dict, gen_config: Any, request_id: str
    ) -> tuple[str, int, Any]:
        """As the parent's, within the limits."""
        self._admit(model, inputs, gen_config)
        return await super().generate_non_streaming(
            model, processor, inputs, gen_config, request_id
        )

    def _admit(self, model: Any, inputs: Any, gen_config: Any) -> None:
        """Refuse what has no room; hold the answer to what the context leaves."""
        context = model.config.max_position_embeddings
        length = inputs["input_ids"].shape[-1]
        if length >= context:
            raise Refused(
                400,
                f"This model's maximum context length is {context} tokens. However, your messages "
                f"resulted in {length} tokens. Please reduce the length of the messages.",
                "context_length_exceeded",
            )
        bias = gen_config.sequence_bias or {}
        if any(token >= model.config.vocab_size for (token,) in bias):
            raise Refused(400, f"logit_bias: the tokens end at {model.config.vocab_size - 1}.")
        gen_config.sequence_bias = bias or None
        gen_config.max_new_tokens = min(gen_config.max_new_tokens, context - length)
        if length > 2 * CHUNK:
            gen_config.prefill_chunk_size = CHUNK
        job = current.get()
        job.tokens = length + gen_config.max_new_tokens
        if sum(one.tokens for one in self._line.inside) > ROOM:
            job.tokens = 0
            raise Refused(429, "The server holds too many long requests at once.", "server_busy")
        job.prompt = inputs["input_ids"][0].tolist()
        job.past, job.cached = self._prefixes.take(job.prompt)
        inputs["past_key_values"] = job.past

    def submit(self, fn: Callable, *args: Any, **kwargs: Any) -> Future:
        """Compute in turn; the result is None when the client has gone meanwhile."""
        return self._pool.submit(copy_context().run, self._in_turn, fn, *args, **kwargs)

    def async_submit(self, fn: Callable, *args: Any, **kwargs: Any) -> asyncio.Future:
        """As `submit`, to be awaited."""
        return asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def _in_turn(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        job = current.get()
        try:
            with self._line.turn(job):
                found = fn(*args, **kwargs)
            if job.past is not None:
                self._prefixes.keep(job.prompt, job.past)
            return found
        except Gone:  # an exception that is kept would keep the whole computation in memory
            return None
