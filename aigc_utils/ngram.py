"""Counting models of text: the character n-grams that a GPT has to beat (lesson 04).

Interpolated Kneser–Ney smoothing (Kneser & Ney, *Improved backing-off for m-gram language
modeling*, 1995; formula and discount as in Chen & Goodman, *An empirical study of smoothing
techniques for language modeling*, 1999, sections 2.7 and 4). For a context h of n − 1 characters,
and h′, which is h without its first:

    P(c | h) = max(N(hc) − D, 0) / N(h·)  +  D · |{c′ : N(hc′) > 0}| / N(h·) · P(c | h′)

At the longest order N counts how often a string occurs; below it, in how many different strings
one character longer it stands at the end. The last P, of no context at all, is uniform. The
*modified* form (Chen and Goodman's own) has three discounts D in place of one: for counts of 1,
of 2, and of 3 or more.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Self


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
