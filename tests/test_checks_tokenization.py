"""Lesson 02: right answers of every style pass, wrong ones get the sentence that fits."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

import nbformat
import numpy as np
from graded import CheckerTests, assert_refused, run_answer

from aigc_utils.checks import tokenization as check
from aigc_utils.tokenizer import BPETokenizer


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"re": re, "Counter": Counter, "pairwise": pairwise, "BPETokenizer": BPETokenizer}
    return run_answer(notebook, name, space)


# --- 1 · merge ------------------------------------------------------------------------------------


def glue(word, pair):
    glued = []
    for token in word:
        if glued and (glued[-1], token) == pair:
            glued[-1] += token
        else:
            glued.append(token)
    return tuple(glued)


def glue_by_index(word, pair):
    tokens, i = list(word), 0
    while i < len(tokens) - 1:
        if tokens[i] == pair[0] and tokens[i + 1] == pair[1]:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        i += 1
    return tuple(tokens)


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


def glue_text(word, pair):
    return tuple(" ".join(word).replace(" ".join(pair), "".join(pair)).split(" "))


def glue_last_first(word, pair):
    tokens = list(word)
    for i in range(len(tokens) - 2, -1, -1):
        if tuple(tokens[i : i + 2]) == pair:
            tokens[i : i + 2] = ["".join(pair)]
    return tuple(tokens)


def step(
    weighted=True,
    once_a_word=False,
    glue=glue,
    keep=lambda count: count,
    best=lambda counts: max(counts, key=counts.get),
):
    """One merge with one thing left out."""

    def merge_step(words):
        counts = Counter()
        for word, count in words.items():
            pairs = list(pairwise(word))
            for pair in dict.fromkeys(pairs) if once_a_word else pairs:
                counts[pair] += count if weighted else 1
        pair = best(counts)
        return pair, {glue(word, pair): keep(count) for word, count in words.items()}

    return merge_step


def step_with_loops(words):
    counts = defaultdict(int)
    for word in words:
        for i in range(len(word) - 1):
            counts[word[i], word[i + 1]] += words[word]
    best, most = None, 0
    for pair, count in counts.items():
        if count > most:
            best, most = pair, count
    return [list(best), {glue_by_index(word, best): words[word] for word in words}]


def step_most_common(words):
    counts = Counter(pair for w, n in words.items() for _ in range(n) for pair in pairwise(w))
    pair = counts.most_common(1)[0][0]
    return pair, Counter({glue(word, pair): n for word, n in words.items()})


def step_in_place(words):
    best, new = step()(words)
    words.clear()
    words.update(new)
    return best, words


def only_words_with_the_pair(words):
    best, new = step()(words)
    return best, {word: count for word, count in new.items() if "".join(best) in word}


# --- 2 · encode -----------------------------------------------------------------------------------


def replay(glue):
    def encode_word(word, merges):
        tokens = tuple(word)
        for pair in merges:
            tokens = glue(tokens, pair)
        return list(tokens)

    return encode_word


def by_rank_step_by_step(word, merges):
    """Look for the oldest pair that stands in the word, again and again."""
    tokens = list(word)
    while True:
        pairs = [pair for pair in pairwise(tokens) if pair in merges]
        if not pairs:
            return tokens
        tokens = list(glue(tokens, min(pairs, key=merges.index)))


def by_rank_one_place_at_a_time(word, merges):
    ranks, tokens = {pair: i for i, pair in enumerate(merges)}, list(word)
    while len(tokens) > 1:
        rank, i = min((ranks.get(p, 10**9), i) for i, p in enumerate(pairwise(tokens)))
        if rank == 10**9:
            break
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return tuple(tokens)


def as_numpy(word, merges):
    return np.array(replay(glue_by_index)(word, merges))


def left_to_right(word, merges):
    tokens, i = list(word), 0
    while i + 1 < len(tokens):
        if (tokens[i], tokens[i + 1]) in merges:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        else:
            i += 1
    return tokens


def left_to_right_again(word, merges):
    tokens = list(word)
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) in merges:
            return left_to_right_again(
                [*tokens[:i], tokens[i] + tokens[i + 1], *tokens[i + 2 :]], merges
            )
    return tokens


def left_to_right_of_characters(word, merges):
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


def consumes_merges(word, merges):
    tokens = list(word)
    while merges:
        tokens = list(glue(tokens, merges.pop(0)))
    return tokens


def never_ends(word, merges):
    tokens = list(word)
    while any(pair in merges for pair in pairwise(tokens)):
        for pair in merges[:1]:
            tokens = list(glue(tokens, pair))
    return tokens


# --- 3 · special tokens ---------------------------------------------------------------------------


def special_by_position(text, special, tokenizer):
    ids, buffer, i = [], "", 0
    while i < len(text):
        here = [mark for mark in special if text.startswith(mark, i)]
        if here:
            mark = max(here, key=len)
            ids.extend(tokenizer.encode(buffer))
            ids.append(special[mark])
            buffer, i = "", i + len(mark)
        else:
            buffer, i = buffer + text[i], i + 1
    return ids + tokenizer.encode(buffer)


def special_recursive(text, special, tokenizer):
    found = [(text.find(mark), -len(mark), mark) for mark in special if mark in text]
    if not found:
        return tokenizer.encode(text) if text else []
    at, _, mark = min(found)
    after = special_recursive(text[at + len(mark) :], special, tokenizer)
    return [*tokenizer.encode(text[:at]), special[mark], *after]


def special_finditer(text, special, tokenizer):
    ids, end = np.array([], dtype=int), 0
    marks = sorted(special, key=lambda mark: -len(mark))
    for found in re.finditer("|".join(re.escape(mark) for mark in marks) or "(?!)", text):
        ids = np.append(ids, tokenizer.encode(text[end : found.start()]))
        ids = np.append(ids, special[found.group()])
        end = found.end()
    return np.append(ids, tokenizer.encode(text[end:])).astype(int)


def special_split(escape=True, longest=True, group=True, skip_empty=True):
    def encode_special(text, special, tokenizer):
        marks = sorted(special, key=len, reverse=True) if longest else list(special)
        pattern = "|".join(map(re.escape, marks) if escape else marks)
        ids = []
        for piece in re.split(f"({pattern})" if group else pattern, text) if special else [text]:
            ids += [special[piece]] if piece in special else tokenizer.encode(piece)
        return ids

    return encode_special


def special_one_mark_after_the_other(text, special, tokenizer):
    pieces = [text]
    for mark in sorted(special, key=len, reverse=True):
        split = []
        for piece in pieces:
            split += [piece] if piece in special else re.split(f"({re.escape(mark)})", piece)
        pieces = split
    ids = []
    for piece in pieces:
        ids.extend([special[piece]] if piece in special else tokenizer.encode(piece))
    return ids


def special_only_first(text, special, tokenizer):
    for mark, i in special.items():
        if mark in text:
            a, b = text.split(mark, 1)
            return [*tokenizer.encode(a), i, *tokenizer.encode(b)]
    return tokenizer.encode(text)


def special_through_bytes(text, special, tokenizer):
    for mark, i in special.items():
        text = text.replace(mark, chr(0xE000 + i))
    marks = {0xE000 + i for i in special.values()}
    return [
        i for c in text for i in ([ord(c) - 0xE000] if ord(c) in marks else tokenizer.encode(c))
    ]


def special_tail_lost(text, special, tokenizer):
    ids, rest = [], text
    while any(mark in rest for mark in special):
        at, _, mark = min((rest.find(m), -len(m), m) for m in special if m in rest)
        ids += [*tokenizer.encode(rest[:at]), special[mark]]
        rest = rest[at + len(mark) :]
    return ids


def special_appended(text, special, tokenizer):
    ids = special_split()(text, special, tokenizer)
    return ids + [i for mark, i in special.items() if mark not in text][:1]


# --- 4 · budget -----------------------------------------------------------------------------------


def shorten_bytes(text, budget, tokenizer):
    spelled = b"".join(tokenizer.vocab[i] for i in tokenizer.encode(text)[:budget])
    while True:
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            spelled = spelled[:-1]


def shorten_by_counting_bytes(text, budget, tokenizer):
    room = sum(len(tokenizer.vocab[i]) for i in tokenizer.encode(text)[:budget])
    kept = ""
    for character in text:
        room -= len(character.encode())
        if room < 0:
            break
        kept += character
    return kept


def shorten_prefixes(text, budget, tokenizer):
    spelled = b"".join(tokenizer.vocab[i] for i in tokenizer.encode(text)[:budget])
    return next(text[:n] for n in range(len(text), -1, -1) if spelled.startswith(text[:n].encode()))


def shorten_by_bisection(text, budget, tokenizer):
    spelled = sum(len(tokenizer.vocab[i]) for i in tokenizer.encode(text)[:budget])
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(text[:middle].encode()) <= spelled else (low, middle - 1)
    return text[:low]


def shorten_broken(text, budget, tokenizer):
    return tokenizer.decode(tokenizer.encode(text)[:budget])


def shorten_fewer_tokens(text, budget, tokenizer):
    ids = tokenizer.encode(text)[:budget]
    while ids and not text.startswith(tokenizer.decode(ids)):
        ids = ids[:-1]
    return tokenizer.decode(ids)


RIGHT = {
    "merge_step": [step(), step_with_loops, step_most_common, step(glue=glue_by_index)],
    "encode_word": [
        replay(glue),
        by_rank_step_by_step,
        by_rank_one_place_at_a_time,
        as_numpy,
    ],
    "encode_special": [
        special_by_position,
        special_recursive,
        special_finditer,
        special_split(),
        special_one_mark_after_the_other,
    ],
    "shorten": [
        shorten_bytes,
        shorten_by_counting_bytes,
        shorten_prefixes,
        shorten_by_bisection,
    ],
}

WRONG = {
    "merge_step": [
        (step(weighted=False), "weigh each pair by the count of its word"),
        (step(once_a_word=True), "three times in a word counts three times"),
        (step(best=lambda c: max(reversed(c), key=c.get)), "you take the one met last"),
        (step(best=lambda c: max(c, key=lambda p: (c[p], p))), "last in the alphabet"),
        (step(best=lambda c: min(c, key=lambda p: (-c[p], p))), "first in the alphabet"),
        (step(best=lambda c: min(c, key=c.get)), "That pair is the rarest"),
        (step(glue=glue_once), "more than once, and each place must be glued"),
        (step(glue=glue_overlapping), "`new_words` of `merge_step("),
        (step(glue=glue_last_first), "overlap: begin at the left"),
        (step(glue=glue_text), "which also fuses the ends of longer tokens"),
        (step(glue=lambda word, pair: word), "still have it in two pieces"),
        (step(glue=lambda w, p: "".join(glue(w, p))), "a dictionary from tuples of tokens"),
        (step(glue=lambda w, p: tuple("".join(glue(w, p)))), "`new_words` of `merge_step({"),
        (step(keep=lambda count: 1), "must keep their counts"),
        (step(keep=lambda count: count + 1), "must have 2 for ('a', 'a'), and has 3"),
        (step_in_place, "changes its input `words`"),
        (only_words_with_the_pair, "Words without the pair must stay"),
        (lambda words: step()(words)[0], "must be the pair, a tuple of two tokens, not 'b'"),
        (lambda words: step()(words)[1], "must return 2 things (pair, new_words)"),
        (lambda words: step()(words)[::-1], "must be the pair, a tuple of two tokens, not {"),
        (lambda words: ("xy", step()(words)[1]), "must be the pair, a tuple"),
        (lambda words: (step()(words)[0], list(step()(words)[1])), "a dictionary from tuples"),
    ],
    "encode_word": [
        (left_to_right, "You walk through the word once and glue whatever fits"),
        (left_to_right_again, "You glue whatever fits, from the left"),
        (left_to_right_of_characters, "`encode_word('"),
        (longest_token, "longest known token"),
        (youngest_first, "`encode_word("),
        (lambda word, merges: replay(glue)(word, merges[::-1]), "The youngest merge comes first"),
        (replay(glue_once), "at every place of the word"),
        (replay(glue_overlapping), "does not spell the word"),
        (replay(glue_last_first), "overlap: begin at the left"),
        (replay(glue_text), "`encode_word('"),
        (lambda word, merges: [*replay(glue)(word, merges), "</w>"], "does not spell"),
        (lambda word, merges: word, "must be ['low'], and is 'low'"),
        (lambda word, merges: list(word), "Nothing is glued"),
        (lambda word, merges: replay(glue)(word, merges[:1]), "Only the first merge"),
        (lambda word, merges: replay(glue)(word, merges[:5]), "`encode_word('"),
        (lambda word, merges: " ".join(replay(glue)(word, merges)), "must be ['low'], and is"),
        (consumes_merges, "changes its input `merges`"),
        (lambda word, merges: replay(glue)(word, merges) or None, "although other inputs do"),
    ],
    "encode_special": [
        (lambda text, special, t: t.encode(text), "spelled out like any other text"),
        (special_split(escape=False), "in a pattern a mark needs re.escape"),
        (special_split(longest=False), "the longer one is meant"),
        (special_split(group=False), "The ids of the marks are missing"),
        (special_only_first, "One mark is found"),
        (special_through_bytes, "`encode_special("),
        (special_tail_lost, "What stands after the last mark gets lost"),
        (special_appended, "`encode_special("),
        (lambda text, special, t: special_split()(text, special, t)[::-1], "`encode_special("),
        (lambda text, special, t: [special_split()(text, special, t)], "`encode_special("),
        (
            lambda text, special, t: [t.encode(p) for p in text.split(next(iter(special)))],
            "`encode_special(",
        ),
        (
            lambda text, special, t: t.encode(re.sub("|".join(special), "", text)),
            "`encode_special(",
        ),
        (
            lambda text, special, t: special_split()(text.strip(), special or {"x": 1}, t),
            "`encode_special(",
        ),
    ],
    "shorten": [
        (shorten_broken, "The end is half a character"),
        (shorten_fewer_tokens, "`shorten("),
        (lambda *a: shorten_broken(*a).rstrip("\ufffd"), "A � that stands in the text itself"),
        (lambda *a: shorten_broken(*a).replace("\ufffd", ""), "A � that stands in the text"),
        (lambda *a: shorten_broken(*a).removesuffix("\ufffd"), "A � at the end is always dropped"),
        (lambda *a: shorten_broken(*a)[:-1], "The last character is always given away"),
        (lambda text, budget, t: text[:budget], "counts tokens, not characters"),
        (lambda text, budget, t: text[: budget // 4], "`shorten("),
        (
            lambda text, budget, t: text.encode()[:budget].decode(errors="ignore"),
            "counts tokens, not bytes",
        ),
        (lambda text, budget, t: text, "comes back whole"),
        (lambda text, budget, t: t.encode(text)[:budget], "must be '', and is []"),
        (lambda text, budget, t: shorten_bytes(text, budget, t).encode(), "must be '', and is b''"),
        (lambda text, budget, t: shorten_bytes(text, budget + 1, t), "`shorten("),
        (lambda text, budget, t: shorten_bytes(text, max(budget, 1), t), "`shorten("),
        (lambda text, budget, t: shorten_bytes(text, budget, t).strip(), "`shorten("),
    ],
}


def test_a_loop_that_waits_for_a_younger_merge_is_stopped(monkeypatch):
    monkeypatch.setattr("aigc_utils.checks.core.SECONDS", 0.3)
    assert_refused(check, "encode_word", never_ends, "was still running after 0.3 seconds in line")


class TestCheckers(CheckerTests):
    check, solutions = check, "02_tokenization.ipynb"
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
