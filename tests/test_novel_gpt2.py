"""Lesson 11's GPT-2 in data/ loads, scores and can be built again; its questions are sound."""

import json
import sys

import pytest
import scripts
import torch
import transformers

from aigc_utils import data, training
from aigc_utils.huggingface import from_huggingface
from aigc_utils.tokenizer import BPETokenizer

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
FOLDER = data.folder("models/novel_gpt2")


@pytest.fixture(scope="module")
def script():
    return scripts.load("data/build_novel_gpt2.py")


@pytest.fixture(scope="module")
def model():
    transformers.logging.disable_progress_bar()
    return transformers.GPT2LMHeadModel.from_pretrained(FOLDER)


def test_the_articles_classes_load_it_and_the_package_agrees(script, model):
    assert type(transformers.AutoModelForCausalLM.from_pretrained(FOLDER)) is type(model)
    ours = from_huggingface(model)
    assert ours.config.context == script.MODEL.context and ours.config.norm == "layer"
    ids = torch.randint(513, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, ours(ids), atol=1e-4)


def test_its_tokens_are_those_of_lesson_04_and_one_more(script):
    text = data.load_text("pride_and_prejudice")[:20_000]
    lesson_04 = transformers.AutoTokenizer.from_pretrained(data.folder("models/novel_gpt"))
    for kind in (transformers.AutoTokenizer, transformers.GPT2Tokenizer):
        tokenizer = kind.from_pretrained(FOLDER)
        assert tokenizer(text)["input_ids"] == lesson_04(text)["input_ids"]
        assert tokenizer(script.END)["input_ids"] == [512]
        assert tokenizer.eos_token_id == 512 and tokenizer.pad_token is None
        assert tokenizer.decode([512, 65], skip_special_tokens=True) == tokenizer.decode([65])


def test_a_mark_stands_before_each_chapter(script):
    text = "TITLE\n\nChapter 1\n\nOne. See Chapter 9.\n\nChapter 2\n\nTwo."
    ids = script.encode(BPETokenizer(), text).tolist()
    assert ids.count(512) == 2
    assert BPETokenizer().decode([i for i in ids if i != 512]) == text
    after = ids[ids.index(512) + 1 :]
    assert BPETokenizer().decode([i for i in after if i != 512]).startswith("Chapter 1\n")


@pytest.mark.slow
def test_it_scores_what_the_readme_says(model):
    novel = data.split_text("pride_and_prejudice")
    test_text = novel.open_test("lesson 04's recipe is fixed: report it")
    ids = torch.tensor(BPETokenizer.train(novel.train, 512).encode(test_text))
    loss = training.evaluate(from_huggingface(model), ids)
    bits = training.bits_per_character(loss, len(ids), len(test_text), 513)
    assert bits == pytest.approx(1.69, abs=0.01)


def test_the_script_writes_the_same_files(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script.training, "train", lambda *_: None)
    monkeypatch.setattr(script, "bits", lambda *_: 4.0)
    monkeypatch.setattr(sys, "argv", ["build", "--out", str(tmp_path)])
    script.main()
    assert "validation: 4.0 bits" in capsys.readouterr().out
    for name in FILES:
        same = (tmp_path / "models/novel_gpt2" / name).read_bytes() == (FOLDER / name).read_bytes()
        assert same == (name != "model.safetensors"), name
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "models/novel_gpt2")


def test_the_questions_are_whole_and_do_not_give_their_answers_away():
    content = json.loads(data.path("questions.json").read_text(encoding="utf-8"))
    questions, sentences = content["questions"], content["sentences"]
    assert (len(questions), len(sentences), len(content["without_answer"])) == (30, 10, 8)
    for item in questions:
        assert set(item) == {"en", "zh", "en_answers", "zh_answers"}
        assert item["en"].isascii() and item["en"].endswith("?") and item["zh"].endswith("？")
        for language in ("en", "zh"):
            answers = item[f"{language}_answers"]
            assert answers
            assert not any(answer in item[language] for answer in answers), item
    assert all(set(pair) == {"en", "zh"} for pair in sentences)
    for column in ("en", "zh"):
        assert len({item[column] for item in questions}) == 30
        assert len({pair[column] for pair in sentences}) == 10
