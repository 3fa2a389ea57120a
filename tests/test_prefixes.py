"""A prompt that begins as an earlier one did is read from there on, and answered alike."""

import pytest
import torch
from test_turns import PROCESSOR, generate, line, manager, model, plain, wanted  # noqa: F401
from transformers import DynamicCache, LlamaForCausalLM

from aigc_utils.chat import prefixes
from aigc_utils.chat.prefixes import LEAST, Prefixes
from aigc_utils.chat.turns import Job, TakingTurns


def cache_of(length: int, fill: float = 0.0) -> DynamicCache:
    part = torch.full((1, 1, length, 2), fill)
    return DynamicCache([(part, part + 1)])


def test_the_longest_known_beginning_is_taken_in_steps() -> None:
    known = Prefixes()
    known.keep([1] * 200, cache_of(210, 1.0))
    known.keep([1] * 140 + [2] * 200, cache_of(340, 2.0))
    assert known.take([1] * 300)[1] == 192
    past, length = known.take([1] * 140 + [2] * 60 + [3])
    assert length == past.get_seq_length() == 192
    assert past.layers[0].keys.unique().tolist() == [2.0]
    assert known.take([1] * 127 + [3] * 9)[1] == 0, "too short to be worth it"
    assert known.take([1] * 128)[1] == 0, "the last token is read, or nothing would come next"
    assert known.take([1] * 129)[1] == LEAST


def test_who_takes_a_beginning_does_not_change_it() -> None:
    known = Prefixes()
    known.keep([1] * 150, cache_of(150))
    past, _ = known.take([1] * 150)
    past.layers[0].keys.fill_(7)
    past.update(torch.ones(1, 1, 9, 2), torch.ones(1, 1, 9, 2), 0)
    again, length = known.take([1] * 150)
    assert (length, again.get_seq_length(), float(again.layers[0].keys.max())) == (128, 128, 0.0)


def test_what_was_not_computed_is_not_kept() -> None:
    known = Prefixes()
    known.keep([1] * 200, cache_of(150))
    known.keep([2] * 127, cache_of(127))
    assert not known._known


def test_memory_is_bounded_and_the_oldest_use_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "ROOM", 500)
    known = Prefixes()
    for token in (1, 2, 3):
        known.keep([token] * 150, cache_of(150))
    known.take([1] * 200)
    known.keep([4] * 150, cache_of(150))
    assert {prompt[0] for prompt in known._known} == {1, 3, 4}
    known.keep([1] * 170, cache_of(170))
    kept = {(prompt[0], len(prompt)) for prompt in known._known}
    assert kept == {(3, 150), (4, 150), (1, 170)}, "it replaces the shorter one"
    known.keep([5] * 501, cache_of(501))
    assert {(prompt[0], len(prompt)) for prompt in known._known} == kept


def test_an_answer_is_the_same_with_a_known_beginning(
    manager: TakingTurns,  # noqa: F811
    model: LlamaForCausalLM,  # noqa: F811
    plain: LlamaForCausalLM,  # noqa: F811
) -> None:
    lengths: list[int] = []
    layer = model.base_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    jobs = [Job() for _ in range(3)]
    for job, asked in zip(jobs, (400, 410, 1_500), strict=True):
        _, _, ids = generate(manager, job, asked, wanted(3), model)
        alone = plain.generate(torch.ones(1, asked, dtype=torch.long), generation_config=wanted(3))
        assert torch.equal(ids, alone[0, asked:])
    assert [job.cached for job in jobs] == [0, 384, 384]
    assert lengths == [400, 1, 1, 410 - 384, 1, 1, 512, 512, 1_500 - 384 - 1_024, 1, 1]
