"""Lesson 02: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from exercises import exercise_from
from graded import run_answer

from aigc_utils.checks import CheckFailed
from aigc_utils.checks import tokenization as check
from aigc_utils.tokenizer import BPETokenizer

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "02_tokenization.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"math": math, "Counter": Counter, "pairwise": pairwise, "BPETokenizer": BPETokenizer}
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def glue_once(word, pair):
    for i, found in enumerate(pairwise(word)):
        if found == pair:
            return (*word[:i], "".join(pair), *word[i + 2 :])
    return tuple(word)


def glue_overlapping(word, pair):
    glued = list(word)
    for i, found in enumerate(pairwise(word)):
        if found == pair:
            glued[i : i + 2] = ["".join(pair), ""]
    return tuple(token for token in glued if token)


def glue(word, pair):
    glued = []
    for token in word:
        if glued and (glued[-1], token) == pair:
            glued[-1] += token
        else:
            glued.append(token)
    return tuple(glued)


def step(weighted=True, once_a_word=False, glue=glue, keep=lambda count: count):
    """One merge with one thing left out."""

    def merge_step(words):
        counts = Counter()
        for word, count in words.items():
            pairs = list(pairwise(word))
            for pair in set(pairs) if once_a_word else pairs:
                counts[pair] += count if weighted else 1
        best = max(counts, key=counts.get)
        return best, {glue(word, best): keep(count) for word, count in words.items()}

    return merge_step


def step_in_place(words):
    best, new = step()(words)
    words.clear()
    words.update(new)
    return best, words


def only_words_with_the_pair(words):
    best, new = step()(words)
    return best, {word: count for word, count in new.items() if "".join(best) in word}


def by_rank_step_by_step(word, merges):
    """Another right way: look for the oldest pair that stands in the word, again and again."""
    tokens = list(word)
    while True:
        pairs = [pair for pair in pairwise(tokens) if pair in merges]
        if not pairs:
            return tokens
        tokens = list(glue(tokens, min(pairs, key=merges.index)))


def left_to_right(word, merges):
    tokens = list(word)
    i = 0
    while i + 1 < len(tokens):
        if (tokens[i], tokens[i + 1]) in merges:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        else:
            i += 1
    return tokens


def left_to_right_in_one_pass(word, merges):
    tokens = []
    for character in word:
        if tokens and len(tokens[-1]) == 1 and (tokens[-1], character) in merges:
            tokens[-1] += character
        else:
            tokens.append(character)
    return tokens


def longest_token(word, merges):
    known = {left + right for left, right in merges}
    tokens = []
    while word:
        n = max(n for n in range(1, len(word) + 1) if n == 1 or word[:n] in known)
        tokens.append(word[:n])
        word = word[n:]
    return tokens


def youngest_first(word, merges):
    return by_rank_step_by_step(word, merges[::-1])


def replay(glue):
    def encode_word(word, merges):
        tokens = tuple(word)
        for pair in merges:
            tokens = glue(tokens, pair)
        return list(tokens)

    return encode_word


def shorten_broken(text, budget, tokenizer):
    return tokenizer.decode(tokenizer.encode(text)[:budget])


def shorten_stripping(text, budget, tokenizer):
    return shorten_broken(text, budget, tokenizer).rstrip("\ufffd")


def shorten_replacing(text, budget, tokenizer):
    return shorten_broken(text, budget, tokenizer).replace("\ufffd", "")


def shorten_losing_the_last(text, budget, tokenizer):
    return shorten_broken(text, budget, tokenizer)[:-1]


WRONG = [
    ("merge_step", step(weighted=False), "stands in more words.*weigh each pair"),
    ("merge_step", step(once_a_word=True), "three times in a word counts three times"),
    ("merge_step", step(glue=glue_once), "more than once, and each place must be glued"),
    ("merge_step", step(glue=glue_overlapping), "overlap.*use each token once"),
    ("merge_step", step(glue=lambda word, pair: word), "still have it in two pieces"),
    ("merge_step", step(glue=lambda w, p: "".join(glue(w, p))), "must be a tuple of tokens"),
    ("merge_step", step(keep=lambda count: 1), "keep their counts"),
    ("merge_step", step_in_place, "changes the dictionary that it was given"),
    ("merge_step", only_words_with_the_pair, "Words without the pair must stay"),
    ("merge_step", lambda words: step()(words)[0], "must return two things"),
    ("merge_step", lambda words: step()(words)[::-1], "must return two things"),
    ("merge_step", lambda words: ("xy", step()(words)[1]), "must be the pair, a tuple"),
    ("encode_word", left_to_right, "stands further left, but .* learned earlier"),
    ("encode_word", left_to_right_in_one_pass, "can use what an earlier merge has made"),
    ("encode_word", longest_token, "not the longest token counts"),
    ("encode_word", youngest_first, "the merge that was learned first"),
    ("encode_word", replay(glue_once), "at every place of the word"),
    ("encode_word", replay(glue_overlapping), "overlap.*use each token once"),
    ("encode_word", lambda word, merges: [*replay(glue)(word, merges), "</w>"], "do not spell"),
    ("encode_word", lambda word, merges: word, "must return a list of strings"),
    ("encode_word", lambda word, merges: replay(glue)(word, merges[:5]), "replay the merges"),
    ("bits_per_character", lambda loss, t, c: loss / math.log(2), "bits per \\*token\\*"),
    ("bits_per_character", lambda loss, t, c: loss * t / c, "\\*nats\\* per character"),
    ("bits_per_character", lambda loss, t, c: loss * math.log(2) * t / c, "the wrong way"),
    ("bits_per_character", lambda loss, t, c: loss / math.log(2) * c / t, "changed places"),
    ("bits_per_character", lambda loss, t, c: loss / math.log(2) / c, "one token's surprise"),
    ("bits_per_character", lambda loss, t, c: math.exp(loss), "perplexity"),
    ("bits_per_character", lambda loss, t, c: "5", "must be a number"),
    ("bits_per_character", lambda loss, t, c: 1.0, "the score is not 1"),
    ("shorten", shorten_broken, "ends in half a character"),
    ("shorten", shorten_stripping, "drops a � that stands in the text itself"),
    ("shorten", shorten_replacing, "drops a � that stands in the text itself"),
    ("shorten", shorten_losing_the_last, "gives away characters"),
    ("shorten", lambda text, budget, t: text[:budget], "counts tokens, not characters"),
    ("shorten", lambda text, budget, t: text[: budget // 4], "gives away characters"),
    ("shorten", lambda text, budget, t: t.encode(text)[:budget], "must return text, not list"),
    ("shorten", lambda text, budget, t: "summary", "not the beginning of the text"),
]


@pytest.mark.parametrize("name", NAMES)
def test_solution_passes_with_one_line_of_praise(name, capsys):
    assert getattr(check, name)(solution(name)) is None
    praise = capsys.readouterr().out.splitlines()[-1:]
    assert praise and praise[0].startswith("Right: ")


def test_another_right_way_passes():
    check.encode_word(by_rank_step_by_step)
    check.merge_step(step())


@pytest.mark.parametrize("name", NAMES)
def test_unsolved_exercise_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    with pytest.raises(CheckFailed, match="gives nothing back yet"):
        getattr(check, name)(stub)


@pytest.mark.parametrize(("name", "function", "sentence"), WRONG)
def test_wrong_answer_gets_its_sentence(name, function, sentence):
    with pytest.raises(CheckFailed, match=sentence) as failure:
        getattr(check, name)(function)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", NAMES)
def test_hints_come_in_three_levels(name, capsys):
    for level in (1, 2, 3):
        check.hint(name, level)
        assert capsys.readouterr().out.startswith(f"Hint {level} of 3: ")
