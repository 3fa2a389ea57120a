"""Checkers and hints of lesson 01's exercises (softmax, masks, the backward pass, shared keys)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils import attention
from aigc_utils.checks import (
    CheckFailed,
    HintTable,
    answered,
    demand,
    praise,
    show_hint,
    show_hints,
)

Array = NDArray[np.floating]

HINTS: HintTable = {
    "softmax": (
        "Which of the three operations (exp, sum, divide) can overflow, and for which scores?",
        "Softmax sees only differences of scores: you may shift each row by any number you like, "
        "provided that you take the shift from that row alone.",
        "Divide by the temperature, then subtract scores.max(axis=-1, keepdims=True); exp of "
        "numbers that are at most 0 is safe.",
    ),
    "sliding_window_mask": (
        "Write down row 4 of the mask for n = 6 and window = 3 by hand: which three keys?",
        "Build one matrix that says how far key j lies behind query i; the mask is two conditions "
        "on it.",
        "distance = np.arange(n)[:, None] - np.arange(n)[None, :]; now which distances may stay?",
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
        "np.repeat(k, n_heads // n_kv_heads, axis=-3) puts the copies side by side, as needed.",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


def softmax(function: Callable[..., Any]) -> None:
    """Check ``softmax(scores, temperature=1.0)`` over the last axis of an array."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 5))
    kept = scores.copy()
    weights = _array(function(scores), "softmax", scores.shape)
    demand(np.array_equal(scores, kept), "`softmax` changes the array that it was given.")
    demand(
        _close(weights.sum(axis=-1), 1) or not _close(weights.sum(axis=0), 1),
        "The columns sum to one instead of the rows: normalise along the last axis.",
    )
    demand(_close(weights.sum(axis=-1), 1), "The rows of the weights do not sum to one.")
    demand(
        _close(weights, attention.softmax(scores)),
        "The rows sum to one, but at temperature 1 the weights are not those of softmax.",
    )
    # Quiet: overflow is what this looks for, and the sentence says it better than a warning.
    with np.errstate(all="ignore"):
        huge = _array(function(np.array([1000.0, 1001.0, 999.0])), "softmax", (3,))
        apart = _array(function(np.array([[0.0, 1.0], [2000.0, 2001.0]])), "softmax", (2, 2))
    demand(np.isfinite(huge).all(), "Scores near 1000 give nan: the exponential overflows.")
    demand(
        _close(apart[0], apart[1]) and _close(huge, attention.softmax([1.0, 2.0, 0.0])),
        "Two rows with the same differences, 0 and 1 or 2000 and 2001, must get the same weights: "
        "one row disturbs the other.",
    )
    warm = _array(function(scores, 4.0), "softmax", scores.shape)
    demand(not _close(warm, weights), "The temperature changes nothing.")
    demand(
        warm.max() < weights.max(),
        "A higher temperature must even the weights out, and yours sharpens them.",
    )
    demand(
        _close(warm, attention.softmax(scores / 4)),
        "At temperature 4 the weights must be the softmax of a quarter of every score.",
    )
    praise("rows sum to one, nothing overflows, and heat evens the weights out.")


def sliding_window_mask(function: Callable[..., Any]) -> None:
    """Check ``sliding_window_mask(n, window)``: the last ``window`` positions, itself included."""
    n, window = 7, 3
    mask = function(n, window)
    answered(mask, "sliding_window_mask")
    mask = np.asarray(mask)
    demand(mask.shape == (n, n), f"The mask for n = {n} must have shape {(n, n)}: {mask.shape}.")
    demand(mask.dtype == np.bool_, f"The mask must be boolean, and its dtype is {mask.dtype}.")
    future = np.triu(np.ones((n, n), dtype=bool), k=1)
    expected = _window(n, window)
    demand(not np.array_equal(mask, ~expected), "The mask is upside down: True means *may* attend.")
    demand(
        not np.array_equal(mask, expected.T),
        "The mask looks forward instead of back: rows are queries, columns are keys.",
    )
    demand(not (mask & future).any(), "The future leaks: a query may attend to a later key.")
    demand(mask.diagonal().all(), "A position must be allowed to attend to itself.")
    counted = int(mask[-1].sum())
    demand(
        counted == window,
        f"With window = {window} the last query must see {window} keys, itself included, "
        f"and it sees {counted}.",
    )
    demand(
        np.array_equal(mask, expected),
        "The last row is right, but another row has the wrong keys.",
    )
    for size, width in ((1, 1), (5, 1), (4, 9)):
        demand(
            np.array_equal(np.asarray(function(size, width)), _window(size, width)),
            f"n = {n} and window = {window} are right, but n = {size} and window = {width} not.",
        )
    praise("every query sees itself and its nearest past, and nothing else.")


