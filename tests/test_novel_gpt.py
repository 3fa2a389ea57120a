"""The GPT of lesson 04 in data/: it loads, scores what its record says, and can be built again."""

import hashlib
import sys
from dataclasses import asdict

import numpy as np
import pytest
import scripts
import torch
import transformers

from aigc_utils import data, history, training
from aigc_utils.gpt import GPT, GPTConfig
from aigc_utils.huggingface import from_huggingface
from aigc_utils.ngram import KneserNey
from aigc_utils.tokenizer import BPETokenizer

FOLDER = data.folder("models/novel_gpt")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def script():
    return scripts.load("data/build_novel_gpt.py")


@pytest.fixture(scope="module")
def model():
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def parts():
    novel = data.split_text("pride_and_prejudice")
    return novel.train, novel.val, novel.open_test("lesson 04's recipe is fixed: report it")


@pytest.fixture(scope="module")
def record():
    return history.read(data.path("runs/novel_gpt.jsonl"))


def test_transformers_loads_it_and_so_does_the_package(script, model, parts):
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.float32
    ours = from_huggingface(model)
    assert asdict(ours.config) == asdict(
        GPTConfig(**{**asdict(script.MODEL), "n_kv_heads": ours.config.n_kv_heads})
    )
    ids = torch.randint(512, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, ours(ids), atol=1e-4)


def test_its_tokenizer_is_the_one_of_the_training_text(parts):
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    ours = BPETokenizer.train(parts[0], 512)
    assert theirs(parts[2])["input_ids"] == ours.encode(parts[2])
    for text in ('"Oh!"\n\n  said  Darcy. ', "naïve 🙂 日本", ""):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_it_writes(model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    prompt = tokenizer("Elizabeth was", return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, max_new_tokens=30, do_sample=False)[0])
    assert written.startswith("Elizabeth was") and len(written) > 40


def test_the_record_is_of_the_recipe_and_of_three_seeds(script, record):
    assert GPTConfig(**record.settings["model"]) == script.MODEL
    assert record.settings["training"] == asdict(script.RECIPE)
    ends = [row for row in record.rows if "test_bits" in row]
    assert [row["seed"] for row in ends] == [1, 2, 3]
    for seed in (1, 2, 3):
        rows = [row for row in record.rows if row["seed"] == seed and "step" in row]
        assert rows[-1]["step"] == script.RECIPE.steps
        assert rows[-1]["val_loss"] < 2.6 < 6 < rows[0]["val_loss"]
    assert np.ptp([row["test_bits"] for row in ends]) < 0.03


@pytest.mark.slow
def test_it_scores_what_the_record_says_and_beats_the_counting_models(model, parts, record):
    ours = from_huggingface(model)
    ids = torch.tensor(BPETokenizer.train(parts[0], 512).encode(parts[2]))
    loss = training.evaluate(ours, ids)
    bits = training.bits_per_character(loss, len(ids), len(parts[2]), 512)
    recorded = record.column("test_bits")
    assert bits == pytest.approx(recorded[0], abs=0.005)
    for order in (5, 7):
        assert recorded.max() < KneserNey.fit(parts[0], order).bits_per_character(parts[2]) - 0.1


def test_the_script_writes_every_file_and_its_checksum(script, tmp_path, monkeypatch, capsys):
    def untrained(seed, ids, recipe):
        torch.manual_seed(seed)
        return GPT(script.MODEL), [{"step": 0, "val_loss": 6.2}]

    monkeypatch.setattr(script, "train", untrained)
    monkeypatch.setattr(script, "bits", lambda *_: 4.0)
    monkeypatch.setattr(sys, "argv", ["build", "--out", str(tmp_path)])
    script.main()
    sums = {
        name: digest
        for digest, name in (
            line.split("  ") for line in (tmp_path / "SHA256SUMS").read_text().splitlines()
        )
    }
    assert set(sums) == {*(f"models/novel_gpt/{name}" for name in FILES), "runs/novel_gpt.jsonl"}
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    known = {name: (data.path(f"models/novel_gpt/{name}")).read_bytes() for name in FILES}
    for name in FILES:
        same = (tmp_path / "models/novel_gpt" / name).read_bytes() == known[name]
        assert same == (name != "model.safetensors"), name
    assert len(history.read(tmp_path / "runs/novel_gpt.jsonl").rows) == 6
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "models/novel_gpt")
    torch.manual_seed(1)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, GPT(script.MODEL)(ids), atol=1e-3)
    assert "not as in SHA256SUMS" in capsys.readouterr().out
