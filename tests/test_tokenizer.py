"""aigc_utils.tokenizer: every string comes back, and the merges are those of `tokenizers`."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from aigc_utils import tokenizer as module
from aigc_utils.data import load_text
from aigc_utils.tokenizer import BPETokenizer, CharTokenizer, merge

AWKWARD = [
    "",
    " ",
    "\n\n  \t x",
    "It's  one o'clock;   we'll SEE.",
    "人工智能（AI）技术的发展迅速。",
    "👩‍🚀 🇫🇷 é e\u0301 ﷽",
    "1234567890 3.14159",
    "\x00\x1c\x7f\ufeff\u200b",
    "a" * 1000,
]
# The two pattern engines know different Unicode versions; they agree on what Python calls assigned.
ASSIGNED = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60)


@pytest.fixture(scope="module")
def novel() -> str:
    return load_text("pride_and_prejudice")


@pytest.fixture(scope="module")
def bpe(novel: str) -> BPETokenizer:
    return BPETokenizer.train(novel, 1024)


def huggingface_merges(text: str, vocab_size: int) -> list[list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return json.loads(tokenizer.to_str())["model"]["merges"]


def exported_merges(tokenizer: BPETokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_huggingface().to_str())["model"]["merges"]


# --- every string comes back -------------------------------------------------------------------


def test_the_whole_novel_comes_back(novel, bpe):
    for tokenizer in (CharTokenizer(novel), BPETokenizer(), bpe):
        ids = tokenizer.encode(novel)
        assert tokenizer.decode(ids) == novel
        assert min(ids) >= 0
        assert max(ids) < tokenizer.vocab_size


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_back(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_comes_back(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_any_text_comes_back_from_its_own_characters(text):
    tokenizer = CharTokenizer(text)
    assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_without_merges_the_ids_are_the_bytes():
    assert BPETokenizer().encode("naïve") == list("naïve".encode())


def test_the_tokens_of_a_text_spell_its_bytes(bpe):
    text = "Mr. Darcy — 达西先生 🎩"
    assert b"".join(bpe.vocab[i] for i in bpe.encode(text)) == text.encode()


def test_the_cache_changes_nothing(bpe):
    text = "the the  the, theatre"
    fresh = BPETokenizer(bpe.merges)
    assert fresh.encode(text) == fresh.encode(text) == bpe.encode(text)


# --- byte-pair encoding itself -----------------------------------------------------------------


def test_the_cache_has_an_end(bpe, monkeypatch):
    monkeypatch.setattr(module, "_CACHE_WORDS", 3)
    small = BPETokenizer(bpe.merges)
    for _ in range(2):
        assert small.encode("one two three four five") == bpe.encode("one two three four five")
    assert list(small._cache) == ["one", " two", " three"]


def test_merge_goes_from_the_left_and_does_not_overlap():
    assert merge([1, 1, 1], (1, 1), 9) == [9, 1]
    assert merge([1, 2, 3, 1, 2], (1, 2), 9) == [9, 3, 9]
    assert merge([], (1, 2), 9) == []


def test_merges_apply_in_the_order_they_were_learned():
    # bc was learned before ab, so abc is a + bc although ab stands first.
    tokenizer = BPETokenizer([(98, 99), (97, 98)])
    assert tokenizer.encode("abc") == [97, 256]


def test_no_token_crosses_a_word(novel, bpe):
    for token in bpe.vocab[256:]:
        assert b" " not in token[1:] or not token.strip()


@pytest.mark.parametrize("vocab_size", [256, 257, 300, 1024, 4096])
def test_the_novel_gives_the_merges_of_huggingface(novel, vocab_size):
    ours = BPETokenizer.train(novel, vocab_size)
    assert ours.vocab_size == vocab_size
    assert exported_merges(ours) == huggingface_merges(novel, vocab_size)


@settings(max_examples=150, deadline=None)
@given(st.text("ab c'1é中\n", min_size=1, max_size=120), st.integers(256, 300))
def test_any_text_gives_the_merges_of_huggingface(text, vocab_size):
    # Short texts over a few characters are full of ties and of runs such as "aaaa".
    theirs = huggingface_merges(text, vocab_size)
    assert exported_merges(BPETokenizer.train(text, 256 + len(theirs))) == theirs


@settings(max_examples=300, deadline=None)
@given(ASSIGNED)
def test_huggingface_encodes_the_same(bpe, text):
    exported = bpe.to_huggingface()
    ids = bpe.encode(text)
    assert exported.encode(text).ids == ids
    assert exported.decode(ids) == text


def test_tokenizer_json_encodes_the_novel_the_same(novel, bpe, tmp_path):
    bpe.to_huggingface().save(str(tmp_path / "tokenizer.json"))
    exported = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert exported.get_vocab_size() == bpe.vocab_size
    assert exported.encode(novel).ids == bpe.encode(novel)
    for text in AWKWARD:
        assert exported.encode(text).ids == bpe.encode(text)


def test_merges_come_back_from_huggingface(novel, bpe):
    assert BPETokenizer.from_huggingface(bpe.to_huggingface()).merges == bpe.merges
    for empty in (BPETokenizer(), BPETokenizer.from_huggingface(BPETokenizer().to_huggingface())):
        assert empty.merges == []
    # A published tokenizer numbers its tokens otherwise, and has marks that no merge makes.
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=alphabet,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    theirs.train_from_iterator([novel], trainer)
    ours = BPETokenizer.from_huggingface(theirs)
    assert ours.merges == bpe.merges[: len(ours.merges)] and ours.vocab_size == 599
    assert ours.decode(ours.encode("Mr. Darcy, 人\n")) == "Mr. Darcy, 人\n"


@pytest.mark.parametrize("model", [models.WordPiece(), models.WordLevel(), models.Unigram()])
def test_another_kind_of_tokenizer_is_refused(model):
    with pytest.raises(ValueError, match="is not byte-level BPE"):
        BPETokenizer.from_huggingface(Tokenizer(model))
    spelled_in_characters = models.BPE(vocab={"人": 0, "工": 1, "人工": 2}, merges=[("人", "工")])
    with pytest.raises(ValueError, match="is not byte-level BPE"):
        BPETokenizer.from_huggingface(Tokenizer(spelled_in_characters))


# --- files -------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_tokenizer(novel, bpe, tmp_path):
    for tokenizer in (CharTokenizer(novel), bpe, BPETokenizer()):
        path = tmp_path / "tokenizer.json"
        tokenizer.save(path)
        loaded = type(tokenizer).load(str(path))
        assert loaded.vocab_size == tokenizer.vocab_size
        assert loaded.encode(novel[:2000]) == tokenizer.encode(novel[:2000])


def test_a_disk_that_refuses_leaves_the_old_file(bpe, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    bpe.save(path)
    before = path.read_bytes()

    def full(_self: Path, content: bytes | str, **_: object) -> None:
        with _self.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    for tokenizer in (bpe, CharTokenizer("ab")):
        with pytest.raises(OSError, match="No space left"):
            tokenizer.save(path)
        assert path.read_bytes() == before


def test_characters_outside_ascii_survive_the_file(tmp_path):
    CharTokenizer("é中🎩\n\x00").save(tmp_path / "t.json")
    assert CharTokenizer.load(tmp_path / "t.json").decode([4, 3, 2]) == "🎩中é"


@pytest.mark.parametrize("kind", [CharTokenizer, BPETokenizer])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", "\xff"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, kind, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"broken\.json is not a saved tokenizer of this kind"):
        kind.load(path)


def test_the_other_kind_of_tokenizer_is_refused(tmp_path):
    CharTokenizer("ab").save(tmp_path / "c.json")
    with pytest.raises(ValueError, match="not a saved tokenizer of this kind"):
        BPETokenizer.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "content",
    [
        {"merges": [[97, 256]]},  # made of itself
        {"merges": [[97, 98], [97, 98]]},  # twice
        {"merges": [[97, 98], [98, 99], [256, 99], [97, 257]]},  # "abc" in two ways
        {"merges": [[97]]},
        {"merges": [97]},
        {"merges": [["a", "b"]]},
        {"merges": 5},
    ],
)
def test_impossible_merges_are_refused(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"bad\.json is damaged"):
        BPETokenizer.load(path)


@pytest.mark.parametrize("characters", ["ba", "aa", "", 5])
def test_impossible_characters_are_refused(tmp_path, characters):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"characters": characters}))
    with pytest.raises(ValueError, match=r"bad\.json is damaged"):
        CharTokenizer.load(path)


# --- errors: one sentence that says what is wrong and what to do -------------------------------


def test_a_lone_surrogate_is_named():
    for call in (
        BPETokenizer().encode,
        CharTokenizer("a").encode,
        CharTokenizer,
        lambda text: BPETokenizer.train(text, 300),
    ):
        with pytest.raises(ValueError, match=r"lone surrogate \(U\+D83C at position 2\)"):
            call("ab\ud83c!")


def test_an_unknown_character_is_named(novel):
    with pytest.raises(ValueError, match=re.escape("'Q' (U+0051, position 4) is not among the 75")):
        CharTokenizer(novel).encode("the Queen")


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), BPETokenizer()])
def test_a_bad_id_is_named(tokenizer):
    top = tokenizer.vocab_size
    for bad in (top, -1, 10**30):
        with pytest.raises(ValueError, match=rf"id {bad} at position 1 .*run from 0 to {top - 1}"):
            tokenizer.decode([0, bad])
    for bad in (1.0, "a", None):
        with pytest.raises(ValueError, match="an id is an integer, and at position 0 stands"):
            tokenizer.decode([bad])


def test_ids_may_come_as_an_array():
    assert BPETokenizer().decode(np.array([72, 105], dtype=np.uint16)) == "Hi"


def test_half_a_character_decodes_to_the_replacement_character():
    assert BPETokenizer().decode(list("é".encode())[:1]) == "\ufffd"


def test_only_text_is_encoded():
    for bad in (None, b"bytes", ["a"]):
        with pytest.raises(TypeError, match="reads a str"):
            BPETokenizer().encode(bad)


def test_training_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="starts at 256"):
        BPETokenizer.train("abc", 255)
    with pytest.raises(ValueError, match="no pairs left after 258 tokens"):
        BPETokenizer.train("abc", 1000)
    with pytest.raises(ValueError, match="no pairs left after 256 tokens"):
        BPETokenizer.train("", 257)
    with pytest.raises(ValueError, match="is empty"):
        CharTokenizer("")


# --- cost --------------------------------------------------------------------------------------


def test_training_and_encoding_the_novel_are_quick(novel):
    start = time.process_time()
    tokenizer = BPETokenizer.train(novel, 1024)
    trained = time.process_time()
    tokenizer.encode(novel)
    encoded = time.process_time()
    assert trained - start < 10
    assert encoded - trained < 5


def test_a_word_without_end_does_not_stall(bpe):
    start = time.process_time()
    text = "abracadabra" * 10_000
    assert bpe.decode(bpe.encode(text)) == text
    assert time.process_time() - start < 10


def test_importing_the_module_loads_no_framework():
    code = (
        "import sys, aigc_utils.tokenizer; "
        "sys.exit(any(m in sys.modules for m in ('tokenizers', 'torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
