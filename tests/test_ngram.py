"""The counting models of lesson 04: they sum to one, agree with the formula, and fail clearly."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from aigc_utils import data
from aigc_utils.ngram import KneserNey, chances

TEXT = "she sells sea shells by the sea shore; the shells she sells are sea shells. " * 3


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("context", ["", "s", "sea ", "the shell", "zq", "Ω", "seaΩ"])
def test_probabilities_are_positive_and_sum_to_one(order, context):
    model = KneserNey.fit(TEXT, order, alphabet="zq")
    chances = [model.probability(character, context) for character in model.alphabet]
    assert min(chances) > 0
    assert sum(chances) == pytest.approx(1, abs=1e-12)


def test_a_bigram_agrees_with_the_formula_by_hand():
    model = KneserNey.fit("abab ba", 2)
    # Pairs: ab 2, ba 2, "b " 1, " b" 1. Kinds once: 2, twice: 2, so D = 2 / (2 + 4) = 1/3.
    # Each of a, b, " " ends as many different pairs as stand here: a 1, b 2, " " 1; once: 2,
    # twice: 1, so D = 2 / (2 + 2) = 1/2.
    of_b = (2 - 1 / 2) / 4 + (1 / 2) * 3 / 4 * (1 / 3)
    of_a = (1 - 1 / 2) / 4 + (1 / 2) * 3 / 4 * (1 / 3)
    assert model.probability("b") == pytest.approx(of_b)
    assert model.probability("b", "a") == pytest.approx((2 - 1 / 3) / 2 + (1 / 3) * 1 / 2 * of_b)
    assert model.probability("a", "b") == pytest.approx((2 - 1 / 3) / 3 + (1 / 3) * 2 / 3 * of_a)
    assert model.probability("a", "a") == pytest.approx((1 / 3) * 1 / 2 * of_a)


def test_the_modified_form_has_three_discounts():
    text = data.load_text("pride_and_prejudice")[:20_000]
    pairs = Counter(text[i : i + 2] for i in range(len(text) - 1))
    n1, n2, n3, n4 = (Counter(pairs.values())[n] for n in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discount = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
    model = KneserNey.fit(text, 2, modified=True)
    for h, c in ("qu", "zy", "He", "e "):
        after = {pair: n for pair, n in pairs.items() if pair[0] == h}
        saved = sum(discount[min(n, 3)] for n in after.values())
        kept = pairs[h + c] - discount[min(pairs[h + c], 3)] if h + c in pairs else 0
        expected = (kept + saved * model.probability(c)) / sum(after.values())
        assert model.probability(c, h) == pytest.approx(expected)
        assert sum(model.probability(x, h) for x in model.alphabet) == pytest.approx(1, abs=1e-12)
    # Too small a text for three discounts: one, as in the plain form.
    few = [KneserNey.fit("abab ba", 2, modified=m).probability("b", "a") for m in (False, True)]
    assert few[0] == few[1]


def test_bits_are_the_mean_of_minus_log2():
    model = KneserNey.fit(TEXT, 3)
    by_hand = -sum(
        math.log2(model.probability(c, "sea shells"[:i])) for i, c in enumerate("sea shells")
    )
    assert model.bits_per_character("sea shells") == pytest.approx(by_hand / 10)
    joined = model.bits_per_character("shells", "sea ")
    assert joined * 6 + model.bits_per_character("sea ") * 4 == pytest.approx(by_hand)
    assert model.bits_per_character("shells", "nobody sells sea ") == pytest.approx(joined)


def test_order_one_counts_characters():
    model = KneserNey.fit(TEXT, 1)
    counts, n = Counter(TEXT), len(TEXT)
    for character, count in counts.items():
        assert abs(model.probability(character) - count / n) < len(counts) / n
    assert model.probability("s", "anything") == model.probability("s")


def test_longer_contexts_help_on_the_novel():
    text = data.load_text("pride_and_prejudice")
    train, test = text[:200_000], text[-20_000:]
    bits = [KneserNey.fit(train, order).bits_per_character(test) for order in (1, 2, 3, 5)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] < math.log2(75) and bits[-1] < 2.2
    assert KneserNey.fit(train, 5, modified=True).bits_per_character(test) < bits[-1] - 0.01


def test_text_it_has_seen_is_cheap():
    model = KneserNey.fit(TEXT, 8)
    assert model.order == 8
    assert model.bits_per_character(TEXT) < 0.5


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: KneserNey.fit("abc", 0), "order=0 must be at least 1"),
        (lambda: KneserNey.fit("abc", 4), "3 characters and order=4"),
        (lambda: KneserNey.fit("", 1), "0 characters"),
        (lambda: KneserNey.fit("abc", 2).probability("d"), "'d' is not in the model's alphabet"),
        (lambda: KneserNey.fit("abc", 2).probability("ab"), "'ab' is not in"),
        (lambda: KneserNey.fit("abc", 2).probability(""), "'' is not in"),
        (lambda: KneserNey.fit("abc", 2).bits_per_character("abd"), "name it in `alphabet`"),
        (lambda: KneserNey.fit("abc", 2).bits_per_character(""), "The text is empty"),
    ],
)
def test_bad_input_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        wrong()


def ids_of(text: str) -> tuple[list[int], int]:
    symbols = sorted(set(text))
    return [symbols.index(character) for character in text], len(symbols)


def test_chances_are_those_of_the_model_of_one_text():
    text = data.load_text("pride_and_prejudice")[:6000]
    ids, vocab_size = ids_of(text)
    found = chances(ids, 4, vocab_size, learn=4000)
    model = KneserNey.fit(text[:4000], 4, alphabet=text, modified=True)
    for i in range(4000, 6000, 7):
        expected = [model.probability(text[i], text[i - back : i]) for back in range(4)]
        assert found[i] == pytest.approx(expected, rel=1e-5)


def test_a_piece_is_scored_without_itself():
    text = data.load_text("pride_and_prejudice")[:6000]
    ids, vocab_size = ids_of(text)
    found = chances(ids, 3, vocab_size, learn=6000, pieces=4)
    first = KneserNey.fit(text[1500:], 3, alphabet=text, modified=True)
    last = KneserNey.fit(text[:4500], 3, alphabet=text, modified=True)
    for model, places in ((first, range(0, 1500, 7)), (last, range(4500, 6000, 7))):
        for i in places:
            expected = [model.probability(text[i], text[max(0, i - b) : i]) for b in range(3)]
            assert found[i] == pytest.approx(expected, rel=1e-5)


def test_what_is_learned_from_does_not_flatter_itself():
    # Of random digits nothing can be learned: who has met them would know them by heart.
    rng = np.random.default_rng(0)
    found = chances(rng.integers(0, 10, 20_000), 5, 10, learn=18_000)
    nats = -np.log(found).mean(axis=1)
    assert nats[:18_000].mean() == pytest.approx(nats[18_000:].mean(), abs=0.02)
    assert nats[:18_000].mean() > math.log(10)


@pytest.mark.parametrize("numbers", [(0, 50, 10), (2, 101, 10), (2, 50, 1), (6, 50, 10)])
def test_chances_name_numbers_that_do_not_fit(numbers):
    order, learn, pieces = numbers
    with pytest.raises(ValueError, match=f"order={order} .* pieces={pieces} .* learn={learn}"):
        chances([0, 1] * 50, order, 2, learn, pieces)
