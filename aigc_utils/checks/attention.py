"""Checkers and hints of lesson 01's exercises (softmax, masks, the backward pass, shared keys)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from aigc_utils import attention
from aigc_utils.attention import scaled_dot_product_attention, scaled_dot_product_attention_backward
from aigc_utils.checks import (
    Answer,
    HintTable,
    Slips,
    alike,
    demand,
    exercise,
    read_array,
    read_several,
    show_hint,
    show_hints,
)
from aigc_utils.checks.core import Found
from aigc_utils.checks.reading import Array

HINTS: HintTable = {
    "softmax": (
        "Which of the three operations (exp, sum, divide) can overflow, and for which scores?",
        "Softmax sees only differences of scores: you may shift each row by any number you like, "
        "provided that you take the shift from that row alone.",
        "exp of a number that is at most 0 cannot overflow. Which shift makes the largest number "
        "of each row 0, after the division by the temperature? keepdims=True keeps the axis.",
    ),
    "sliding_window_mask": (
        "Write down row 4 of the mask for n = 6 and window = 3 by hand: which three keys?",
        "Build one matrix that says how far key j lies behind query i; the mask is two conditions "
        "on it.",
        "np.arange(n)[:, None] - np.arange(n) is that matrix; now which distances may stay?",
    ),
    "attention_backward": (
        "One of the three gradients is right already. Which lines does it not use?",
        "Every row of weights belongs to one query and always sums to one, so the gradients of "
        "that row's scores must sum to zero. Print grad_scores.sum(axis=-1).",
        "Check along which axis the average is taken. Then try the function with 3 queries and 5 "
        "keys: a product that fits only when both numbers are equal has lost its transpose.",
    ),
    "grouped_query_attention": (
        "Only the number of key and value heads changes; start from multi_head_attention.",
        "Cut q into n_heads and k, v into n_kv_heads; then give every query head a key head: with "
        "4 and 2 heads, query heads 0 and 1 use key head 0, and 2 and 3 use key head 1.",
        "The heads are axis -3 after split_heads. np.repeat and np.tile both make copies along an "
        "axis: which of them puts the copies of one head side by side?",
    ),
}

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · softmax ----------------------------------------------------------------------------------


@exercise("01")
def softmax(answer: Answer) -> str:
    """Check ``softmax(scores, temperature=1.0)`` over the last axis of an array."""
    rng = np.random.default_rng(1)
    one, two, three = rng.normal(size=5), rng.normal(size=(3, 7)), rng.normal(size=(2, 5, 3))
    answer.compare([(two,), (three,), (one,)], _softmax, _SOFTMAX_SLIPS)
    answer.compare([(two, 4.0), (three, 0.5), (one, 3.0)], _softmax, _SOFTMAX_SLIPS)
    wild = [
        (np.array(scores, dtype=float), temperature)
        for scores, temperature in (
            ([1000, 1001, 999], 1.0),
            ([[0, 1], [2000, 2001], [-3000, -3001]], 1.0),
            ([0, 2000], 1.0),
            ([3000, 0, 0], 1.0),
            ([-1000, -1001], 1.0),
            ([-5000, 0, 400, 400], 1.0),
            ([1000, 1001, 1002], 0.01),
            ([[[0, 1e4]], [[1e4, 0]], [[7, 7]]], 100.0),
        )
    ]
    for args in wild:
        weights = read_array(answer(*args), "softmax", args[0].shape)
        demand(
            np.isfinite(weights).all() or alike(weights, _one_shift(*args)),
            f"{answer.case(*args)} holds nan or infinity: either an exp overflows, or all of a row "
            "become 0.",
        )
    answer.compare(wild, _softmax, _SOFTMAX_SLIPS)
    return "rows sum to one, nothing overflows, and heat evens the weights out."


def _softmax(
    scores: Array,
    temperature: float = 1.0,
    axis: int | None = -1,
    shift_axis: int | None = -1,
    power: float = -1.0,
) -> Array:
    scaled = scores * temperature**power
    exponentials = np.exp(scaled - scaled.max(axis=shift_axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def _one_shift(scores: Array, temperature: float = 1.0) -> Array:
    return _softmax(scores, temperature, shift_axis=None)


_SOFTMAX_SLIPS: Slips = [
    (
        partial(_softmax, axis=0, shift_axis=0),
        "The columns sum to one instead of the rows: normalise along the last axis.",
    ),
    (
        partial(_softmax, axis=0),
        "The columns sum to one instead of the rows: normalise along the last axis.",
    ),
    (partial(_softmax, axis=None, shift_axis=None), "One sum is taken for all rows together."),
    (partial(_softmax, axis=None), "One sum is taken for all rows together."),
    (
        lambda s, t=1.0: attention.softmax(s / t, axis=min(1, s.ndim - 1)),
        "With three axes the weights sum to one along the second: the last one is axis=-1.",
    ),
    (
        _one_shift,
        "One row disturbs the other: a shift that is the same for all rows lets small ones vanish.",
    ),
    (partial(_softmax, power=0), "The temperature changes nothing."),
    (
        partial(_softmax, power=1),
        "A higher temperature must even the weights out, and yours sharpens them: divide by it.",
    ),
    (partial(_softmax, power=-0.5), "The scores are divided by the *root* of the temperature."),
    (partial(_softmax, power=-2), "The scores are divided by the *square* of the temperature."),
    (
        lambda s, t=1.0: attention.softmax(s) / t,
        "The temperature divides the weights; it must divide the scores, before exp.",
    ),
    (lambda s, t=1.0: attention.softmax(-s / t), "The smallest score gets the largest weight."),
    (lambda s, t=1.0: np.log(attention.softmax(s / t)), "These are the logarithms of the weights."),
    (lambda s, t=1.0: np.exp(s / t), "exp is taken, but nothing is divided by the sum."),
    (lambda s, t=1.0: attention.softmax(s / t * np.log(2)), "You take powers of 2, not of e."),
]


# --- 2 · window -----------------------------------------------------------------------------------


@exercise("01")
def sliding_window_mask(answer: Answer) -> str:
    """Check ``sliding_window_mask(n, window)``: the last ``window`` positions, itself included."""
    cases = ((7, 3), (1, 1), (5, 1), (4, 9), (6, 6), (9, 8), (13, 2), (11, 5))
    for args in cases:
        mask = read_array(answer(*args), "sliding_window_mask", (args[0], args[0]))
        demand(
            mask.dtype == np.bool_, f"The mask must hold True and False, and it holds {mask.dtype}."
        )
    answer.compare(cases, _window, _WINDOW_SLIPS)
    return "every query sees itself and its nearest past, and nothing else."


def _window(n: int, window: int, first: int = 0) -> Array:
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    return (distance >= first) & (distance < window)


_WINDOW_SLIPS: Slips = [
    (lambda n, w: ~_window(n, w), "The mask is upside down: True means *may* attend."),
    (
        lambda n, w: _window(n, w).T,
        "The mask looks forward instead of back: rows are queries, columns are keys.",
    ),
    (lambda n, w: _window(n, n), "Every query sees its whole past: `window` changes nothing."),
    (
        lambda n, w: _window(n, w + 1),
        "Each query sees one key too many: `window` counts the query's own position, too.",
    ),
    (
        lambda n, w: _window(n, w + 1, first=1),
        "Each query sees the `window` keys before it, but not itself.",
    ),
    (lambda n, w: _window(n, w, first=1), "A position must be allowed to attend to itself."),
    (lambda n, w: _window(n, w - 1), "Each query sees one key too few."),
    (
        lambda n, w: _window(n, w, first=1 - w),
        "The future leaks: the window reaches as far forward as back.",
    ),
    (lambda n, w: _window(n, 3), "The window is always 3, whatever is asked for."),
]


# --- 3 · backward ---------------------------------------------------------------------------------


@exercise("01")
def attention_backward(answer: Answer) -> str:
    """Check ``attention_backward(grad_output, q, k, v, weights)`` -> (grad_q, grad_k, grad_v)."""
    parts = ("grad_q", "grad_k", "grad_v")
    found: list[list[Found]] = [[], [], []]
    for seed, (n_q, n_k, d_k, d_v) in enumerate(((6, 7, 5, 2), (4, 4, 2, 3), (5, 2, 3, 7))):
        rng = np.random.default_rng(seed)
        q, k = rng.normal(size=(n_q, d_k)), rng.normal(size=(n_k, d_k))
        v, grad_output = rng.normal(size=(n_k, d_v)), rng.normal(size=(n_q, d_v))
        args = (grad_output, q, k, v, scaled_dot_product_attention(q, k, v)[1])
        right = scaled_dot_product_attention_backward(*args)
        gradients = read_several(answer(*args), "attention_backward", parts)
        for i, (part, expected) in enumerate(zip(parts, right, strict=True)):
            found[i].append((args, read_array(gradients[i], part, expected.shape), expected))
    for i, part in enumerate(parts):
        slips = [
            (lambda *a, i=i, mistake=mistake: _backward(*a, **mistake)[i], f"`{part}`: {why}")
            for mistake, why in _BACKWARD_SLIPS
        ]
        _, mine, expected = found[i][0]
        factor = float((mine * expected).sum() / (expected**2).sum())
        demand(
            alike(mine, expected) or not alike(mine, factor * expected),
            f"`{part}` points the right way but is off by a factor of {factor:.3g} everywhere.",
        )
        answer.judge(found[i], slips, part)
    return "all three gradients agree with the slope of the loss."


_ZERO = "the weights of a query always sum to one, so the gradients of its scores must sum to zero"
_BACKWARD_SLIPS: list[tuple[dict[str, Any], str]] = [
    ({"axis": 0}, f"{_ZERO}; the average is taken down the columns, over the queries."),
    ({"axis": None}, f"{_ZERO}; one average is taken for all queries together."),
    ({"average": False}, f"{_ZERO}; nothing is subtracted from the gradients of the weights."),
    ({"axis": 0, "scale": False}, f"{_ZERO}; and the scores' division by √d_k is forgotten."),
    ({"average": False, "scale": False}, f"{_ZERO}; and the division by √d_k is forgotten."),
    ({"plain": True}, f"{_ZERO}; a plain mean is subtracted, and it must be weighted."),
    ({"weighted": False}, "each score's gradient must be multiplied by its weight."),
]


def _backward(
    grad_output: Array,
    q: Array,
    k: Array,
    v: Array,
    weights: Array,
    axis: int | None = -1,
    average: bool = True,
    plain: bool = False,
    weighted: bool = True,
    scale: bool = True,
) -> tuple[Array, Array, Array]:
    """The backward pass, or with an option the mistake to recognise it by."""
    grad_weights = grad_output @ v.T
    mean = grad_weights.mean(axis=-1, keepdims=True)
    if not plain:
        mean = (grad_weights * weights).sum(axis=axis, keepdims=True)
    grad_scores = (weights if weighted else 1) * (grad_weights - (mean if average else 0))
    grad_scores = grad_scores / (np.sqrt(q.shape[-1]) if scale else 1)
    return grad_scores @ k, grad_scores.T @ q, weights.T @ grad_output


# --- 4 · shared keys ------------------------------------------------------------------------------


@exercise("01")
def grouped_query_attention(answer: Answer) -> str:
    """Check ``grouped_query_attention(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None)``."""
    cases: list[tuple[Any, ...]] = []
    for seed, (batch, n, d_model, d_k, n_heads, n_kv_heads) in enumerate(
        (
            ((2,), 5, 12, 3, 4, 4),
            ((), 7, 10, 3, 4, 2),
            ((3,), 5, 10, 2, 6, 3),
            ((2, 3), 4, 7, 5, 6, 2),
            ((2,), 3, 9, 4, 5, 1),
        )
    ):
        rng = np.random.default_rng(seed)
        widths = (n_heads * d_k, n_kv_heads * d_k, n_kv_heads * d_k)
        w_q, w_k, w_v = (rng.normal(size=(d_model, width)) / 2 for width in widths)
        w_o = rng.normal(size=(n_heads * d_k, d_model)) / 2
        x = rng.normal(size=(*batch, n, d_model))
        inputs = (x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads)
        cases += [inputs, (*inputs, attention.causal_mask(n))]
    answer.compare(cases, _grouped, _GROUPED_SLIPS)
    return "heads share their keys in groups; one group each is multi-head attention."


def _grouped(
    x: Array,
    w_q: Array,
    w_k: Array,
    w_v: Array,
    w_o: Array,
    n_heads: int,
    n_kv_heads: int,
    mask: Any = None,
    key_head: Callable[[int, int, int], int] = lambda h, n, kv: h * kv // n,
    out: bool = True,
) -> Array:
    """Attention head by head; ``key_head(head, n_heads, n_kv_heads)`` says whose key it uses."""
    q = attention.split_heads(x @ w_q, n_heads)
    k, v = (attention.split_heads(x @ w, n_kv_heads) for w in (w_k, w_v))
    shared = [key_head(head, n_heads, n_kv_heads) for head in range(n_heads)]
    heads = [
        scaled_dot_product_attention(q[..., h, :, :], k[..., kv, :, :], v[..., kv, :, :], mask)[0]
        for h, kv in enumerate(shared)
    ]
    joined = np.concatenate(heads, axis=-1)
    return joined @ w_o if out else joined


def _unmasked(*inputs: Any) -> Array:
    return _grouped(*inputs[:7])


def _turned(*inputs: Any) -> Array:
    *others, mask = inputs if len(inputs) == 8 else (*inputs, None)
    return _grouped(*others, None if mask is None else ~mask)  # type: ignore[call-arg]


_GROUPED_SLIPS: Slips = [
    (
        partial(_grouped, key_head=lambda h, n, kv: h % kv),
        "The key heads are dealt out in turn: neighbouring query heads must share one.",
    ),
    (
        partial(_grouped, key_head=lambda h, n, kv: 0),
        "All query heads use the first key head: with n_kv_heads there are more.",
    ),
    (
        partial(_grouped, key_head=lambda h, n, kv: kv - 1 - h * kv // n),
        "The groups come in reverse order: the first query heads share the first key head.",
    ),
    (_unmasked, "The mask changes nothing: the future leaks."),
    (_turned, "The mask is upside down: True means *may* attend."),
    (partial(_grouped, out=False), "The heads are joined, but w_o is missing."),
]
