"""Lesson 05's decoding: against transformers, against its own definition, and bad input."""

import gc
import itertools
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from aigc_utils import decoding
from aigc_utils.gpt import GPT, LLAMA, GPTConfig, KVCache
from aigc_utils.huggingface import to_huggingface

CONTEXT, VOCAB = 24, 40
FAMILIES = {
    "gpt2": {},
    "llama": {**LLAMA, "n_kv_heads": 2},
    "qwen3": {**LLAMA, "qk_norm": True, "n_kv_heads": 1, "tied": False},
}


def random_model(seed: int = 0, **options) -> GPT:
    """A model whose every weight is far from its initial value: no two tokens alike."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, "context": CONTEXT, "n_layers": 2, "n_heads": 4, "d_model": 32}
    model = GPT(GPTConfig(**{**shape, **options})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.25 * torch.randn_like(weight)
    return model


MODEL = random_model(**LLAMA)
PROMPT = [3, 14, 15, 9, 2]

logits_rows = st.tuples(
    st.integers(0, 2**31), st.integers(1, 4), st.integers(2, 60), st.sampled_from([0.5, 3.0, 20.0])
).map(lambda t: t[3] * torch.randn(t[1], t[2], generator=torch.Generator().manual_seed(t[0])))


# The filters, with transformers' as independent truth


@settings(max_examples=60, deadline=None)
@given(logits_rows, st.integers(1, 70))
def test_top_k_is_that_of_transformers(logits, k):
    assert torch.equal(decoding.keep_top_k(logits, k), theirs.TopKLogitsWarper(k)(None, logits))


@settings(max_examples=60, deadline=None)
@given(logits_rows, st.floats(0.01, 0.99))
def test_top_p_is_that_of_transformers(logits, p):
    ours, right = decoding.keep_top_p(logits, p), theirs.TopPLogitsWarper(p)(None, logits)
    # They add up from the other end: only a token that ends on p to the last digit may differ.
    for mine, other, row in zip(ours, right, logits, strict=True):
        if not torch.equal(mine, other):
            sums = row.softmax(-1).sort(descending=True).values.cumsum(-1)
            assert (sums - p).abs().min() < 1e-6


@settings(max_examples=60, deadline=None)
@given(logits_rows, st.floats(0.001, 0.999))
def test_min_p_is_that_of_transformers(logits, p):
    ours, right = decoding.keep_min_p(logits, p), theirs.MinPLogitsWarper(p)(None, logits)
    differ = ours.isfinite() != right.isfinite()
    ratio = logits.softmax(-1) / logits.softmax(-1).amax(-1, keepdim=True)
    assert not differ.any() or (ratio[differ] - p).abs().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(logits_rows, st.floats(0.5, 3), st.data())
def test_repetition_penalty_is_that_of_transformers(logits, penalty, data):
    rows, size = logits.shape
    length = data.draw(st.integers(1, 12))
    seen = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(0, size - 1), min_size=length, max_size=length),
                min_size=rows,
                max_size=rows,
            )
        )
    )
    right = theirs.RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    assert torch.allclose(decoding.penalise_repeats(logits, seen, penalty), right)


@settings(max_examples=60, deadline=None)
@given(
    logits_rows,
    st.floats(0, 3),
    st.one_of(st.none(), st.integers(1, 70)),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_probabilities_are_a_distribution_that_keeps_the_best(logits, temperature, k, p, m):
    before = logits.clone()
    probs = decoding.probabilities(logits, temperature=temperature, top_k=k, top_p=p, min_p=m)
    assert torch.equal(logits, before)  # the caller's logits stay as they are
    assert torch.allclose(probs.sum(-1), torch.ones(len(probs)), atol=1e-5)
    best = logits.argmax(-1, keepdim=True)
    assert (probs.gather(-1, best) >= probs.amax(-1, keepdim=True) - 1e-6).all()
    if k is not None:
        assert ((probs > 0).sum(-1) <= k).all()


def test_a_tiny_temperature_is_greedy():
    logits = torch.tensor([[90.0, -90.0, 89.0]])
    for temperature in (1e-3, 1e-40, 5e-324):
        probs = decoding.probabilities(logits, temperature=temperature)
        assert probs.tolist() == [[1, 0, 0]]


def test_filters_at_their_ends_change_nothing():
    logits = torch.randn(3, 50)
    for same in (
        decoding.keep_top_p(logits, 1.0),
        decoding.keep_top_k(logits, 50),
        decoding.keep_min_p(logits, 0.0),
        decoding.penalise_repeats(logits, torch.zeros(3, 2).long(), 1.0),
    ):
        assert torch.equal(same, logits)


# Drawing


def chi_squared(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """Pearson's statistic divided by its expectation: about 1 when counts follow probs."""
    expected = probs * counts.sum()
    used = expected > 0
    return float(((counts - expected)[used] ** 2 / expected[used]).sum() / (used.sum() - 1))


