"""The GPT of lessons 03–05 against transformers, its own cache, and bad input."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from aigc_utils.gpt import GPT, LLAMA, GPTConfig, KVCache, NgramEmbedding, rotary_tables, rotate
from aigc_utils.huggingface import from_huggingface, to_huggingface

CONTEXT = 33
FAMILIES = {
    "gpt2": {},
    "llama": LLAMA,
    "llama-shared-heads": {**LLAMA, "n_kv_heads": 2},
    "qwen3": {**LLAMA, "qk_norm": True, "n_kv_heads": 1},
}
NGRAMS = {**LLAMA, "qk_norm": True, "ngram_buckets": 61}
WITH_NGRAMS = {**FAMILIES, "n-grams": NGRAMS, "5-grams": {**NGRAMS, "ngram_longest": 5}}
SMALL = {"vocab_size": 97, "context": CONTEXT, "n_layers": 2, "n_heads": 4, "d_model": 32}


def random_model(seed: int = 0, **options) -> GPT:
    """A model whose every weight, norms and biases too, is far from its initial value."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**SMALL, **options})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def random_huggingface(seed: int, kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    pick = lambda *values: values[int(torch.randint(len(values), ()))]  # noqa: E731
    heads, tied = pick(2, 4), pick(True, False)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=pick(50, 97),
            n_positions=CONTEXT,
            n_embd=heads * pick(5, 8),
            n_layer=pick(1, 3),
            n_head=heads,
            n_inner=pick(None, 24),
            activation_function=pick("gelu_new", "gelu"),
            layer_norm_epsilon=pick(1e-5, 1e-3),
            tie_word_embeddings=tied,
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        make, cls = {
            "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        }[kind]
        width = pick(4, 8)
        config = make(
            vocab_size=pick(50, 97),
            max_position_embeddings=CONTEXT,
            hidden_size=heads * width,
            head_dim=width,
            intermediate_size=pick(24, 40),
            num_hidden_layers=pick(1, 3),
            num_attention_heads=heads,
            num_key_value_heads=pick(1, 2),
            rms_norm_eps=pick(1e-5, 1e-6),
            rope_parameters={"rope_type": "default", "rope_theta": pick(1e4, 5e5)},
            tie_word_embeddings=tied,
        )
        model = cls(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_logits_equal_transformers_both_ways(kind, seed):
    theirs = random_huggingface(seed, kind)
    ours = from_huggingface(theirs)
    back = to_huggingface(ours)
    assert type(back) is type(theirs)
    for length in (1, 7, CONTEXT):
        ids = torch.randint(theirs.config.vocab_size, (2, length))
        expected = theirs(ids).logits
        assert relative_error(ours(ids), expected) < 1e-5
        assert relative_error(back(ids).logits, expected) < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_export_loads_as_a_folder(kind, tmp_path):
    ours = random_model(**FAMILIES[kind])
    to_huggingface(ours).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(97, (2, 13))
    assert relative_error(theirs(ids).logits, ours(ids)) < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_written_out_and_fused_attention_agree(kind):
    model, ids = random_model(**FAMILIES[kind]), torch.randint(97, (2, 21))
    with torch.no_grad():
        fused = model(ids)
    assert relative_error(model(ids).detach(), fused) < 1e-5


@pytest.mark.parametrize("kind", WITH_NGRAMS)
@torch.no_grad()
def test_the_future_does_not_leak(kind):
    model, ids = random_model(**WITH_NGRAMS[kind]), torch.randint(97, (1, CONTEXT))
    before = model(ids)
    for t in (1, 10, CONTEXT - 1):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % 97
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=0)
        assert not torch.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("kind", WITH_NGRAMS)
@settings(max_examples=15, deadline=None)
@given(pieces=st.lists(st.integers(1, 12), min_size=1, max_size=5))
@torch.no_grad()
def test_cache_gives_the_same_logits(kind, pieces):
    model = random_model(**WITH_NGRAMS[kind])
    ids = torch.randint(97, (2, min(sum(pieces), CONTEXT)))
    cache, parts = KVCache(model.config, batch=2), []
    for piece in ids.split(pieces if sum(pieces) <= CONTEXT else 1, dim=1):
        parts.append(model(piece, cache))
    assert cache.used == ids.shape[1]
    assert relative_error(torch.cat(parts, dim=1), model(ids)) < 1e-5


@pytest.mark.parametrize("kind", WITH_NGRAMS)
@torch.no_grad()
def test_initial_loss_is_log_of_vocabulary(kind):
    torch.manual_seed(1)
    model = GPT(GPTConfig(**{**SMALL, **WITH_NGRAMS[kind]}))
    ids = torch.randint(97, (8, CONTEXT))
    loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
    assert abs(loss.item() - math.log(97)) < 0.1


@torch.no_grad()
def test_zero_branches_make_every_block_the_identity():
    model = GPT(GPTConfig(**SMALL))
    model.init_weights(zero_branches=True)
    x = torch.randn(1, 5, 32)
    mask = torch.zeros(5, 5)
    torch.testing.assert_close(model.blocks[0](x, None, mask, None, 0), x)


@pytest.mark.parametrize("kind", WITH_NGRAMS)
@pytest.mark.parametrize("n_layers", [2, 18])
def test_first_weights_are_as_large_as_the_depth_asks(kind, n_layers):
    torch.manual_seed(2)
    model = GPT(GPTConfig(**{**SMALL, **WITH_NGRAMS[kind], "n_layers": n_layers, "d_model": 64}))
    wrong = []
    for name, weight in model.named_parameters():
        if name.endswith("bias") or name.startswith("ngrams"):
            fits = (weight == 0).all()
        elif weight.ndim == 1:
            fits = (weight == 1).all()
        else:
            branch_end = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = 0.02 / (2 * n_layers) ** 0.5 if branch_end else 0.02
            fits = abs(weight.std() / std - 1) < 0.06 and abs(weight.mean()) < 0.1 * std
        if not fits:
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("branch", ["attention", "mlp"])
@torch.no_grad()
def test_what_a_branch_adds_is_dropped_in_training_only(branch):
    block = GPT(GPTConfig(**SMALL, dropout=0.25)).blocks[0]
    for end, bias in ((block.attention.out, "attention"), (block.mlp.down, "mlp")):
        end.weight.zero_()
        end.bias.fill_(1.0 if bias == branch else 0.0)  # this branch adds 1, the other nothing
    x, mask = torch.randn(40, 30, 32), torch.zeros(30, 30)
    added = block.eval()(x, None, mask, None, 0) - x
    torch.testing.assert_close(added, torch.ones_like(x))
    torch.manual_seed(3)
    added = block.train()(x, None, mask, None, 0) - x
    dropped = added.abs() < 1e-5
    torch.testing.assert_close(added[~dropped], torch.full_like(added[~dropped], 1 / 0.75))
    assert abs(dropped.float().mean() - 0.25) < 0.01


@torch.no_grad()
def test_the_embedding_is_dropped_in_training_only():
    model, seen = random_model(dropout=0.25), []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = torch.randint(97, (20, CONTEXT))
    whole = model.embedding(ids) + model.position.weight
    model.eval()(ids)
    model.train()(ids)
    torch.testing.assert_close(seen[0], whole)
    kept = seen[1] != 0
    torch.testing.assert_close(seen[1][kept], whole[kept] / 0.75)
    assert abs(kept.float().mean() - 0.75) < 0.02


@torch.no_grad()
def test_a_tied_head_is_the_embedding_and_a_free_one_is_not():
    for tied in (True, False):
        model, ids = random_model(tied=tied), torch.tensor([[1, 2, 3]])
        assert ("head.weight" in model.state_dict()) != tied
        before = model(ids)
        model.embedding.weight[50] += 1  # token 50 is not among the ids: only the head can tell
        changed = (model(ids) != before).any(dim=1)[0]
        assert changed.tolist() == [tied and token == 50 for token in range(97)]


@torch.no_grad()
def test_rotary_turns_by_the_angles_of_the_paper_and_sees_distances_only():
    config = GPTConfig(**SMALL, **LLAMA, rope_theta=500.0)
    cos, sin = rotary_tables(config)
    assert cos.shape == sin.shape == (CONTEXT, 8)
    torch.manual_seed(4)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    for m in (0, 5, 31):
        turned = rotate(q, cos[m].double(), sin[m].double())
        pairs = torch.complex(q[..., :4], q[..., 4:])
        angles = m * 500.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
        expected = pairs * torch.polar(torch.ones(4, dtype=torch.float64), angles)
        found = torch.complex(turned[..., :4], turned[..., 4:])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def score(m: int, n: int) -> float:
        turned = [rotate(x, cos[at].double(), sin[at].double()) for x, at in ((q, m), (k, n))]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


@torch.no_grad()
def test_normalised_queries_and_keys_have_no_size():
    ids = torch.randint(97, (2, 9))
    for qk_norm, equal in ((True, True), (False, False)):
        model = random_model(qk_norm=qk_norm, norm_eps=1e-12, **LLAMA)
        before = model(ids)
        for block in model.blocks:
            block.attention.qkv.weight[:64] *= 3  # 32 rows of queries, 32 of keys
        assert torch.allclose(model(ids), before, rtol=1e-3, atol=1e-3) == equal


@torch.no_grad()
def test_shared_keys_and_values_are_those_of_neighbouring_heads():
    shared = random_model(n_kv_heads=2, **LLAMA)
    whole, weights = GPT(GPTConfig(**SMALL, **LLAMA)).eval(), shared.state_dict()
    for name, weight in weights.items():
        if "qkv" in name:  # queries of 4 heads; keys and values of 2, each for 2 heads in a row
            q, k, v = weight.split((32, 16, 16))
            doubled = [part.view(2, 8, 32).repeat_interleave(2, 0).flatten(0, 1) for part in (k, v)]
            weights[name] = torch.cat((q, *doubled))
    whole.load_state_dict(weights)
    ids = torch.randint(97, (2, 17))
    assert relative_error(shared(ids), whole(ids)) < 1e-5


def test_parameter_count_of_nanogpt_cpu_recipe():
    config = GPTConfig(vocab_size=65, context=64, n_layers=4, n_heads=4, d_model=128, bias=False)
    count = sum(p.numel() for p in GPT(config).parameters())
    assert count == 804_096


@pytest.mark.parametrize("kind", FAMILIES)
def test_save_and_load(kind, tmp_path):
    model, ids = random_model(**FAMILIES[kind]), torch.randint(97, (1, 9))
    model.save(tmp_path / "model")
    again = GPT.load(tmp_path / "model")
    assert again.config == model.config and not again.training
    with torch.no_grad():
        torch.testing.assert_close(again(ids), model(ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (torch.zeros(1, 34, dtype=torch.int64), "34 tokens long and the model's context is 33"),
        (torch.zeros(5, dtype=torch.int64), r"shape \(B, T\), not int64 of shape \(5,\)"),
        (torch.zeros(1, 5), "integers.*float32"),
        (torch.zeros(1, 0, dtype=torch.int64), "empty"),
        (torch.tensor([[3, 97]]), "0…96.*97 is among them"),
        (torch.tensor([[3, -1]]), "0…96.*-1 is among them"),
        (torch.tensor([[True]]), "integers.*bool"),
        (np.array([[3, 97]], dtype=np.uint16), "0…96.*97 is among them"),
        (np.array([[0.5]]), "integers.*float64"),
        ([[1, 2], [3]], "not list: encode a text first, and make the rows of a batch equally long"),
        ("hello", "not str: encode a text first"),
        (None, "not NoneType"),
    ],
)
def test_bad_ids(ids, sentence):
    with pytest.raises(ValueError, match=sentence):
        random_model()(ids)


@torch.no_grad()
def test_ids_of_every_integer_type_are_read():
    model, ids = random_model().eval(), [[1, 2, 3], [4, 5, 6]]
    expected = model(torch.tensor(ids))
    for kind in ("uint8", "int8", "uint16", "int32", "uint64", "int64"):
        array = np.array(ids, dtype=kind)
        array.flags.writeable = False  # as of a file that is mapped into memory
        torch.testing.assert_close(model(array), expected, rtol=0, atol=0)
        as_tensor = torch.tensor(ids, dtype=getattr(torch, kind))
        torch.testing.assert_close(model(as_tensor), expected, rtol=0, atol=0)
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=0)