def attention_backward(function: Callable[..., Any]) -> None:
    """Check ``attention_backward(grad_output, q, k, v, weights)`` -> (grad_q, grad_k, grad_v)."""
    rng = np.random.default_rng(0)
    n_q, n_k, d_k, d_v = 3, 6, 8, 4
    q, k = rng.normal(size=(n_q, d_k)), rng.normal(size=(n_k, d_k))
    v, grad_output = rng.normal(size=(n_k, d_v)), rng.normal(size=(n_q, d_v))
    _, weights = attention.scaled_dot_product_attention(q, k, v)
    try:
        answer = function(grad_output, q, k, v, weights)
    except ValueError as error:
        raise CheckFailed(
            f"{n_q} queries and {n_k} keys do not go through; NumPy says “{error}”."
        ) from None
    answered(answer, "attention_backward")
    demand(
        isinstance(answer, (tuple, list)) and len(answer) == 3,
        "`attention_backward` must return three gradients: grad_q, grad_k, grad_v.",
    )
    right = attention.scaled_dot_product_attention_backward(grad_output, q, k, v, weights)
    for name, mine, expected in zip(("grad_q", "grad_k", "grad_v"), answer, right, strict=True):
        mine = _array(mine, name, expected.shape)
        factor = float((mine * expected).sum() / (expected * expected).sum())
        demand(
            _close(mine, expected) or not _close(mine, factor * expected),
            f"`{name}` points the right way but is off by a factor of {factor:.3g} everywhere.",
        )
        if name == "grad_q":
            # The keys are independent, so the gradients of the scores can be read back.
            grad_scores = mine @ np.linalg.pinv(k)
            demand(
                _close(grad_scores.sum(axis=-1), 0),
                "The weights of a query always sum to one, so the gradients of its scores must "
                "sum to zero, and those in your `grad_q` do not.",
            )
        demand(
            _close(mine, expected),
            f"`{name}` differs from the slope of the loss by up to "
            f"{np.abs(mine - expected).max():.2g}.",
        )
    praise("all three gradients agree with the slope of the loss.")


def grouped_query_attention(function: Callable[..., Any]) -> None:
    """Check ``grouped_query_attention(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None)``."""
    rng = np.random.default_rng(0)
    n, d_model, n_heads, d_k = 6, 16, 4, 4
    x = rng.normal(size=(2, n, d_model))
    w_q, w_o = rng.normal(size=(2, d_model, d_model)) / 4
    for n_kv_heads in (4, 1, 2):
        w_k, w_v = rng.normal(size=(2, d_model, n_kv_heads * d_k)) / 4
        for mask in (None, attention.causal_mask(n)):
            output = function(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask)
            output = _array(output, "grouped_query_attention", x.shape)
            right, dealt = (
                attention.multi_head_attention(
                    x, w_q, _share(w_k, order, d_k), _share(w_v, order, d_k), w_o, n_heads, mask
                )[0]
                for order in (
                    np.arange(n_heads) * n_kv_heads // n_heads,
                    np.arange(n_heads) % n_kv_heads,
                )
            )
            demand(
                _close(output, right) or not _close(output, dealt),
                f"With {n_heads} heads and {n_kv_heads} key heads the heads are dealt out in turn: "
                "neighbouring query heads must share one key head.",
            )
            kind = {4: "as many key heads as heads", 1: "one key head", 2: "two key heads"}
            demand(
                _close(output, right) or mask is None,
                f"With {kind[n_kv_heads]} all is well until a mask is given: the future leaks.",
            )
            demand(
                _close(output, right),
                f"With {kind[n_kv_heads]} the output differs from attention whose keys and "
                "values are copied for each head.",
            )
    praise("heads share their keys in groups; one group each is multi-head attention.")


def _close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=1e-6, atol=1e-9))


def _array(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Return the learner's answer as an array, or say kindly what it is instead."""
    answered(value, name)
    demand(
        not isinstance(value, (tuple, list)),
        f"`{name}` must be one array, and yours is a {type(value).__name__}.",
    )
    array = np.asarray(value)
    demand(array.shape == shape, f"`{name}` must have shape {shape}, and yours has {array.shape}.")
    return array


def _window(n: int, window: int) -> NDArray[np.bool_]:
    return attention.causal_mask(n) & ~np.tril(np.ones((n, n), dtype=bool), k=-window)


def _share(w: Array, heads: NDArray[np.integer], d_k: int) -> Array:
    """Return a projection in which head i is a copy of head ``heads[i]`` of ``w``."""
    return np.concatenate([w[:, h * d_k : (h + 1) * d_k] for h in heads], axis=1)