def test_draws_follow_the_probabilities_and_never_take_what_is_cut():
    probs = decoding.probabilities(torch.randn(1, 30), top_k=12)
    drawn = decoding.draw(probs.expand(40_000, -1), torch.Generator().manual_seed(1))
    counts = torch.bincount(drawn, minlength=30).double()
    assert counts[probs[0] == 0].sum() == 0
    assert chi_squared(counts, probs[0].double()) < 2.5  # 11 degrees: about one chance in 10,000


def test_an_arrow_at_the_very_beginning_misses_what_is_cut(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(shape, dtype=torch.float64))
    assert decoding.draw(torch.tensor([[0.0, 0.0, 1.0]])).tolist() == [2]


def test_the_first_and_the_last_token_can_be_drawn():
    probs = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    rng = torch.Generator().manual_seed(0)
    assert all(decoding.draw(probs, rng).tolist() == [0, 2, 1] for _ in range(50))


# Generation


@torch.no_grad()
def slow_greedy(model: GPT, ids: list[int], n: int) -> list[int]:
    """The definition: read everything again for each token, the last half when it is full."""
    text, begin = list(ids), 0
    for _ in range(n):
        if len(text) - begin > model.config.context:
            begin = len(text) - model.config.context // 2
        text.append(int(model(torch.tensor([text[begin:]]))[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_uncached_loop_also_beyond_the_context(family):
    model = random_model(1, **FAMILIES[family])
    for length in (1, 7, CONTEXT):
        prompt = torch.randint(VOCAB, (length,)).tolist()
        new = decoding.generate(model, prompt, 3 * CONTEXT, temperature=0)
        assert new == slow_greedy(model, prompt, 3 * CONTEXT)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_greedy_and_beams_are_those_of_transformers(family):
    options = {**FAMILIES[family], "tied": True}
    model = random_model(2, **options)
    hf = to_huggingface(model)
    prompt = torch.tensor([PROMPT])
    call = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "max_new_tokens": 12}
    right = hf.generate(prompt, **call, pad_token_id=0)[0, len(PROMPT) :].tolist()
    assert decoding.generate(model, PROMPT, 12, temperature=0) == right
    right = hf.generate(prompt, **call, pad_token_id=0, repetition_penalty=1.7)[
        0, len(PROMPT) :
    ].tolist()
    assert decoding.generate(model, PROMPT, 12, temperature=0, repetition_penalty=1.7) == right
    right = hf.generate(prompt, **call, pad_token_id=0, num_beams=3)[0, len(PROMPT) :].tolist()
    assert decoding.beam_search(model, PROMPT, 12, beams=3)[0][0] == right


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_with_a_cache_equal_logits_without(family):
    model = random_model(3, **FAMILIES[family])
    ids = torch.randint(VOCAB, (2, CONTEXT))
    with torch.no_grad():
        whole = model(ids)
        for sizes in ([n, 1, CONTEXT - n - 1] for n in range(1, CONTEXT - 1)):
            cache = KVCache(model.config, batch=2)
            pieces = torch.cat([model(piece, cache) for piece in ids.split(sizes, dim=1)], dim=1)
            assert (pieces - whole).abs().max() < 1e-5 * whole.abs().max()


def test_every_setting_streams_what_it_returns():
    for options in (
        {"temperature": 0},
        {},
        {"temperature": 0.7, "top_k": 5},
        {"top_p": 0.8, "repetition_penalty": 1.2},
        {"min_p": 0.2, "stop": [4, 9]},
    ):
        whole = decoding.generate(MODEL, PROMPT, 40, seed=5, **options)
        stream = decoding.stream(MODEL, PROMPT, 40, seed=5, **options)
        assert iter(stream) is stream
        assert list(stream) == whole


def test_a_stream_gives_each_token_as_it_comes():
    reads = []
    model = random_model(**LLAMA)
    model.register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0].shape[1]))
    stream = decoding.stream(model, PROMPT, 10, seed=1)
    assert reads == []
    next(stream)
    assert reads == [len(PROMPT)]
    next(stream)
    assert reads == [len(PROMPT), 1]  # the cache: a token is read once


