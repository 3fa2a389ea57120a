"""Models are found by name; what cannot be loaded says its mend."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_utils import data, models
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.huggingface import to_huggingface
from aigc_utils.tokenizer import BPETokenizer


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.float()


def test_novel_is_the_model_of_lesson_04() -> None:
    chat = models.load("novel", dtype="float32")
    assert type(chat.model).__name__ == "Qwen3ForCausalLM" and chat.model.dtype == torch.float32
    assert chat.name == "novel" and not chat.can_chat and "lesson 04" in chat.why
    assert chat.folder == data.folder("models/novel_gpt")
    ids = chat.tokenizer("Elizabeth was", return_tensors="pt")["input_ids"]
    out = chat.model.generate(ids, max_new_tokens=5, do_sample=False)
    assert chat.tokenizer.decode(out[0]).startswith("Elizabeth was")


def test_own_folders_load(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train("the cat sat on the mat. " * 20, 266)
    gpt = GPT(GPTConfig(vocab_size=266, context=16, n_layers=1, d_model=32, **LLAMA)).eval()
    exported, run = tmp_path / "exported", tmp_path / "run"
    to_huggingface(gpt).save_pretrained(exported)
    gpt.save(run / "best")
    ids = tokenizer.encode("the cat sat")
    for folder in (exported, run, run / "best"):
        with pytest.raises(models.ModelError, match=r"no tokenizer\.json"):
            models.load(folder)
        home = run if folder.name in ("run", "best") else folder
        tokenizer.to_huggingface().save(str(home / "tokenizer.json"))
        chat = models.load(folder, dtype="float32")
        assert chat.tokenizer("the cat sat")["input_ids"] == ids
        torch.testing.assert_close(logits(chat.model, ids), gpt(torch.tensor([ids])))
        assert str(tmp_path) not in repr(chat) + repr(chat.tokenizer)
        (home / "tokenizer.json").unlink()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small Llama as lesson 04 exports it."""
    tokenizer = BPETokenizer.train("the cat sat on the mat. " * 20, 266)
    gpt = GPT(GPTConfig(vocab_size=266, context=16, n_layers=2, d_model=32, **LLAMA))
    to_huggingface(gpt).save_pretrained(tmp_path)
    tokenizer.to_huggingface().save(str(tmp_path / "tokenizer.json"))
    models.load(tmp_path)
    return tmp_path


@pytest.mark.parametrize("fault", ["missing", "shape", "cut"])
def test_weights_that_are_not_whole_are_refused(exported: Path, fault: str) -> None:
    file, name = exported / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    weights = load_file(file)
    if fault == "missing":
        del weights[name]
    elif fault == "shape":
        weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    sentence = (
        "cannot be read as a model" if fault == "cut" else f"1 weights .*{name}.* whole model"
    )
    with pytest.raises(models.ModelError, match=sentence) as caught:
        models.load(exported)
    assert "\n" not in str(caught.value)


def test_a_damaged_run_is_refused_in_its_own_words(tmp_path: Path) -> None:
    GPT(GPTConfig(vocab_size=266, context=16, n_layers=1, d_model=32)).save(tmp_path)
    tokenizer = BPETokenizer.train("the cat sat on the mat. " * 20, 266)
    tokenizer.to_huggingface().save(str(tmp_path / "tokenizer.json"))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(models.ModelError, match=r"weights\.safetensors is damaged"):
        models.load(tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_code_beside_a_model_is_neither_run_nor_asked_for(
    exported: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    mark = exported / "ran"
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import *\nC, M, T = 1, 2, 3\n"
    (exported / "code.py").write_text(code)
    config = json.loads((exported / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    config["model_type"] = config["model_type"] if known else "novelty"
    (exported / "config.json").write_text(json.dumps(config))
    if known:
        models.load(exported)
    else:
        with pytest.raises(models.ModelError, match="cannot be read as a model"):
            models.load(exported)
    assert not mark.exists()


def test_folders_that_hold_no_model_say_so(tmp_path: Path) -> None:
    with pytest.raises(models.ModelError, match=r"no config\.json"):
        models.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    for bad in ("", "[]", "{}", json.dumps({"model_type": "no-such-model"})):
        (tmp_path / "config.json").write_text(bad)
        with pytest.raises(models.ModelError, match="cannot be read as a model"):
            models.load(tmp_path)
    for missing in ("./nothing", str(tmp_path / "nothing"), "~/no such folder"):
        with pytest.raises(models.ModelError, match="There is no folder"):
            models.load(missing)


def test_hub_names_need_a_network_the_first_time() -> None:
    for name in ("no-such-owner/no-such-model", "what is this?", "a/b/c"):
        with pytest.raises(models.ModelError, match=r"neither a folder nor .* HF_HUB_OFFLINE=0"):
            models.load(name)


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(models.ModelError, match="cannot be reached: check the network"):
        models.load("no-such-owner/no-such-model")  # the tests' own guard refuses the way out
    with pytest.raises(models.ModelError, match=r"hub has no model 'what is this\?'"):
        models.load("what is this?")


@pytest.mark.parametrize(
    ("name", "dtype", "sentence"),
    [("novel", "int8", "dtype='int8' is not known"), ("", "float32", "The name is empty")],
)
def test_bad_arguments(name: str, dtype: str, sentence: str) -> None:
    with pytest.raises(models.ModelError, match=sentence):
        models.load(name, dtype)
