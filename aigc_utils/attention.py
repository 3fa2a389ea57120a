"""Attention in NumPy: softmax, masks, heads and the hand-derived backward pass (lesson 01).

All functions work on the last two axes and treat every axis in front of them as a batch, so the
same code serves one sentence, a batch of sentences and a batch of heads. Masks are boolean and
True means *may attend*, as in PyTorch's ``scaled_dot_product_attention``. Shapes in docstrings:
``n_q`` queries, ``n_k`` keys (each with its value), widths ``d_k`` of a key and ``d_v`` of a value.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(scores: ArrayLike, axis: int = -1) -> NDArray[np.floating]:
    """Turn scores of any shape into positive weights that sum to one along ``axis``.

    The largest score of each row is subtracted first: the result is the same and ``exp`` cannot
    overflow. A score of −∞ gets the weight 0. Raises ValueError when a row has no finite score,
    or a NaN or +∞ in it, because then no weights exist.
    """
    scores = _as_float(scores)
    if scores.ndim == 0 or scores.shape[axis] == 0:
        raise ValueError(f"softmax needs at least one score a row; these have shape {scores.shape}")
    largest = scores.max(axis=axis, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError(
            "softmax needs a finite score in every row and no NaN or +inf: "
            "look for a division by zero before it, or a row that is masked out whole"
        )
    exponentials = np.exp(scores - largest)
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def softmax_backward(
    grad_weights: NDArray[np.floating], weights: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return ∂loss/∂scores, given ∂loss/∂weights and the weights of a softmax over the last axis.

    Both arrays have shape (..., n). This is the product with the Jacobian diag(w) − w wᵀ of each
    row, written so that the Jacobian is never stored.
    """
    return weights * (grad_weights - (grad_weights * weights).sum(axis=-1, keepdims=True))


def causal_mask(n: int) -> NDArray[np.bool_]:
    """Return the (n, n) mask that lets position i attend to positions 0…i and to no later one."""
    return np.tril(np.ones((n, n), dtype=bool))


def scaled_dot_product_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, mask: ArrayLike | None = None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Let every query take a weighted average of the values: softmax(q kᵀ / √d_k) v.

    Shapes: ``q`` (..., n_q, d_k), ``k`` (..., n_k, d_k), ``v`` (..., n_k, d_v); axes in front
    broadcast, and so does the boolean ``mask`` against (..., n_q, n_k). Returns the output
    (..., n_q, d_v) and the weights (..., n_q, n_k), whose rows sum to one.

    Raises ValueError when shapes do not fit, and when a query may attend to no key at all: an
    average over nothing does not exist. (PyTorch answers such a row with zeros. For padding,
    let the row attend to anything and ignore its output.)
    Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1 and section 3.2.3.
    """
    q, k, v = _as_float(q), _as_float(k), _as_float(v)
    scores_shape = _check_shapes(q, k, v)
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(_check_mask(np.asarray(mask), scores_shape), scores, -math.inf)
    weights = softmax(scores)
    return weights @ v, weights


def scaled_dot_product_attention_backward(
    grad_output: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    weights: ArrayLike,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return the gradients of a loss with respect to ``q``, ``k`` and ``v``, in their shapes.

    ``grad_output`` is ∂loss/∂output, shape (..., n_q, d_v); ``weights`` come from the forward
    call. No mask is needed: a masked pair has weight 0 and therefore passes no gradient.
    Raises ValueError when shapes do not fit. Lesson 01 derives these lines one by one.
    """
    q, k, v = _as_float(q), _as_float(k), _as_float(v)
    grad_output, weights = _as_float(grad_output), _as_float(weights)
    scores_shape = _check_shapes(q, k, v)
    if weights.shape[-2:] != scores_shape[-2:]:
        raise ValueError(
            f"weights of shape {weights.shape} do not belong to these queries and keys, which "
            f"give {scores_shape}: pass the weights that the forward call returned"
        )
    output_shape = (*scores_shape[:-1], v.shape[-1])
    if grad_output.shape != output_shape:
        raise ValueError(
            f"grad_output has shape {grad_output.shape} and the output {output_shape}: "
            "pass the gradient of the loss with respect to the output"
        )
    grad_v = np.swapaxes(weights, -1, -2) @ grad_output
    grad_weights = grad_output @ np.swapaxes(v, -1, -2)
    grad_scores = softmax_backward(grad_weights, weights) / math.sqrt(q.shape[-1])
    grad_q = grad_scores @ k
    grad_k = np.swapaxes(grad_scores, -1, -2) @ q
    return _sum_to(grad_q, q.shape), _sum_to(grad_k, k.shape), _sum_to(grad_v, v.shape)