def test_seeds_reproduce_and_leave_the_global_dice_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (decoding.generate(MODEL, PROMPT, 60, seed=s) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    unseeded = decoding.generate(MODEL, PROMPT, 20)
    torch.manual_seed(4)
    assert decoding.generate(MODEL, PROMPT, 20) == unseeded


def test_stop_ends_before_the_stopping_id():
    free = decoding.generate(MODEL, PROMPT, 50, seed=3)
    stop = free[20]
    cut = decoding.generate(MODEL, PROMPT, 50, seed=3, stop={stop})
    assert cut == free[: free.index(stop)]
    for same in (stop, np.int64(stop), np.array([stop]), [torch.tensor(stop)]):
        assert decoding.generate(MODEL, PROMPT, 50, seed=3, stop=same) == cut
    assert decoding.generate(MODEL, PROMPT, 50, seed=3, stop=[]) == free


def test_rows_of_a_batch_are_generated_each_for_itself():
    batch = torch.tensor([PROMPT, [1, 2, 3, 4, 5], [39, 0, 7, 7, 7]])
    rows = decoding.generate(MODEL, batch, 60, temperature=0)
    alone = [decoding.generate(MODEL, row, 60, temperature=0) for row in batch]
    assert rows == alone
    stop = {alone[0][3], alone[1][10]}
    stopped = decoding.generate(MODEL, batch, 60, temperature=0, stop=stop)
    assert stopped == [decoding.generate(MODEL, row, 60, temperature=0, stop=stop) for row in batch]
    assert decoding.generate(MODEL, batch[:1], 5, temperature=0) == [alone[0][:5]]


def test_texts_have_the_probability_that_the_model_gives_them():
    """All pairs of tokens of a small vocabulary, counted in many samples."""
    model = random_model(4, vocab_size=5, **LLAMA)
    rows = decoding.generate(model, torch.tensor([[2, 0]] * 8_000), 2, seed=1, temperature=1.3)
    counts = torch.bincount(torch.tensor([5 * a + b for a, b in rows]), minlength=25).double()
    with torch.no_grad():
        pairs = torch.tensor([[2, 0, a, b] for a, b in product(range(5), repeat=2)])
        log_p = (model(pairs) / 1.3).log_softmax(-1)
    picked = log_p[:, 1:3].gather(-1, pairs[:, 2:, None])[..., 0]
    assert chi_squared(counts, picked.sum(-1).exp().double()) < 2.3  # 24 degrees


def test_two_streams_at_once_write_what_each_writes_alone():
    model = random_model(5, dropout=0.5, **LLAMA).train()
    prompts, lengths = ([3, 14, 15], [9, 2, 6]), (4, 20)
    alone = [
        decoding.generate(model, prompt, n, temperature=0)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    streams = [
        decoding.stream(model, prompt, n, temperature=0)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    written: list[list[int]] = [[], []]
    for _ in range(max(lengths)):
        for stream, new in zip(streams, written, strict=True):
            new.extend(itertools.islice(stream, 1))
            assert model.training
    assert written == alone


def test_an_abandoned_stream_changes_nothing_afterwards():
    model = random_model(5, dropout=0.5, **LLAMA).train()
    stream = decoding.stream(model, PROMPT, 20)
    next(stream)
    model.eval()
    del stream
    gc.collect()
    assert not any(module.training for module in model.modules())


def test_a_frozen_part_stays_frozen_and_an_error_puts_the_mode_back():
    model = random_model(5, dropout=0.5, **LLAMA).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    decoding.generate(model, PROMPT, 3)
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="logits are not all finite"):
        decoding.generate(model, PROMPT, 3)
    assert [module.training for module in model.modules()] == modes


def distribution_by_hand(logits: list[float], temperature=1.0, top_k=None, top_p=None, min_p=None):
    """What the settings mean, token by token; the filters one after the other."""
    powers = [math.exp((z - max(logits)) / temperature) for z in logits]
    p = {i: w / sum(powers) for i, w in enumerate(powers)}
    likely = sorted(p, key=p.get, reverse=True)
    if top_k is not None:
        likely = likely[:top_k]
    if top_p is not None:
        reached, kept = 0.0, []
        for i in likely:
            kept.append(i)
            reached += p[i] / sum(p[j] for j in likely)
            if reached >= top_p:
                break
        likely = kept
    if min_p is not None:
        likely = [i for i in likely if p[i] >= min_p * p[likely[0]]]
    total = sum(p[i] for i in likely)
    return torch.tensor([p[i] / total if i in likely else 0.0 for i in p], dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.4},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 4},
        {"top_p": 0.05},
        {"top_p": 0.6},
        {"top_p": 0.9},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 7, "top_p": 0.8, "min_p": 0.1},
    ],
    ids=str,
)
def test_tokens_come_as_often_as_the_settings_say(settings):
    model = random_model(17, vocab_size=12, **LLAMA)
    with torch.no_grad():
        logits = model(torch.tensor([[2, 0]]))[0, -1].tolist()
    right = distribution_by_hand(logits, **settings)
    rows = decoding.generate(model, torch.tensor([[2, 0]] * 6_000), 1, seed=2, **settings)
    counts = torch.bincount(torch.tensor(rows)[:, 0], minlength=12).double()
    assert ((counts > 0) <= (right > 0)).all(), "a token that was cut has been drawn"
    assert (counts[right > 0.003] > 0).all(), "a token that was kept never comes"
    if (right > 0).sum() > 1:
        assert chi_squared(counts, right) < 3.5


