"""Checkers and hints of lesson 02's exercises (merge, encode, special tokens, budget)."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from aigc_utils.checks import (
    Answer,
    HintTable,
    Slips,
    demand,
    exercise,
    read_several,
    show_hint,
    show_hints,
)
from aigc_utils.checks.core import Found
from aigc_utils.tokenizer import BPETokenizer

Word = tuple[str, ...]
StringPair = tuple[str, str]

HINTS: HintTable = {
    "merge_step": (
        "A word that stands 10 times brings each of its pairs 10 times. Where does your count "
        "see that number?",
        "Count first, over all words, and only then glue. For the gluing build a new list and look "
        "at its last token: does it make the pair with the token that comes next?",
        "max(counts, key=counts.get) takes the first of equals, and a dict remembers what came "
        "first. While gluing there are two cases for each token: it joins glued[-1], or it is "
        "appended.",
    ),
    "encode_word": (
        "Take the word abc and the merges b+c, a+b, in this order. Which of the two was learned "
        "first, and which one stands first in the word?",
        "Encoding replays the training: the loop over merges is outside, the walk through the word "
        "is inside. Each merge works on what the earlier ones have left.",
        "Begin with list(word) and let every merge make a new list, by the gluing of exercise 1.",
    ),
    "encode_special": (
        "Write down by hand the stretches of `a<|x|><|x|>b`: which of them are marks, which are "
        "text, and which are empty?",
        "re.split with a *group* around the pattern keeps what it splits at. `|` means “or” in a "
        "pattern: re.escape takes such meanings away.",
        "In a pattern the alternative that is written first wins: put the longer marks first. "
        "Then every piece is either a key of `special` or goes to tokenizer.encode; and what is "
        "the pattern when `special` is empty?",
    ),
    "shorten": (
        "Print the bytes of the tokens that are kept. Where does the last character end?",
        "Decoding turns a broken character into �, and a � may also stand in the text itself: it "
        "is too late to tell them apart. What do you have before you decode?",
        "Join tokenizer.vocab[i] for the ids you keep; these bytes are right up to a broken "
        "character at the very end. Look up the `errors` of bytes.decode.",
    ),
}

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · merge ------------------------------------------------------------------------------------


@exercise("02")
def merge_step(answer: Answer) -> str:
    """Check ``merge_step(words)`` -> (pair, new words), both keyed by tuples of tokens."""
    corpora: list[dict[Word, int]] = [
        {tuple("aa"): 2, tuple("acbbb"): 2, tuple("dadba"): 4, tuple("ac"): 1},
        {("a", "b"): 1, ("c", "a", "b"): 1, ("x", "y"): 10},
        {("n", "a", "n", "a", "n", "a"): 2, ("c", "a"): 5},
        {("a", "b", "c", "a", "b"): 2, ("d",): 1},
        {("a", "a", "a"): 1, ("a", "a", "a", "a", "a"): 1},
        {("lo", "w"): 3, ("l", "o"): 2, ("lo",): 9},
        {("b", "x"): 2, ("d", "y"): 2, ("a", "z"): 2, ("c", "w"): 2},
        {("a", "z"): 1, ("z", "a"): 3, ("y", "b"): 2, ("y", "b", "c"): 1},
        {("a", "b"): 5, ("xa", "b"): 2, ("a", "bx"): 2, ("xa", "bx"): 1},
        {(" ", "t"): 4, ("a", " ", "t"): 1, ("b", " "): 3},
        {tuple("low"): 5, tuple("lower"): 2, tuple("newest"): 6, tuple("widest"): 3},
    ]
    rng = random.Random(0)
    for _ in range(60):
        drawn = [tuple(rng.choices("abc", k=rng.randint(1, 7))) for _ in range(6)]
        corpora.append({word: rng.randint(1, 4) for word in drawn} | {("b", "a"): 1})
    pairs: list[Found] = []
    glued: list[Found] = []
    for words in corpora:
        pair, new_words = read_several(answer(words), "merge_step", ("pair", "new_words"))
        demand(
            isinstance(pair, tuple | list) and len(pair) == 2,
            f"The first thing returned must be the pair, a tuple of two tokens, not {pair!r}.",
        )
        demand(
            isinstance(new_words, dict) and all(isinstance(word, tuple) for word in new_words),
            "The second thing returned must be a dictionary from tuples of tokens to counts, as in "
            "the input.",
        )
        right_pair, right_words = _merge(words)
        pairs.append(((words,), pair, right_pair))
        glued.append(((words,), new_words, right_words))
    counting = [(partial(_part, 0, slip), sentence) for slip, sentence in _COUNTING_SLIPS]
    gluing = [(partial(_part, 1, slip), sentence) for slip, sentence in _GLUING_SLIPS]
    answer.judge(pairs, counting, "pair")
    answer.judge(glued, gluing, "new_words")
    return "every count weighs, every place is glued, and nothing else changes."


def _glue(word: Sequence[str], pair: StringPair) -> Word:
    glued: list[str] = []
    for token in word:
        if glued and (glued[-1], token) == pair:
            glued[-1] += token
        else:
            glued.append(token)
    return tuple(glued)


def _glue_once(word: Sequence[str], pair: StringPair) -> Word:
    for i, found in enumerate(pairwise(word)):
        if found == pair:
            return (*word[:i], "".join(pair), *word[i + 2 :])
    return tuple(word)


def _glue_from_the_right(word: Sequence[str], pair: StringPair) -> Word:
    turned = _glue([token[::-1] for token in word[::-1]], (pair[1][::-1], pair[0][::-1]))
    return tuple(token[::-1] for token in turned[::-1])


def _glue_as_text(word: Sequence[str], pair: StringPair, border: str | None = None) -> Word:
    return tuple(" ".join(word).replace(" ".join(pair), "".join(pair)).split(border))


def _first(counts: Mapping[StringPair, int]) -> StringPair:
    return max(counts, key=counts.__getitem__)


def _merge(
    words: Mapping[Word, int],
    weighted: bool = True,
    once_a_word: bool = False,
    best: Callable[[Mapping[StringPair, int]], StringPair] = _first,
    glue: Callable[[Sequence[str], StringPair], Word] = _glue,
    count: Callable[[int], int] = lambda n: n,
) -> tuple[StringPair, dict[Word, int]]:
    """One merge, or with an option the mistake to recognise it by."""
    counts: Counter[StringPair] = Counter()
    for word, n in words.items():
        pairs: Iterable[StringPair] = pairwise(word)
        for pair in dict.fromkeys(pairs) if once_a_word else pairs:
            counts[pair] += n if weighted else 1
    pair = best(counts)
    return pair, {glue(word, pair): count(n) for word, n in words.items()}


def _part(place: int, wrong: Callable[..., Any], words: dict[Word, int]) -> Any:
    return wrong(words)[place]


_COUNTING_SLIPS: Slips = [
    (
        partial(_merge, weighted=False),
        "The pair that stands in the most words is not the one that occurs most often: weigh each "
        "pair by the count of its word.",
    ),
    (
        partial(_merge, once_a_word=True),
        "A pair that stands three times in a word counts three times whenever the word occurs.",
    ),
    (
        partial(_merge, best=lambda c: _first(dict(list(c.items())[::-1]))),
        "Of equally frequent pairs you take the one met last: take the first.",
    ),
    (
        partial(_merge, best=lambda c: max(c, key=lambda pair: (c[pair], pair))),
        "Of equally frequent pairs you take the last in the alphabet: take the one met first.",
    ),
    (
        partial(_merge, best=lambda c: min(c, key=lambda pair: (-c[pair], pair))),
        "Of equally frequent pairs you take the first in the alphabet: take the one met first.",
    ),
    (
        partial(_merge, best=lambda c: min(c, key=c.__getitem__)),
        "That pair is the rarest: the one that occurs most often is asked for.",
    ),
]
_TEXT = (
    "You replace text, which also fuses the ends of longer tokens or loses a space: compare whole "
    "tokens."
)
_GLUING_SLIPS: Slips = [
    (
        partial(_merge, glue=lambda word, pair: tuple(word)),
        "The pair is found, but the words still have it in two pieces.",
    ),
    (
        partial(_merge, glue=_glue_once),
        "A word can hold the pair more than once, and each place must be glued.",
    ),
    (
        partial(_merge, glue=_glue_from_the_right),
        "In `a a a` the pair fits at two places that overlap: begin at the left.",
    ),
    (partial(_merge, glue=_glue_as_text), _TEXT),
    (partial(_merge, glue=partial(_glue_as_text, border=" ")), _TEXT),
    (
        lambda words: (None, {w: n for w, n in _merge(words)[1].items() if w not in words}),
        "Words without the pair must stay in the result, unchanged.",
    ),
    (partial(_merge, count=lambda n: 1), "The words must keep their counts."),
]


# --- 2 · encode -----------------------------------------------------------------------------------


@exercise("02")
def encode_word(answer: Answer) -> str:
    """Check ``encode_word(word, merges)`` -> list of tokens, merges oldest first."""
    merges = [("c", "d"), ("b", "c"), ("a", "bc")]
    cases: list[tuple[str, list[StringPair]]] = [
        ("low", [("l", "o"), ("lo", "w")]),
        ("abcd", merges),
        ("abcab", [("a", "b")]),
        ("aaa", [("a", "a")]),
        ("aaaaaaa", [("a", "a"), ("aa", "aa")]),
        ("lowest", [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w")]),
        ("", merges),
        ("a", merges),
        ("abcd", []),
        ("abab", [("b", "a"), ("a", "b")]),
        (
            "abbabccccc",
            [("c", "c"), ("b", "b"), ("a", "c"), ("a", "bb"), ("cc", "c"), ("b", "c")],
        ),
    ]
    rng = random.Random(0)
    for _ in range(200):
        text = ["".join(rng.choices("abc", k=8)) for _ in range(3)]
        cases.append(("".join(rng.choices("abc", k=12)), _learn(text, 7)))
    for word, learned in cases:
        tokens = answer(word, learned)
        if isinstance(tokens, list | tuple) and all(isinstance(token, str) for token in tokens):
            demand(
                "".join(tokens) == word,
                f"{answer.case(word, learned)} gives {list(tokens)}, which does not spell the "
                "word: nothing may be lost or added.",
            )
    answer.compare(cases, _replay, _ENCODING_SLIPS)
    return "the oldest merge comes first, wherever it stands."


def _replay(
    word: str,
    merges: Sequence[StringPair],
    glue: Callable[[Sequence[str], StringPair], Word] = _glue,
) -> list[str]:
    tokens: Sequence[str] = list(word)
    for pair in merges:
        tokens = glue(tokens, pair)
    return list(tokens)


def _learn(text: Sequence[str], n_merges: int) -> list[StringPair]:
    merges: list[StringPair] = []
    for _ in range(n_merges):
        counts = Counter(pair for word in text for pair in pairwise(_replay(word, merges)))
        if not counts:
            break
        merges.append(max(counts, key=counts.__getitem__))
    return merges


def _left_to_right(word: str, merges: Sequence[StringPair]) -> list[str]:
    """Glue whatever can be glued, from the left, and begin again after each gluing."""
    tokens, i = list(word), 0
    while i + 1 < len(tokens):
        if (tokens[i], tokens[i + 1]) in merges:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
            i = 0
        else:
            i += 1
    return tokens


def _once_through(word: str, merges: Sequence[StringPair]) -> list[str]:
    """Glue what can be glued, from the left, in one walk that looks at the token it has made."""
    tokens: list[str] = []
    for character in word:
        if tokens and (tokens[-1], character) in merges:
            tokens[-1] += character
        else:
            tokens.append(character)
    return tokens


def _longest_token(word: str, merges: Sequence[StringPair]) -> list[str]:
    known, tokens = {left + right for left, right in merges}, []
    while word:
        n = max(n for n in range(1, len(word) + 1) if n == 1 or word[:n] in known)
        tokens.append(word[:n])
        word = word[n:]
    return tokens


_IN_ORDER = "the order of learning counts, not the order of the text."
_ENCODING_SLIPS: Slips = [
    (_longest_token, "You take the longest known token, which BPE may never reach: replay merges."),
    (_left_to_right, f"You glue whatever fits, from the left: {_IN_ORDER}"),
    (_once_through, f"You walk through the word once and glue whatever fits: {_IN_ORDER}"),
    (
        lambda word, merges: _replay(word, merges[::-1]),
        "The youngest merge comes first with you, and the oldest must.",
    ),
    (
        partial(_replay, glue=_glue_once),
        "A merge applies at every place of the word, not just the first.",
    ),
    (
        partial(_replay, glue=_glue_from_the_right),
        "In `aaa` the pair fits at two places that overlap: begin at the left.",
    ),
    (
        lambda word, merges: list(word),
        "Nothing is glued: every merge whose pair stands in the word must be applied.",
    ),
    (
        lambda word, merges: _replay(word, merges[:1]),
        "Only the first merge is applied: go through all of them.",
    ),
    (
        lambda word, merges: _replay(word, [pair for pair in merges if len("".join(pair)) == 2]),
        "A merge can use what an earlier merge has made: `lo`+`w` follows `l`+`o`.",
    ),
]


# --- 3 · special tokens ---------------------------------------------------------------------------


@exercise("02")
def encode_special(answer: Answer) -> str:
    """Check ``encode_special(text, special, tokenizer)`` -> ids, one for each mark."""
    trained = BPETokenizer.train("the cat sat on the mat, and then the cat sat still. " * 3, 270)
    end, start, turn = "<|end|>", "<|start|>", "<|end|>\n<|start|>"
    cases = [
        (f"the cat{end}sat", {end: 1000}, trained),
        (f"{start}the cat{end}", {end: 1000, start: 1001}, trained),
        (f"the cat{end}{end}the mat{end}", {end: 300}, BPETokenizer()),
        (f"a{start}b", {start: 1001, end: 1000}, BPETokenizer()),
        (f"the |end| <end> of{start}it", {end: 1000}, trained),
        (f"a{end}\n{start}b{end}", {end: 1000, start: 1001, turn: 1002}, trained),
        (f"a{end}\n{start}b{end}", {turn: 1002, start: 1001, end: 1000}, trained),
        (f"Hut 🎩{end} 人工", {end: 1000}, BPETokenizer()),
        ("2+2=4 or 22=4? [x] (yes)", {"2+2": 700, "[x]": 701, "(yes)": 702, ".": 703}, trained),
        (f"the cat {end} sat", {}, trained),
        ("the cat sat", {end: 1000}, trained),
        (end, {end: 1000}, trained),
        (f" the cat {end}\n sat ", {end: 1000}, trained),
        ("", {end: 1000}, trained),
    ]
    answer.compare(cases, _encode_special, _SPECIAL_SLIPS)
    return "a mark is one id, and all else is text."


def _pieces(text: str, special: Mapping[str, int], escape: bool, longest: bool) -> list[str]:
    marks = sorted(special, key=len, reverse=True) if longest else list(special)
    pattern = "|".join(map(re.escape, marks) if escape else marks)
    return re.split(f"({pattern})", text) if special else [text]


def _encode_special(
    text: str,
    special: Mapping[str, int],
    tokenizer: BPETokenizer,
    escape: bool = True,
    longest: bool = True,
    keep: bool = True,
) -> list[int]:
    ids: list[int] = []
    for piece in _pieces(text, special, escape, longest):
        if piece in special:
            ids += [special[piece]] if keep else []
        elif piece:
            ids += tokenizer.encode(piece)
    return ids


def _first_mark_only(text: str, special: Mapping[str, int], tokenizer: BPETokenizer) -> list[int]:
    for mark in special:
        before, found, after = text.partition(mark)
        if found:
            return [*tokenizer.encode(before), special[mark], *tokenizer.encode(after)]
    return tokenizer.encode(text)


def _without_the_tail(text: str, special: Mapping[str, int], tokenizer: BPETokenizer) -> list[int]:
    pieces = _pieces(text, special, True, True)
    if len(pieces) == 1:
        return []
    return _encode_special(text[: len(text) - len(pieces[-1])], special, tokenizer)


_SPECIAL_SLIPS: Slips = [
    (
        lambda text, special, tokenizer: tokenizer.encode(text),
        "The marks are spelled out like any other text: each must become its one id (and in a "
        "pattern a mark needs re.escape).",
    ),
    (
        partial(_encode_special, keep=False),
        "The ids of the marks are missing: only the text between them is there.",
    ),
    (
        partial(_encode_special, escape=False),
        "The marks are used as a pattern, in which `|` means “or” and `+` “once or more”: "
        "re.escape takes these meanings away.",
    ),
    (
        partial(_encode_special, longest=False),
        "Where two marks fit at the same place, the longer one is meant.",
    ),
    (_first_mark_only, "One mark is found, and a text can hold many."),
    (_without_the_tail, "What stands after the last mark gets lost."),
]


# --- 4 · budget -----------------------------------------------------------------------------------


@exercise("02")
def shorten(answer: Answer) -> str:
    """Check ``shorten(text, budget, tokenizer)`` -> the whole characters of the first tokens."""
    trained = BPETokenizer.train("the cat sat on the mat, and then the cat sat still. " * 3, 270)
    texts = ["the cat sat on 人工智能", "人工智能技术", "a\ufffd\ufffdb", "🎩🎩 naïve", ""]
    cases = [
        (text, budget, tokenizer)
        for text in texts
        for tokenizer in (BPETokenizer(), trained)
        for budget in range(len(tokenizer.encode(text)) + 3)
    ]
    answer.compare(cases, _whole_characters, _SHORTENING_SLIPS)
    return "within the budget, no character broken, none given away."


def _whole_characters(text: str, budget: int, tokenizer: BPETokenizer) -> str:
    spelled = b"".join(tokenizer.vocab[i] for i in tokenizer.encode(text)[:budget])
    return spelled.decode("utf-8", errors="ignore")


def _broken(text: str, budget: int, tokenizer: BPETokenizer) -> str:
    return tokenizer.decode(tokenizer.encode(text)[:budget])


_SHORTENING_SLIPS: Slips = [
    (_broken, "The end is half a character: the cut falls inside it, and decoding writes �."),
    (
        lambda *inputs: _broken(*inputs).rstrip("\ufffd"),
        "A � that stands in the text itself is dropped, although its tokens are all there.",
    ),
    (
        lambda *inputs: _broken(*inputs).replace("\ufffd", ""),
        "A � that stands in the text itself is dropped, although its tokens are all there.",
    ),
    (
        lambda *inputs: _broken(*inputs).removesuffix("\ufffd"),
        "A � at the end is always dropped: it may stand in the text itself, with all its tokens.",
    ),
    (lambda *inputs: _broken(*inputs)[:-1], "The last character is always given away."),
    (lambda text, budget, _: text[:budget], "The budget counts tokens, not characters."),
    (
        lambda text, budget, _: text.encode()[:budget].decode(errors="ignore"),
        "The budget counts tokens, not bytes.",
    ),
    (lambda text, budget, _: text, "The text comes back whole, whatever the budget is."),
]