def split_heads(x: ArrayLike, n_heads: int) -> NDArray[np.floating]:
    """Cut vectors into heads: (..., n, n_heads · d) becomes (..., n_heads, n, d)."""
    x = _as_float(x)
    if n_heads < 1 or x.ndim < 2 or x.shape[-1] % n_heads:
        raise ValueError(
            f"the last axis of shape {x.shape} cannot be cut into {n_heads} equal heads: "
            "choose a number of heads that divides it"
        )
    parts = x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)
    return np.swapaxes(parts, -2, -3)


def merge_heads(x: ArrayLike) -> NDArray[np.floating]:
    """Undo `split_heads`: (..., n_heads, n, d) becomes (..., n, n_heads · d)."""
    x = _as_float(x)
    if x.ndim < 3:
        raise ValueError(f"heads have shape (..., n_heads, n, d), and this array has {x.shape}")
    rows = np.swapaxes(x, -2, -3)
    return rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])


def multi_head_attention(
    x: ArrayLike,
    w_q: ArrayLike,
    w_k: ArrayLike,
    w_v: ArrayLike,
    w_o: ArrayLike,
    n_heads: int,
    mask: ArrayLike | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Run ``n_heads`` attentions over ``x`` side by side and mix their outputs with ``w_o``.

    Shapes: ``x`` (..., n, d_model); ``w_q`` and ``w_k`` (d_model, n_heads · d_k); ``w_v``
    (d_model, n_heads · d_v); ``w_o`` (n_heads · d_v, d_out). Vectors are rows, so a projection is
    ``x @ w``. ``mask`` broadcasts against (..., n_heads, n, n): give a mask that differs from
    sentence to sentence the shape (batch, 1, n, n). Returns the output (..., n, d_out) and the
    weights (..., n_heads, n, n). Raises ValueError when shapes do not fit.
    Source: Vaswani et al. (2017), section 3.2.2.
    """
    x = _as_float(x)
    q = split_heads(_project(x, w_q, "x", "w_q"), n_heads)
    k = split_heads(_project(x, w_k, "x", "w_k"), n_heads)
    v = split_heads(_project(x, w_v, "x", "w_v"), n_heads)
    heads, weights = scaled_dot_product_attention(q, k, v, mask)
    return _project(merge_heads(heads), w_o, "the merged heads", "w_o"), weights


def _as_float(array: ArrayLike) -> NDArray[np.floating]:
    """Return floats as they are (float32 stays float32) and anything else as float64."""
    array = np.asarray(array)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _check_shapes(
    q: NDArray[np.floating], k: NDArray[np.floating], v: NDArray[np.floating]
) -> tuple[int, ...]:
    """Return the shape (..., n_q, n_k) of the scores; raise ValueError when nothing fits."""
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"q, k and v need at least two axes (positions, width); got {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries and keys must have the same width (last axis); got {shapes}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"every key needs one value (second axis from the right); got {shapes}")
    if k.shape[-2] == 0 or k.shape[-1] == 0:
        raise ValueError(f"there must be at least one key, at least one number wide; got {shapes}")
    try:
        batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except ValueError:
        raise ValueError(f"the batch axes in front do not broadcast; got {shapes}") from None
    return (*batch, q.shape[-2], k.shape[-2])


def _check_mask(mask: NDArray[Any], scores_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask in the scores' shape when it is boolean, fits and leaves no query empty."""
    if mask.dtype != np.bool_:
        raise ValueError(
            f"the mask has dtype {mask.dtype} and must be boolean, True = may attend: "
            "a mask of ones and zeros becomes one with mask.astype(bool)"
        )
    try:
        allowed = np.broadcast_to(mask, scores_shape)
    except ValueError:
        raise ValueError(
            f"a mask of shape {mask.shape} does not broadcast to the scores' shape {scores_shape}, "
            "which is (..., n_q, n_k)"
        ) from None
    empty = int((~allowed.any(axis=-1)).sum())
    if empty:
        raise ValueError(
            f"the mask leaves {empty} of {allowed[..., 0].size} queries no key to attend to: "
            "allow every query at least one, and ignore the output of padding"
        )
    return allowed


def _project(
    x: NDArray[np.floating], w: ArrayLike, x_name: str, w_name: str
) -> NDArray[np.floating]:
    """Return ``x @ w`` or name both shapes in a ValueError."""
    w = _as_float(w)
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"{x_name} of shape {x.shape} cannot be multiplied by {w_name} of shape {w.shape}: "
            f"the last axis of the first must equal the first axis of the second"
        )
    return x @ w


def _sum_to(grad: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Add a gradient up over the axes along which its array was broadcast in the forward pass."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    stretched = tuple(i for i, size in enumerate(shape) if size == 1 and grad.shape[i] != 1)
    return grad.sum(axis=stretched, keepdims=True) if stretched else grad