def test_a_penalty_changes_what_is_written():
    free = decoding.generate(MODEL, PROMPT, 60, temperature=0)
    penalised = decoding.generate(MODEL, PROMPT, 60, temperature=0, repetition_penalty=1.8)
    assert len(set(penalised)) > len(set(free))
    with torch.no_grad():  # the first token: by definition, with the prompt as what was seen
        logits = MODEL(torch.tensor([PROMPT]))[0, -1]
    for token in set(PROMPT):
        logits[token] = logits[token] / 1.8 if logits[token] > 0 else logits[token] * 1.8
    assert penalised[0] == logits.argmax()


def test_the_mode_of_the_model_is_put_back_and_dropout_is_off():
    model = random_model(5, dropout=0.5, **LLAMA).train()
    texts = [decoding.generate(model, PROMPT, 20, temperature=0) for _ in range(2)]
    assert texts[0] == texts[1] and model.training
    surprises = [decoding.surprise(model, PROMPT)[0] for _ in range(2)]
    assert torch.equal(*surprises) and model.training
    decoding.beam_search(model, PROMPT, 3)
    draft = random_model(6, **LLAMA)
    decoding.speculative(model, draft, PROMPT, 3)
    assert model.training and not draft.training
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_the_memory_of_the_cache_is_what_is_needed(monkeypatch):
    lengths = []

    class Spy(KVCache):
        def __init__(self, *args):
            super().__init__(*args)
            lengths.append(self.keys.shape[3])

    monkeypatch.setattr(decoding, "KVCache", Spy)
    decoding.generate(MODEL, PROMPT, 4)
    decoding.generate(MODEL, PROMPT, 400)
    assert lengths == [len(PROMPT) + 3, CONTEXT]


@pytest.mark.parametrize("length", [1, CONTEXT])
def test_contexts_of_one_token_and_full_prompts_work(length):
    model = random_model(6, context=length, **LLAMA)
    assert len(decoding.generate(model, [1] * length, 9, seed=1)) == 9


# Beam search