def test_full_cache_names_both_lengths():
    model = random_model()
    cache = KVCache(model.config)
    with torch.no_grad():
        model(torch.zeros(1, 30, dtype=torch.int64), cache)
        with pytest.raises(ValueError, match=r"34 tokens long.*33"):
            model(torch.zeros(1, 4, dtype=torch.int64), cache)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other program", "json", "no json"])
def test_damaged_files_are_named(tmp_path, damage):
    random_model().save(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "weights.safetensors"
    raw = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(raw[:-9])
    elif damage == "bit":
        weights.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "other program":
        torch.save({"a": torch.ones(2)}, weights)  # a pickle, which could run code
    elif damage == "json":
        config.write_text(config.read_text()[:40])
    else:
        config.write_bytes(b"\xff\xfe[]")
    with pytest.raises(ValueError, match=r"(?i)save (or train )?the model again") as e:
        GPT.load(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"d_model": 16}, r"attention.out.bias should be \(16,\) and is \(32,\)"),
        ({"n_layers": 3}, r"blocks\.2\..* and is missing"),
        ({"n_layers": 1}, r"blocks\.1\..* should be absent"),
        ({"width": 3}, "does not describe a GPT"),
        ({"d_model": "32"}, "does not describe a GPT"),
    ],
)
def test_files_that_do_not_belong_together_are_named(tmp_path, options, sentence):
    random_model().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **options}))
    with pytest.raises(ValueError, match=sentence):
        GPT.load(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        GPT.load(tmp_path)
    random_model().save(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights\.safetensors"):
        GPT.load(tmp_path)


def test_weights_of_another_program_need_no_checksum(tmp_path):
    model = random_model()
    model.save(tmp_path)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    ids = torch.randint(97, (1, 9))
    with torch.no_grad():
        assert torch.equal(GPT.load(tmp_path)(ids), model(ids))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"d_model": 30}, "d_model=30 must be a multiple of n_heads=4"),
        ({"n_kv_heads": 3}, "n_heads=4 must be a multiple of n_kv_heads=3"),
        ({"norm": "batch"}, "norm='batch' must be one of"),
        ({"ngram_buckets": -1}, "ngram_buckets=-1 must not be negative"),
        ({"ngram_longest": 1}, "ngram_longest=1 must be at least 2"),
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
        ({"d_model": 20, "positions": "rotary"}, "must be even"),
    ],
)
def test_bad_configurations(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GPTConfig(**{**SMALL, **options})


@pytest.mark.parametrize("longest", [2, 3, 5])
def test_ngram_rows_follow_the_published_hash(longest):
    model = random_model(**WITH_NGRAMS["n-grams"], ngram_longest=longest)
    ids = torch.randint(97, (1, 9), generator=torch.Generator().manual_seed(3))
    ours = model.ngrams(ids)[0]
    before = [0] * (longest - 1) + [int(i) + 1 for i in ids[0]]  # 0: before the beginning
    for t in range(9):
        last_first = before[t : t + longest][::-1]
        key, rows = last_first[0], []
        for n, token in enumerate(last_first[1:], start=1):
            key += (token + (98 if n > 1 else 0)) * 98**n
            wrapped = (key * 2_654_435_761 + 2**63) % 2**64 - 2**63  # as int64 has it
            rows.append((wrapped >> 8) % 61)
        torch.testing.assert_close(ours[t], model.ngrams.table.weight[rows].sum(0))


def test_long_ngrams_of_a_large_vocabulary_still_find_rows():
    config = GPTConfig(vocab_size=50_257, d_model=8, n_heads=1, ngram_buckets=64, ngram_longest=6)
    table = NgramEmbedding(config)
    ids = torch.tensor([[1, 50_256, 9, 17, 40_000, 3, 2], [2, 50_256, 9, 17, 40_000, 3, 2]])
    first, second = table(ids)
    assert not torch.equal(first[5], second[5])  # six tokens back they differ
    torch.testing.assert_close(first[6], second[6])  # the seventh is not looked at


def test_conversion_refuses_what_it_would_get_wrong():
    with pytest.raises(ValueError, match="no class for this mixture"):
        to_huggingface(random_model(positions="rotary"))
    with pytest.raises(ValueError, match="no class with a table of n-grams"):
        to_huggingface(random_model(**WITH_NGRAMS["n-grams"]))
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, attention_bias=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="biases"):
        from_huggingface(transformers.LlamaForCausalLM(config))
    bert = transformers.BertLMHeadModel(
        transformers.BertConfig(
            vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, is_decoder=True,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match="not 'bert'"):
        from_huggingface(bert)
