"""Counting models of text: the character n-grams that a GPT has to beat (lesson 04).

Interpolated Kneser–Ney smoothing (Kneser & Ney, *Improved backing-off for m-gram language
modeling*, 1995; formula and discount as in Chen & Goodman, *An empirical study of smoothing
techniques for language modeling*, 1999, sections 2.7 and 4). For a context h of n − 1 characters,
and h′, which is h without its first:

    P(c | h) = max(N(hc) − D, 0) / N(h·)  +  D · |{c′ : N(hc′) > 0}| / N(h·) · P(c | h′)

At the longest order N counts how often a string occurs; below it, in how many different strings
one character longer it stands at the end. The last P, of no context at all, is uniform.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class _Level:
    """The counts of one order: strings of n characters, grouped by their first n − 1."""

    counts: dict[str, int]  # N(hc)
    totals: dict[str, int]  # N(h·), the sum over all c
    kinds: dict[str, int]  # how many different c follow h
    discount: float  # D

    @classmethod
    def of(cls, counts: Counter[str]) -> Self:
        totals: Counter[str] = Counter()
        for string, count in counts.items():
            totals[string[:-1]] += count
        kinds = Counter(string[:-1] for string in counts)
        how_many = Counter(counts.values())
        # Ney, Essen and Kneser (1994): the discount that held-out counts ask for.
        once, twice = how_many[1], how_many[2]
        discount = once / (once + 2 * twice) if once and twice else 0.5
        return cls(counts, totals, kinds, discount)


class KneserNey:
    """A character n-gram model with interpolated Kneser–Ney smoothing; make it with `fit`.

    Attributes: ``order`` (n), ``alphabet``, the characters among which the probability is shared.
    """

    def __init__(self, levels: list[_Level], alphabet: str) -> None:
        self._levels = levels  # strings of 1, 2, … n characters
        self.alphabet = alphabet

    @classmethod
    def fit(cls, text: str, order: int, alphabet: str = "") -> Self:
        """Count the strings of up to ``order`` characters in ``text``.

        ``alphabet`` names characters beyond those of the text that the model must allow for.
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
        levels = [_Level.of(counts)]
        while len(levels) < order:
            # Each different longer string counts once: in how many places is this its end?
            counts = Counter(string[1:] for string in counts)
            levels.append(_Level.of(counts))
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
            kept = max(level.counts.get(h + character, 0) - level.discount, 0.0)
            p = (kept + level.discount * level.kinds[h] * p) / level.totals[h]
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
