"""Checkers and hints of lesson 02's exercises (merge, encode, bits per character, budget)."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints
from aigc_utils.tokenizer import BPETokenizer

Word = tuple[str, ...]
StringPair = tuple[str, str]

HINTS: HintTable = {
    "merge_step": (
        "A word that stands 10 times brings each of its pairs 10 times. Where does your count "
        "see that number?",
        "Count first, over all words, and only then glue. For the gluing build a new list and look "
        "at its last token: does it make the pair with the token that comes next?",
        "counts[pair] += count for each pair in pairwise(word); best = max(counts, "
        "key=counts.get). While gluing: if glued and (glued[-1], token) == best, replace glued[-1] "
        "by the two joined; otherwise append token.",
    ),
    "encode_word": (
        "Take the word abc and the merges b+c, a+b, in this order. Which of the two was learned "
        "first, and which one stands first in the word?",
        "Encoding replays the training: the loop over merges is outside, the walk through the word "
        "is inside. Each merge works on what the earlier ones have left.",
        "tokens = list(word); for pair in merges: tokens = glue(tokens, pair), where glue is the "
        "function of the lesson, for strings.",
    ),
    "bits_per_character": (
        "Which unit has the loss, and how much of the text is one token?",
        "Work out the surprise of the whole text first: how many tokens does it have, and how many "
        "nats does each cost? Then change the unit, then share it out among the characters.",
        "One bit is math.log(2) nats, so a number of nats is a larger number of bits.",
    ),
    "shorten": (
        "Print the bytes of the tokens that are kept. Where does the last character end?",
        "Decoding turns a broken character into �, and a � may also stand in the text itself: it "
        "is too late to tell them apart. What do you have before you decode?",
        "Join tokenizer.vocab[i] for the ids you keep; these bytes are right up to a broken "
        "character at the very end. Look up what bytes.decode does with errors='ignore'.",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def merge_step(function: Callable[..., Any]) -> None:
    """Check ``merge_step(words)`` -> (pair, new words), both keyed by tuples of tokens."""
    rare = {("a", "b"): 1, ("c", "a", "b"): 1, ("x", "y"): 10}
    kept = dict(rare)
    best, words = _pair_and_words(function(rare))
    demand(rare == kept, "`merge_step` changes the dictionary that it was given.")
    demand(
        best != ("a", "b"),
        "`a`+`b` stands in more words, but `x`+`y` occurs more often: weigh each pair by the count "
        "of its word.",
    )
    demand(best == ("x", "y"), f"{best} is not the pair that occurs most often.")
    demand(("x", "y") not in words, "The pair is found, but the words still have it in two pieces.")
    demand(
        all(isinstance(word, tuple) for word in words),
        "Each word of the result must be a tuple of tokens, as in the input.",
    )
    demand(("xy",) in words, "The two tokens of the pair must become one: `x`, `y` → `xy`.")
    demand(
        len(words) == 3 and {("a", "b"), ("c", "a", "b")} <= set(words),
        "Words without the pair must stay in the result, unchanged.",
    )
    demand(words[("xy",)] == 10, "The words must keep their counts, and `xy` has lost its own.")

    best, _ = _pair_and_words(function({("n", "a", "n", "a", "n", "a"): 2, ("c", "a"): 5}))
    demand(
        best == ("n", "a"),
        "A pair that stands three times in a word counts three times whenever the word occurs.",
    )
    _, words = _pair_and_words(function({("a", "b", "c", "a", "b"): 2}))
    demand(
        ("ab", "c", "ab") in words,
        "A word can hold the pair more than once, and each place must be glued.",
    )
    _, words = _pair_and_words(function({("a", "a", "a"): 1}))
    demand(
        ("aa", "a") in words,
        "In `a a a` the pair fits at two places that overlap: glue from the left, and use each "
        "token once.",
    )
    best, _ = _pair_and_words(function({("lo", "w"): 3, ("l", "o"): 2, ("lo",): 9}))
    demand(best == ("lo", "w"), "Tokens may be longer than one character, and pairs are of tokens.")
    praise("every count weighs, every place is glued, and nothing else changes.")


def encode_word(function: Callable[..., Any]) -> None:
    """Check ``encode_word(word, merges)`` -> list of tokens, merges oldest first."""
    _demand_tokens(function, "low", [("l", "o"), ("lo", "w")])
    demand(
        list(function("low", [("l", "o"), ("lo", "w")])) == ["low"],
        "A merge can use what an earlier merge has made: `lo`+`w` follows `l`+`o`.",
    )
    merges = [("c", "d"), ("b", "c"), ("a", "bc")]
    tokens = list(function("abcd", merges))
    demand(
        tokens != ["abc", "d"],
        "`abc` is a token, but BPE does not reach it in `abcd`: not the longest token counts, but "
        "the merge that was learned first.",
    )
    demand(
        tokens != ["a", "bc", "d"],
        "In `abcd` the pair `b`+`c` stands further left, but `c`+`d` was learned earlier: the "
        "order of learning counts, not the order of the text.",
    )
    demand(
        tokens == ["a", "b", "cd"],
        f"With the merges c+d, b+c, a+bc the word `abcd` must not be {tokens}.",
    )
    tokens = list(function("abcab", [("a", "b")]))
    demand(
        tokens == ["ab", "c", "ab"],
        "A merge applies at every place of the word, not just the first.",
    )
    tokens = list(function("aaa", [("a", "a")]))
    demand(
        tokens == ["aa", "a"],
        "In `aaa` the pair fits at two places that overlap: glue from the left, and use each "
        "token once.",
    )
    for word in ("", "a"):
        demand(
            list(function(word, merges)) == list(word), f"The word {word!r} has nothing to glue."
        )

    random_words = random.Random(0)
    for _ in range(200):
        text = ["".join(random_words.choices("abc", k=8)) for _ in range(3)]
        merges, word = _learn(text, 6), "".join(random_words.choices("abc", k=12))
        tokens = _demand_tokens(function, word, merges)
        demand(
            tokens == _replay(word, merges),
            f"With the merges {merges} the word {word!r} must not be {tokens}: replay the "
            f"merges one after the other.",
        )
    praise("the oldest merge comes first, wherever it stands.")


def bits_per_character(function: Callable[..., Any]) -> None:
    """Check ``bits_per_character(mean_loss, n_tokens, n_characters)``, the loss in nats a token."""
    loss, n_tokens, n_characters = 3.1, 200, 700
    score = function(loss, n_tokens, n_characters)
    answered(score, "bits_per_character")
    demand(isinstance(score, float | int), f"The score must be a number, not {score!r}.")
    truth = loss / math.log(2) * n_tokens / n_characters
    slips = {
        loss / math.log(2): "This is bits per *token*: share the bits out among the characters.",
        loss * n_tokens / n_characters: "This is *nats* per character: the loss uses the natural "
        "logarithm, so change nats into bits.",
        loss * math.log(2) * n_tokens / n_characters: "The unit is changed the wrong way: a bit is "
        "smaller than a nat, so there are more of them.",
        loss / math.log(2) * n_characters / n_tokens: "Tokens and characters have changed places: "
        "a token is longer than a character, so each character costs less.",
        loss / math.log(2) / n_characters: "This is one token's surprise: the text has n_tokens of "
        "them.",
        math.exp(loss): "This is the perplexity, which is not comparable across tokenizers.",
    }
    for slip, sentence in slips.items():
        demand(not math.isclose(score, slip, rel_tol=1e-3), sentence)
    demand(
        math.isclose(score, truth, rel_tol=1e-6),
        f"For a loss of {loss}, {n_tokens} tokens and {n_characters} characters the score is not "
        f"{score:.4g}.",
    )
    demand(
        math.isclose(function(math.log(2), 10, 10), 1),
        "A loss of ln 2 nats, with one token a character, is one bit per character.",
    )
    praise("this number may be compared with any other tokenizer's.")


def shorten(function: Callable[..., Any]) -> None:
    """Check ``shorten(text, budget, tokenizer)`` -> the whole characters of the first tokens."""
    trained = BPETokenizer.train("the cat sat on the mat, and then the cat sat still. " * 3, 270)
    texts = ["the cat sat on 人工智能", "人工智能技术", "a\ufffd\ufffdb", "🎩🎩 naïve", ""]
    for tokenizer in (BPETokenizer(), trained):
        for text in texts:
            ids = tokenizer.encode(text)
            for budget in range(len(ids) + 3):
                _check_cut(function(text, budget, tokenizer), text, budget, tokenizer)
    praise("within the budget, no character broken, none given away.")


def _check_cut(cut: Any, text: str, budget: int, tokenizer: BPETokenizer) -> None:
    answered(cut, "shorten")
    demand(isinstance(cut, str), f"`shorten` must return text, not {type(cut).__name__}.")
    case = f"`shorten({text!r}, {budget}, …)`"
    demand(
        text.startswith(cut) or not cut.endswith("\ufffd"),
        f"{case} ends in half a character: the cut falls inside it, and decoding writes �.",
    )
    demand(text.startswith(cut), f"{case} is not the beginning of the text.")
    demand(
        len(tokenizer.encode(cut)) <= budget,
        f"{case} costs {len(tokenizer.encode(cut))} tokens: the budget counts tokens, not "
        f"characters.",
    )
    spelled = b"".join(tokenizer.vocab[i] for i in tokenizer.encode(text)[:budget])
    longest = spelled.decode("utf-8", errors="ignore")
    demand(
        len(cut) >= len(longest) or "\ufffd" not in longest,
        f"{case} drops a � that stands in the text itself, and whose tokens are all there.",
    )
    demand(
        len(cut) >= len(longest),
        f"{case} gives away characters that the first {budget} tokens spell completely.",
    )


def _pair_and_words(result: Any) -> tuple[StringPair, dict[Word, int]]:
    answered(result, "merge_step")
    demand(
        isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict),
        "`merge_step` must return two things: the pair, and the dictionary of new words.",
    )
    pair, words = result
    demand(
        isinstance(pair, tuple) and len(pair) == 2,
        f"The first thing returned must be the pair, a tuple of two tokens, not {pair!r}.",
    )
    return pair, words


def _demand_tokens(
    function: Callable[..., Any], word: str, merges: Sequence[StringPair]
) -> list[str]:
    tokens = function(word, merges)
    answered(tokens, "encode_word")
    demand(
        isinstance(tokens, list | tuple) and all(isinstance(token, str) for token in tokens),
        "`encode_word` must return a list of strings, the tokens.",
    )
    demand(
        "".join(tokens) == word,
        f"The tokens {list(tokens)} do not spell the word {word!r}: nothing may be lost or added.",
    )
    return list(tokens)


def _replay(word: str, merges: Sequence[StringPair]) -> list[str]:
    tokens = list(word)
    for pair in merges:
        glued: list[str] = []
        for token in tokens:
            if glued and (glued[-1], token) == pair:
                glued[-1] += token
            else:
                glued.append(token)
        tokens = glued
    return tokens


def _learn(text: Sequence[str], n_merges: int) -> list[StringPair]:
    merges: list[StringPair] = []
    for _ in range(n_merges):
        counts = Counter(pair for word in text for pair in pairwise(_replay(word, merges)))
        if not counts:
            break
        merges.append(max(counts, key=counts.__getitem__))
    return merges