@pytest.mark.parametrize("options", [{}, {"ngram_buckets": 61}], ids=str)
def test_a_beam_as_wide_as_the_tree_finds_the_best_text(options):
    model = random_model(7, vocab_size=6, **LLAMA, **options)
    found = decoding.beam_search(model, [1, 2], 3, beams=36)
    with torch.no_grad():
        texts = torch.tensor([[1, 2, *rest] for rest in product(range(6), repeat=3)])
        log_p = model(texts).log_softmax(-1)[:, 1:4].gather(-1, texts[:, 2:, None])[..., 0].sum(-1)
    right = {tuple(text[2:].tolist()): p for text, p in zip(texts, log_p.tolist(), strict=True)}
    assert found[0][0] == texts[log_p.argmax(), 2:].tolist()
    assert all(math.isclose(right[tuple(ids)], p, rel_tol=1e-4) for ids, p in found)
    assert math.isclose(found[0][1], log_p.max().item(), rel_tol=1e-4)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(ids) for ids, _ in found}) == 36


@pytest.mark.parametrize(("size", "length", "beams"), [(5, 1, 8), (5, 2, 30), (3, 4, 500)])
def test_more_beams_than_texts_find_every_text_once(size, length, beams):
    model = random_model(7, vocab_size=size, **LLAMA)
    found = decoding.beam_search(model, [1, 2], length, beams=beams)
    assert {tuple(ids) for ids, _ in found} == set(product(range(size), repeat=length))
    assert len(found) == size**length
    assert sum(math.exp(log_p) for _, log_p in found) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0])
def test_beams_end_where_told_and_are_ranked_by_their_length(penalty):
    model = random_model(8, vocab_size=5, **LLAMA)
    found = decoding.beam_search(model, [1, 2], 3, beams=500, stop=[4, 0], length_penalty=penalty)
    whole = {text for n in range(3) for text in product((1, 2, 3), repeat=n)}
    assert {tuple(ids) for ids, _ in found if len(ids) < 3} == whole
    # All ways to end, and all texts that did not: they share the whole probability.
    assert len(found) == 2 * (1 + 3 + 9) + 27
    assert sum(math.exp(log_p) for _, log_p in found) == pytest.approx(1, abs=1e-4)
    worth = [p / (len(ids) + (len(ids) < 3)) ** penalty for ids, p in found]
    assert worth == pytest.approx(sorted(worth, reverse=True))


def test_a_beam_that_ends_leaves_its_place_to_others():
    model = random_model(8, vocab_size=5, **LLAMA)
    (best, log_p), *others = decoding.beam_search(model, [1, 2], 6, beams=2, stop=3)
    assert len(others) == 1 and 3 not in best + others[0][0]
    assert log_p >= others[0][1]
    assert decoding.beam_search(model, [1, 2], 4, beams=9, stop=range(5))[0][0] == []
    first = decoding.generate(model, [1, 2], 1, temperature=0)
    ((long, _),) = decoding.beam_search(model, [1, 2], 3, beams=1, stop=first, length_penalty=50)
    assert len(long) == 3 and first[0] not in long, "the best ends at once, and one goes on"


def test_one_beam_is_greedy():
    ids = decoding.generate(MODEL, PROMPT, 15, temperature=0)
    assert decoding.beam_search(MODEL, PROMPT, 15, beams=1)[0][0] == ids


# Speculative decoding


def test_speculation_leaves_the_distribution_unchanged():
    shape = {"vocab_size": 3, "n_layers": 1, "n_heads": 1, "d_model": 16, **LLAMA}
    model, draft = random_model(31, **shape), random_model(2, **shape)  # they disagree much
    texts = torch.tensor([[1, 2, *rest] for rest in product(range(3), repeat=2)])

    @torch.no_grad()
    def distribution(net: GPT) -> torch.Tensor:
        log_p = (net(texts) / 1.5).log_softmax(-1)[:, 1:3].gather(-1, texts[:, 2:, None])
        return log_p[..., 0].sum(-1).exp().double()

    counts = torch.zeros(9, dtype=torch.float64)
    for seed in range(400):
        (a, b), _ = decoding.speculative(
            model, draft, [1, 2], 2, lookahead=2, temperature=1.5, seed=seed
        )
        counts[3 * a + b] += 1
    assert chi_squared(counts, distribution(model)) < 3.5  # 8 degrees: one chance in 2,000
    assert chi_squared(counts, distribution(draft)) > 10  # the test would notice the draft's own


