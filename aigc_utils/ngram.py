"""Counting models of text: the character n-grams that a GPT has to beat (lesson 04).

Interpolated Kneser–Ney smoothing (Kneser & Ney, *Improved backing-off for m-gram language
modeling*, 1995; formula and discount as in Chen & Goodman, *An empirical study of smoothing
techniques for language modeling*, 1999, sections 2.7 and 4). For a context h of n − 1 characters,
and h′, which is h without its first:

    P(c | h) = max(N(hc) − D, 0) / N(h·)  +  D · |{c′ : N(hc′) > 0}| / N(h·) · P(c | h′)

At the longest order N counts how often a string occurs; below it, in how many different strings
one character longer it stands at the end. The last P, of no context at all, is uniform. The
*modified* form (Chen and Goodman's own) has three discounts D in place of one: for counts of 1,
of 2, and of 3 or more. `KneserNey` is the model of one text; `chances` computes the same numbers
for every place of a text at once, with arrays in place of dictionaries, for a model that is to
learn from them.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class _Level:
    """The counts of one order: strings of n characters, grouped by their first n − 1."""

    counts: dict[str, int]  # N(hc)
    totals: dict[str, int]  # N(h·), the sum over all c
    saved: dict[str, float]  # what the discounts take from all hc together
    discounts: tuple[float, float, float]  # D of the counts 1, 2, and 3 or more

    @classmethod
    def of(cls, counts: Counter[str], modified: bool) -> Self:
        discounts = _discounts(Counter(counts.values()), modified)
        totals: Counter[str] = Counter()
        saved: defaultdict[str, float] = defaultdict(float)
        for string, count in counts.items():
            totals[string[:-1]] += count
            saved[string[:-1]] += discounts[min(count, 3) - 1]
        return cls(counts, totals, saved, discounts)

    def kept(self, string: str) -> float:
        """What the discount leaves of the count of ``string``."""
        count = self.counts.get(string, 0)
        return count - self.discounts[min(count, 3) - 1] if count else 0.0


def _discounts(how_many: Counter[int], modified: bool) -> tuple[float, float, float]:
    """Return D of the counts 1, 2, and 3 or more, as held-out counts ask for it.

    ``how_many[n]`` strings occur n times. One D for all: Ney, Essen and Kneser (1994); three:
    Chen and Goodman (1999). A text too small to estimate three gets one.
    """
    n1, n2, n3, n4 = (how_many[n] for n in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5
    if modified and n1 and n2 and n3 and n4:
        three = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        if min(three) > 0:
            return three
    return y, y, y


class KneserNey:
    """A character n-gram model with interpolated Kneser–Ney smoothing; make it with `fit`.

    Attributes: ``order`` (n), ``alphabet``, the characters among which the probability is shared.
    """

    def __init__(self, levels: list[_Level], alphabet: str) -> None:
        self._levels = levels  # strings of 1, 2, … n characters
        self.alphabet = alphabet

    @classmethod
    def fit(cls, text: str, order: int, alphabet: str = "", *, modified: bool = False) -> Self:
        """Count the strings of up to ``order`` characters in ``text``.

        ``alphabet`` names characters beyond those of the text that the model must allow for.
        ``modified`` takes three discounts in place of one, which predicts a little better.
        Raises ValueError when the order is below 1 or the text is shorter than it.
        """
        if order < 1:
            raise ValueError(f"order={order} must be at least 1: a model of single characters.")
        if len(text) < order:
            raise ValueError(
                f"The text has {len(text)} characters and order={order} needs at least as many: "
                "take a longer text or a lower order."
            )
        counts = Counter(text[i : i + order] for i in range(len(text) - order + 1))
        levels = [_Level.of(counts, modified)]
        while len(levels) < order:
            # Each different longer string counts once: in how many places is this its end?
            counts = Counter(string[1:] for string in counts)
            levels.append(_Level.of(counts, modified))
        return cls(levels[::-1], "".join(sorted({*text, *alphabet})))

    @property
    def order(self) -> int:
        """The n of n-gram: n − 1 characters are looked back on."""
        return len(self._levels)

    def probability(self, character: str, context: str = "") -> float:
        """P(character | context); of the context, the last ``order`` − 1 characters count.

        Over the alphabet the probabilities sum to one. Raises ValueError for another character.
        """
        if character not in self.alphabet or len(character) != 1:
            raise ValueError(
                f"{character!r} is not in the model's alphabet of {len(self.alphabet)} characters: "
                "name it in `alphabet` when you fit the model."
            )
        p = 1 / len(self.alphabet)
        for length, level in enumerate(self._levels[: len(context) + 1]):
            h = context[len(context) - length :]
            if h not in level.totals:  # nor has any longer context been seen
                break
            p = (level.kept(h + character) + level.saved[h] * p) / level.totals[h]
        return p

    def bits_per_character(self, text: str, left_context: str = "") -> float:
        """Mean −log2 P over ``text``; ``left_context`` stands before it and costs nothing.

        Raises ValueError for an empty text or a character outside the alphabet.
        """
        if not text:
            raise ValueError("The text is empty: give at least one character.")
        before = left_context[len(left_context) - self.order + 1 :] if self.order > 1 else ""
        whole, back = before + text, self.order - 1
        bits = 0.0
        for i in range(len(before), len(whole)):
            bits -= math.log2(self.probability(whole[i], whole[max(0, i - back) : i]))
        return bits / len(text)


def chances(
    ids: Any, order: int, vocab_size: int, learn: int, pieces: int = 10
) -> npt.NDArray[np.float32]:
    """P(ids[i] | the tokens before it) for every place of ids (n,): (n, order), modified form.

    Column k − 1 is what the model of ``order`` says when it looks back on k − 1 tokens only. It
    counts the first ``learn`` ids. Whoever learns from these chances must not find the text it
    learns from among the counts, or it trusts them more than a new text deserves. So these ids are
    cut into ``pieces``, and each piece is scored by the counts of the others; what follows the
    first ``learn`` ids is scored by all counts. Raises ValueError for numbers that do not fit.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if order < 1 or pieces < 2 or not order * pieces <= learn <= len(ids):
        raise ValueError(
            f"order={order} must be at least 1, pieces={pieces} at least 2, and learn={learn} at "
            f"least their product and at most the {len(ids)} ids."
        )
    strings = _strings(ids, order, vocab_size)
    counted = np.zeros(len(ids), dtype=bool)
    counted[order - 1 : learn] = True  # where a string ends that counts
    out = np.empty((len(ids), order), dtype=np.float32)
    for begin, end in pairwise(learn * i // pieces for i in range(pieces + 1)):
        others = counted.copy()
        others[begin : end + order - 1] = False  # no string that touches the piece
        out[begin:end] = _score(strings, others, np.arange(begin, end), vocab_size)
    out[learn:] = _score(strings, counted, np.arange(learn, len(ids)), vocab_size)
    return out


# For one order: the number of the string that ends at each place of the text, and for each number
# a place where its string ends.
_Strings = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _strings(ids: npt.NDArray[np.int64], order: int, vocab_size: int) -> list[_Strings]:
    """Number the different strings of 1, 2, … ``order`` tokens in ids (n,)."""
    strings: list[_Strings] = []
    shorter = np.zeros(len(ids), dtype=np.int64)
    for length in range(1, order + 1):
        # A string is the one that ends a place earlier, and one token more.
        key = np.roll(shorter, 1) * vocab_size + ids
        key[: length - 1] = -1  # too near to the beginning for a string of this length
        _, place, shorter = np.unique(key, return_index=True, return_inverse=True)
        strings.append((shorter, place))
    return strings


def _score(
    strings: list[_Strings],
    counted: npt.NDArray[np.bool_],
    places: npt.NDArray[np.int64],
    vocab_size: int,
) -> npt.NDArray[np.float64]:
    """The formula above, for the tokens at ``places`` (m,) and each order: (m, order)."""
    ends, place = strings[-1]
    counts = [np.bincount(ends[counted], minlength=len(place))]
    for ends, shorter in strings[-2::-1]:
        different = ends[place[counts[-1] > 0]]  # the ends of all different longer strings
        counts.append(np.bincount(different, minlength=len(shorter)))
        place = shorter
    p, columns = np.full(len(places), 1 / vocab_size), []
    before, contexts = np.zeros(len(counted), dtype=np.int64), 1  # order 1: one empty context
    for back, ((ends, place), count) in enumerate(zip(strings, counts[::-1], strict=True)):
        how_many = Counter(dict(enumerate(np.bincount(count).tolist())))
        discount = np.array([0.0, *_discounts(how_many, modified=True)])[np.minimum(count, 3)]
        totals = np.bincount(before[place], count, contexts)
        saved = np.bincount(before[place], discount, contexts)
        kept, h = (count - discount)[ends[places]], before[places]
        known = (totals[h] > 0) & (places >= back)
        p = np.where(known, (kept + saved[h] * p) / np.maximum(totals[h], 1), p)
        columns.append(p)
        before, contexts = np.roll(ends, 1), len(place)
    return np.stack(columns, axis=1)
