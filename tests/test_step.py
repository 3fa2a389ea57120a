"""The fast step of one token: the model's own logits and cache, and nothing of it left behind."""

import copy

import pytest
import torch
from test_decoding import CONTEXT, FAMILIES, PROMPT, VOCAB, random_model
from torch import Tensor, nn

from aigc_utils import decoding, step
from aigc_utils.gpt import GPT, LLAMA, KVCache

EVERY = {**FAMILIES, "n-grams": {**LLAMA, "ngram_buckets": 61}, "relu2": {"mlp": "relu2"}}
IDS = torch.randint(VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def token_by_token(model: GPT, ids: Tensor, one) -> tuple[Tensor, KVCache]:
    """Logits (B, T, V) and the cache after reading a prompt of 3 tokens, then one at a time."""
    cache = KVCache(model.config, len(ids), dtype=model.embedding.weight.dtype)
    rows = [model(ids[:, :3], cache)]
    rows += [one(model, ids[:, t : t + 1], cache) for t in range(3, ids.shape[1])]
    return torch.cat(rows, dim=1).float(), cache


def slowly(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    return model(ids, cache)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("batch", [1, 2])
def test_float32_gives_the_same_logits_and_the_same_cache(family, batch):
    model, ids = random_model(21, **EVERY[family]), IDS[:batch]
    (ours, cache), (right, other) = (token_by_token(model, ids, f) for f in (step.forward, slowly))
    assert (ours - right).abs().max() < 1e-5 * right.abs().max()
    assert cache.used == other.used == CONTEXT and torch.equal(cache.ids, other.ids)
    torch.testing.assert_close(cache.keys, other.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.values, other.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("rounded", [lambda m: copy.deepcopy(m).bfloat16(), decoding.to_int8])
@pytest.mark.parametrize("batch", [1, 2])
def test_few_bits_are_no_further_from_float32_than_the_models_own_way(family, rounded, batch):
    exact, ids = random_model(22, d_model=64, **EVERY[family]), IDS[:batch]
    with torch.inference_mode():
        right = exact(ids)
    errors = [
        (token_by_token(rounded(exact), ids, f)[0] - right).square().mean().sqrt()
        for f in (step.forward, slowly)
    ]
    assert 0 < errors[0] < 1.15 * errors[1] < 0.1 * right.std()


def test_norms_are_those_of_the_model_at_any_size():
    for width, size in ((32, 1.0), (576, 1e-4), (576, 3e3)):
        norm = random_model(d_model=width, **LLAMA).norm
        x = size * torch.randn(3, width)
        torch.testing.assert_close(step.norm(norm, x), norm(x), rtol=1e-5, atol=0)
        one = x[:1].bfloat16()
        with torch.no_grad():
            close = step.norm(copy.deepcopy(norm).bfloat16(), one)
        assert close.dtype == torch.bfloat16
        torch.testing.assert_close(close.float(), norm(one.float()), rtol=0.02, atol=0)


class Louder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments):
        return 2 * self.inner(*arguments)


class Own(GPT):
    pass


def test_a_learners_own_parts_are_called_and_not_passed_over():
    plain = random_model(**LLAMA)
    assert step.takes(plain) and step.takes(decoding.to_int8(plain))
    changed = copy.deepcopy(plain)
    changed.blocks[1].attention = Louder(changed.blocks[1].attention)
    hooked, replaced = copy.deepcopy(plain), copy.deepcopy(plain)
    calls = []
    hooked.blocks[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    replaced.blocks[0].norm1.forward = lambda x: 0 * x
    for model in (changed, hooked, replaced, Own(plain.config)):
        assert not step.takes(model)
    written = {
        name: decoding.generate(model, PROMPT, 12, temperature=0)
        for name, model in (("plain", plain), ("hooked", hooked), ("changed", changed))
    }
    assert written["hooked"] == written["plain"] != written["changed"] and len(calls) == 12


def test_the_switch_of_products_is_put_back(monkeypatch):
    set_to = []
    real = torch._C._set_mkldnn_enabled
    monkeypatch.setattr(torch._C, "_set_mkldnn_enabled", lambda v: (set_to.append(v), real(v)))
    for one_row in (True, False):
        with pytest.raises(ZeroDivisionError), step.products_in_order(one_row):
            assert torch._C._get_mkldnn_enabled() is not one_row
            raise ZeroDivisionError
        assert torch._C._get_mkldnn_enabled()
    assert set_to == [False, True, True, True]
    set_to.clear()
    decoding.generate(random_model(**LLAMA), PROMPT, 3, temperature=0)
    assert set_to == [False, True] * 2  # the prompt is read as before, then two tokens
    decoding.generate(random_model(**LLAMA), [PROMPT] * 2, 3, temperature=0)
    assert set_to[4:] == [True, True] * 2