def test_greedy_speculation_is_greedy_whatever_the_draft_says():
    for draft in (random_model(10, **LLAMA), random_model(0, **LLAMA)):
        for lookahead in (1, 3, 30):
            ids, asked = decoding.speculative(
                MODEL, draft, PROMPT, 17, lookahead=lookahead, temperature=0
            )
            assert ids == decoding.generate(MODEL, PROMPT, 17, temperature=0)
            assert asked <= 17
    assert asked == 1  # a draft that is the model: all guesses are right


# Surprise


@torch.no_grad()
def scored_by_hand(model: GPT, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, one token at a time: read from the last half context that was begun."""
    context, step = model.config.context, max(1, model.config.context // 2)
    surprises, entropies = [], []
    for t in range(1, len(text)):
        late = max(0, t - context)  # the first window that reaches t begins here or later
        begin = -(-late // step) * step
        p = model(text[None, begin:t])[0, -1].softmax(-1).double()
        surprises.append(-p[text[t]].log())
        entropies.append(-(p * p.log()).sum())
    return torch.stack(surprises).float(), torch.stack(entropies).float()


@pytest.mark.parametrize("context", range(1, 34))
def test_surprise_and_entropy_are_their_definitions_at_every_context(context):
    model = random_model(13, context=context, n_layers=1, **LLAMA)
    rng = torch.Generator().manual_seed(context)
    for length in (context + 2, 2 * context + 3):
        text = torch.randint(VOCAB, (length,), generator=rng)
        found, right = decoding.surprise(model, text), scored_by_hand(model, text)
        for ours, by_hand in zip(found, right, strict=True):
            assert ours.shape == (length - 1,)
            torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5 * CONTEXT), st.integers(0, 2**31))
def test_surprise_scores_each_token_once_with_enough_context(length, seed):
    ids = torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))
    surprises, entropies = decoding.surprise(MODEL, ids)
    assert surprises.shape == entropies.shape == (length - 1,)
    assert (surprises >= 0).all() and (entropies <= math.log(VOCAB) + 1e-5).all()
    with torch.no_grad():
        first = MODEL(ids[None, : min(CONTEXT, length - 1)])[0].log_softmax(-1)
        right = -first.gather(-1, ids[1 : len(first) + 1, None])[:, 0]
        assert torch.allclose(surprises[: len(right)], right, atol=1e-5)
        if length > CONTEXT + 1:  # the last token: in some window, with at least half a context
            last = [
                -MODEL(ids[None, -n - 1 : -1])[0, -1].log_softmax(-1)[ids[-1]]
                for n in range(CONTEXT // 2, CONTEXT + 1)
            ]
            assert (torch.stack(last) - surprises[-1]).abs().min() < 1e-4


# Guesses by look-up


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("match", "lookahead"), [(1, 1), (1, 5), (2, 3), (3, 8)])
def test_lookup_writes_what_greedy_does_and_asks_less(family, match, lookahead):
    model = random_model(17, context=96, **FAMILIES[family])
    for prompt in (PROMPT, PROMPT * 3, [7]):
        greedy = decoding.generate(model, prompt, 60, temperature=0)
        new, asked = decoding.lookup(model, prompt, 60, match=match, lookahead=lookahead)
        assert new == greedy
        assert -(-60 // (lookahead + 1)) <= asked <= 60
        asks = asks_by_definition(prompt, greedy, match, lookahead)
        assert asked == asks and (match > 1 or asks < 60)


def asks_by_definition(prompt: list[int], greedy: list[int], match: int, lookahead: int) -> int:
    """How often a model that writes `greedy` is asked, from the texts alone."""
    text, asked, done = prompt + greedy, 0, 0
    while done < len(greedy):
        known = text[: len(prompt) + done]
        places = [i for i in range(len(known) - match) if known[i : i + match] == known[-match:]]
        guesses = known[places[-1] + match :][:lookahead] if places else []
        while guesses and greedy[done : done + 1] == guesses[:1] and done < len(greedy) - 1:
            done, guesses = done + 1, guesses[1:]
        done, asked = done + 1, asked + 1
    return asked


def test_lookup_says_what_is_wrong():
    for bad in ({"match": 0}, {"lookahead": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            decoding.lookup(MODEL, PROMPT, 5, **bad)
    with pytest.raises(ValueError, match="ask for fewer"):
        decoding.lookup(MODEL, PROMPT, CONTEXT)


# Eight bits


def rounded_near(family, rounding, share):
    """Round a model: it stays itself, and logits move by less than a share of their spread."""
    model = random_model(11, d_model=64, **FAMILIES[family])
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rounded = rounding(model)
    ids = torch.randint(VOCAB, (2, 20))
    with torch.no_grad():
        exact, rough = model(ids), rounded(ids).float()
    assert (rough - exact).square().mean().sqrt() < share * exact.std()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    return rounded


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_stays_close_and_leaves_the_original_alone(family):
    rounded = rounded_near(family, decoding.to_int8, 0.05)
    assert len(decoding.generate(rounded, PROMPT, 40, seed=1)) == 40
    linear = torch.nn.Linear(48, 16)
    x = torch.randn(3, 5, 48)
    close = decoding.Int8Linear(linear)(x.bfloat16()).float()
    assert (close - linear(x)).abs().max() < 0.03 * linear(x).abs().max()


# Four bits


@pytest.mark.parametrize("bias", [False, True])
def test_int4_keeps_what_has_sixteen_steps_a_group_and_comes_near_to_the_rest(bias):
    linear = torch.nn.Linear(96, 48, bias=bias)
    with torch.no_grad():  # as in GGUF's Q4_1: 16 steps a group, both ends taken
        steps = torch.randint(0, 16, (48, 3, 32))
        steps[..., 0], steps[..., 1] = 0, 15
        unit, low = 2.0 ** torch.randint(-8, -3, (48, 3, 1)), torch.randint(-12, 2, (48, 3, 1))
        linear.weight.copy_((unit * (steps + low)).flatten(1))
    x = torch.randn(2, 5, 96).bfloat16()
    right = x.float() @ linear.weight.T + (0 if linear.bias is None else linear.bias)
    y = decoding.Int4Linear(linear)(x)
    assert y.shape == (2, 5, 48)
    assert (y - right).abs().max() < 0.01 * right.abs().max()
    torch.nn.init.normal_(linear.weight)
    right = x.float() @ linear.weight.T + (0 if linear.bias is None else linear.bias)
    y = decoding.Int4Linear(linear)(x)
    assert 0.02 < (y - right).square().mean().sqrt() / right.std() < 0.11


@pytest.mark.parametrize("family", FAMILIES)
def test_int4_generates_and_leaves_the_original_alone(family):
    rounded = rounded_near(family, decoding.to_int4, 0.4)
    kinds = {type(part) for part in rounded.modules()}
    assert decoding.Int4Linear in kinds and type(rounded.head) is decoding.Int8Linear
    assert torch.nn.Linear not in kinds and len(decoding.generate(rounded, PROMPT, 40)) == 40
    odd = decoding.to_int4(random_model(11, d_model=40, **FAMILIES[family]))
    assert type(odd.blocks[0].attention.out) is decoding.Int8Linear


# Devices


@pytest.mark.parametrize("family", [*FAMILIES, "n-grams"])
def test_everything_is_computed_where_the_model_is(family):
    """With another default device, whatever is made without naming one would not fit the model."""
    options = {**LLAMA, "ngram_buckets": 61} if family == "n-grams" else FAMILIES[family]
    model, prompt = random_model(14, **options), torch.tensor(PROMPT)
    draft, start = random_model(15, **options), torch.tensor([PROMPT] * 2)
    text = torch.arange(40) % VOCAB

    def work() -> list:
        return [
            decoding.generate(model, prompt, 40, top_p=0.8, repetition_penalty=1.2, seed=1),
            decoding.generate(model, start, 9, temperature=0),
            list(decoding.stream(model, prompt, 9, seed=2, top_k=3, min_p=0.1)),
            decoding.beam_search(model, prompt, 4),
            decoding.speculative(model, draft, prompt, 9, seed=3),
            [row.tolist() for row in decoding.surprise(model, text)],
        ]

    expected = work()
    with torch.device("meta"):
        assert work() == expected


def test_a_cache_lies_where_it_is_told_and_remembers_ids_only_for_ngrams():
    plain, ngrams = random_model(**LLAMA), random_model(ngram_buckets=61, **LLAMA)
    for model, remembered in ((plain, 0), (ngrams, CONTEXT)):
        cache = KVCache(model.config, batch=3, device="meta", dtype=torch.bfloat16)
        assert {t.device.type for t in (cache.keys, cache.values, cache.ids)} == {"meta"}
        assert cache.ids.shape == (3, remembered) and cache.keys.dtype == torch.bfloat16


# Bad input: one sentence each


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.uint16, tuple, list])
def test_ids_of_every_kind_are_read(kind):
    prompt = np.array(PROMPT, dtype=np.uint16) if kind is np.uint16 else kind(PROMPT)
    assert decoding.generate(MODEL, prompt, 9, seed=1) == decoding.generate(
        MODEL, PROMPT, 9, seed=1
    )
    assert torch.equal(decoding.surprise(MODEL, prompt)[0], decoding.surprise(MODEL, PROMPT)[0])


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_model_whose_weights_are_no_numbers_is_named(number):
    model = random_model(16, **LLAMA)
    with torch.no_grad():
        model.norm.weight[3] = number
    for call in (
        lambda: decoding.generate(model, PROMPT, 3),
        lambda: decoding.generate(model, PROMPT, 3, temperature=0),
        lambda: next(decoding.stream(model, PROMPT, 3)),
        lambda: decoding.beam_search(model, PROMPT, 3),
        lambda: decoding.speculative(MODEL, model, PROMPT, 3),
        lambda: decoding.surprise(model, PROMPT),
    ):
        with pytest.raises(ValueError, match=r"logits are not all finite.*last good checkpoint"):
            call()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ids": []}, "prompt is empty"),
        ({"ids": torch.zeros(1, 0).long()}, "prompt is empty"),
        ({"ids": [1] * (CONTEXT + 1)}, "25 tokens long and the model's context is 24"),
        ({"ids": [1, VOCAB]}, "another tokenizer"),
        ({"ids": [-1]}, "another tokenizer"),
        ({"ids": [0.5]}, "must be integers"),
        ({"ids": [[1, 2], [3]]}, "equally long"),
        ({"ids": [[[1]]]}, "must be integers of shape"),
        ({"ids": "hello"}, "must be integers.*not str: encode a text first"),
        ({"ids": None}, "must be integers"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -0.1}, "greedy"),
        ({"temperature": math.nan}, "greedy"),
        ({"temperature": math.inf}, "greedy"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 0, "temperature": 0}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop": "a"}, "token ids"),
        ({"stop": [[5]]}, "token ids"),
    ],
)
def test_bad_input_gets_one_sentence_before_any_work(options, sentence):
    def refuse(*_):
        raise AssertionError("the model was asked")

    model = random_model(**LLAMA)
    model.register_forward_pre_hook(refuse)
    for start in (decoding.generate, decoding.stream):  # a stream refuses before it is begun
        with pytest.raises(ValueError, match=sentence) as caught:
            start(model, **{"ids": PROMPT, "max_new_tokens": 5, **options})
        assert "\n" not in str(caught.value)


def test_the_other_ways_to_decode_refuse_too():
    small = random_model(vocab_size=7)
    for call, sentence in (
        (lambda: decoding.beam_search(MODEL, PROMPT, 5, beams=0), "beams=0"),
        (lambda: decoding.beam_search(MODEL, PROMPT, 5, length_penalty=-1), "length_penalty=-1"),
        (lambda: decoding.beam_search(MODEL, PROMPT, 5, stop="a"), "token ids"),
        (lambda: decoding.beam_search(MODEL, PROMPT, CONTEXT), "ask for fewer"),
        (lambda: decoding.beam_search(MODEL, [PROMPT], 5), r"of shape \(T,\), not .* \(1, 5\)"),
        (lambda: decoding.stream(MODEL, [PROMPT], 5), r"of shape \(T,\), not .* \(1, 5\)"),
        (lambda: decoding.speculative(MODEL, small, PROMPT, 5), "same tokenizer"),
        (lambda: decoding.speculative(MODEL, MODEL, PROMPT, 5, lookahead=0), "lookahead=0"),
        (lambda: decoding.speculative(MODEL, MODEL, PROMPT, 5, temperature=-1), "greedy"),
        (lambda: decoding.surprise(MODEL, [1]), "at least two"),
        (lambda: decoding.surprise(MODEL, [1, VOCAB]), "another tokenizer"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
