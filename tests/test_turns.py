"""Requests to the local server compute in turn, and stop when their client has gone."""

import asyncio
import copy
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from aigc_utils.chat import turns
from aigc_utils.chat.turns import Gone, Job, Line, Refused, TakingTurns

CONTEXT = 3_000


@pytest.fixture(scope="module")
def plain() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def model(plain: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy, for the manager hooks into the layers of its model."""
    return copy.deepcopy(plain)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(turns, "SLICE", 0.05)
    return Line()


@pytest.fixture
def manager(line: Line, model: LlamaForCausalLM) -> TakingTurns:
    return TakingTurns(line, model)


def asked(length: int) -> dict:
    return {"input_ids": torch.ones(1, length, dtype=torch.long)}


def wanted(tokens: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=tokens, do_sample=False)


PROCESSOR = SimpleNamespace(decode=lambda ids, **_: f"{len(ids)} tokens")


def work(line: Line, job: Job, seconds: float, log: list[str], name: str) -> threading.Thread:
    """Start a thread that works in small steps and writes down when it works."""

    def run() -> None:
        try:
            with line.turn(job):
                done = 0
                while done * 0.005 < seconds:
                    line.step(job)
                    log.append(name)
                    time.sleep(0.005)
                    done += 1
        except Gone:
            log.append(f"{name} gone")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def order(log: list[str]) -> str:
    return "".join(name for i, name in enumerate(log) if i == 0 or log[i - 1] != name)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_small_ones_come_strictly_in_turn(line: Line) -> None:
    log: list[str] = []
    threads = []
    for name in "abc":
        threads.append(work(line, Job(), 0.015, log, name))
        wait_for(lambda: len(line._waiting) == len(threads) - 1 or len(log) > 3)
    for thread in threads:
        thread.join(10)
    assert order(log) == "abc"


def test_a_large_one_lets_the_small_ones_pass(line: Line) -> None:
    log: list[str] = []
    large = work(line, Job(), 0.4, log, "L")
    wait_for(lambda: len(log) > 3)
    start = time.monotonic()
    small = work(line, Job(), 0.01, log, "s")
    small.join(10)
    assert time.monotonic() - start < 0.3, "it waited for the large one"
    large.join(10)
    assert order(log) == "LsL"


def test_newcomers_come_before_those_that_had_their_slice(line: Line) -> None:
    log: list[str] = []
    threads = [work(line, Job(), 0.3, log, name) for name in "LMN"]
    wait_for(lambda: {"L", "M", "N"} <= set(log))
    before = len(log)
    work(line, Job(), 0.01, log, "s").join(10)
    passed = set(log[before : log.index("s")])
    for thread in threads:
        thread.join(10)
    assert len(passed) <= 2, "one that computes, or just gives way; never all three"


def test_alone_it_never_waits(line: Line) -> None:
    job = Job()
    with line.turn(job):
        job.until = 0
        line.step(job)
    assert job.slices == 0


def test_who_has_gone_stops_and_the_next_one_computes(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE", 60)  # nobody gives way
    log: list[str] = []
    first, second, third = Job(), Job(), Job()
    one = work(line, first, 60, log, "a")
    wait_for(lambda: log)
    two = work(line, second, 60, log, "b")
    wait_for(lambda: line._waiting)
    three = work(line, third, 0.01, log, "c")
    wait_for(lambda: len(line._waiting) == 2)
    line.leave(second)
    two.join(2)
    assert log[-1] != "c" and "b gone" in log, "who waits need not wait to go"
    line.leave(first)
    one.join(2)
    three.join(2)
    assert [name for name in log if name not in "a"][:2] == ["b gone", "a gone"]
    assert log[-1] == "c" and not line._waiting and line._working is None


def generate(manager: TakingTurns, job: Job, length: int, config: GenerationConfig, model) -> tuple:
    async def run() -> tuple:
        turns.current.set(job)
        return await manager.generate_non_streaming(model, PROCESSOR, asked(length), config, "id")

    manager._line.inside.add(job)
    try:
        return asyncio.run(run())
    finally:
        manager._line.inside.remove(job)


def test_an_answer_is_what_the_model_says(
    manager: TakingTurns, model: LlamaForCausalLM, plain: LlamaForCausalLM
) -> None:
    text, length, ids = generate(manager, Job(), 5, wanted(7), model)
    alone = plain.generate(**asked(5), generation_config=wanted(7))[0, 5:]
    assert (text, length) == ("7 tokens", 5)
    assert torch.equal(ids, alone)


def test_a_stream_is_cut_when_its_client_goes(
    manager: TakingTurns, model: LlamaForCausalLM
) -> None:
    job = Job()

    async def run() -> int:
        turns.current.set(job)
        from tokenizers import Tokenizer, models

        tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(50)}, unk_token="0"))
        processor = SimpleNamespace(_tokenizer=tokenizer)
        queue, streamer = manager.generate_streaming(
            model, processor, asked(5), wanted(2_900), "id"
        )
        for _ in range(3):
            assert isinstance(await queue.get(), str)
        manager._line.leave(job)
        while isinstance(await queue.get(), str):
            pass
        return streamer.total_tokens

    assert asyncio.run(run()) < 2_000
    wait_for(lambda: manager._line._working is None)


def test_nothing_is_computed_for_who_has_gone(
    manager: TakingTurns, model: LlamaForCausalLM
) -> None:
    job = Job()
    job.gone = True
    with pytest.raises(TypeError):  # there is no answer; nobody is there to be told
        generate(manager, job, 5, wanted(2_000), model)


def test_a_prompt_longer_than_the_context_is_refused(
    manager: TakingTurns, model: LlamaForCausalLM
) -> None:
    for length in (CONTEXT, CONTEXT + 500):
        with pytest.raises(Refused, match=f"resulted in {length} tokens") as refused:
            generate(manager, Job(), length, wanted(1), model)
        assert (refused.value.status_code, refused.value.code) == (400, "context_length_exceeded")
    assert generate(manager, Job(), CONTEXT - 1, wanted(5), model)[0] == "1 tokens"


def test_an_answer_ends_with_the_context(manager: TakingTurns, model: LlamaForCausalLM) -> None:
    config = wanted(10**9)
    manager._line.inside.add(job := Job())
    turns.current.set(job)
    manager._admit(model, asked(100), config)
    assert config.max_new_tokens == CONTEXT - 100, "so finish_reason says `length`"
    assert config.prefill_chunk_size is None and job.tokens == CONTEXT


def test_a_long_prompt_is_read_in_pieces(
    manager: TakingTurns, model: LlamaForCausalLM, plain: LlamaForCausalLM
) -> None:
    lengths: list[int] = []
    layer = model.base_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    _, _, ids = generate(manager, Job(), 1_200, wanted(3), model)
    assert lengths == [512, 512, 176, 1, 1]
    assert torch.equal(ids, plain.generate(**asked(1_200), generation_config=wanted(3))[0, 1_200:])


def test_memory_is_bounded(manager: TakingTurns, model: LlamaForCausalLM) -> None:
    jobs = [Job() for _ in range(40)]
    taken = 0
    for job in jobs:
        manager._line.inside.add(job)
        turns.current.set(job)
        try:
            manager._admit(model, asked(1_000), wanted(10**6))
            taken += 1
        except Refused as refused:
            assert refused.status_code == 429 and refused.headers == {"Retry-After": "2"}
    assert taken == turns.ROOM // CONTEXT
    manager._line.inside.remove(jobs[0])
    turns.current.set(jobs[-1])
    manager._admit(model, asked(1_000), wanted(10**6))


def test_a_bias_beyond_the_vocabulary_is_refused(
    manager: TakingTurns, model: LlamaForCausalLM
) -> None:
    config = wanted(2)
    config.sequence_bias = {(50,): 1.0}
    with pytest.raises(Refused, match="the tokens end at 49"):
        generate(manager, Job(), 5, config, model)
    config.sequence_bias = {}
    assert generate(manager, Job(), 5, config, model)[0] == "2 tokens"
    config.sequence_bias = {(7,): 100.0}
    assert generate(manager, Job(), 5, config, model)[2].tolist() == [7, 7]
