"""Lesson 01: right answers of every style pass, wrong ones get the sentence that fits."""

import math

import nbformat
import numpy as np
import torch
import torch.nn.functional as F
from graded import CheckerTests, run_answer

from aigc_utils import attention
from aigc_utils.checks import attention as check


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, {"np": np, "attention": attention})


# --- 1 · softmax ----------------------------------------------------------------------------------


def softmax_lists(scores, temperature=1.0):
    def row(numbers):
        if isinstance(numbers[0], list):
            return [row(part) for part in numbers]
        top = max(numbers)
        powers = [math.exp((x - top) / temperature) for x in numbers]
        return [p / sum(powers) for p in powers]

    return row(scores.tolist())


def softmax_rows(scores, temperature=1.0):
    rows = scores.reshape(-1, scores.shape[-1]) / temperature
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        out[i] = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    return out.reshape(scores.shape)


def softmax_torch(scores, temperature=1.0):
    return torch.softmax(torch.tensor(scores) / temperature, dim=-1)


def softmax_float32(scores, temperature=1.0):
    return attention.softmax((scores / temperature).astype(np.float32)).astype(np.float32)


def softmax_logs(scores, temperature=1.0):
    scaled = np.moveaxis(scores / temperature, -1, 0)
    return np.moveaxis(np.exp(scaled - np.logaddexp.reduce(scaled, axis=0)), 0, -1)


def shifted(shift):
    def softmax(scores, temperature=1.0):
        scaled = scores / temperature
        powers = np.exp(scaled - shift(scaled))
        return powers / powers.sum(axis=-1, keepdims=True)

    return softmax


def softmax_in_place(scores, temperature=1.0):
    scores -= scores.max(axis=-1, keepdims=True)
    return attention.softmax(scores / temperature)


def softmax_shift_before_heat(scores, temperature=1.0):
    scaled = scores / temperature
    powers = np.exp(scaled - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_turned(scores, temperature=1.0):
    powers = np.exp((scores.T - scores.max(axis=-1).T) / temperature)
    return (powers / powers.sum(axis=0)).T


def softmax_clipped(scores, temperature=1.0):
    powers = np.exp(np.clip(scores / temperature, -700, 700))
    return powers / powers.sum(axis=-1, keepdims=True)


# --- 2 · window -----------------------------------------------------------------------------------


def window(n, width, first=0):
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    return (distance >= first) & (distance < width)


def window_loops(n, window):
    mask = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(max(0, i - window + 1), i + 1):
            mask[i, j] = True
    return mask


def window_triangles(n, window):
    ones = np.ones((n, n), dtype=bool)
    return np.tril(ones) ^ np.tril(ones, -window)


def window_lists(n, window):
    return [[0 <= i - j < window for j in range(n)] for i in range(n)]


def window_torch(n, window):
    ones = torch.ones(n, n, dtype=torch.bool)
    return ones.tril() & ones.triu(1 - window)


def window_one_row_wrong(n, width):
    return window(n, width) & (np.arange(n) != 1)[:, None] | np.eye(n, dtype=bool)


# --- 3 · backward ---------------------------------------------------------------------------------


def backward(axis=-1, scale_q=True, average=True, transpose_k=True):
    """The backward pass with one thing left out."""

    def attention_backward(grad_output, q, k, v, weights):
        grad_weights = grad_output @ v.T
        mean = (grad_weights * weights).sum(axis=axis, keepdims=True) if average else 0
        grad_scores = weights * (grad_weights - mean)
        scale = np.sqrt(q.shape[-1])
        grad_q = grad_scores @ k / (scale if scale_q else 1)
        grad_k = (grad_scores.T if transpose_k else grad_scores) @ q / scale
        return grad_q, grad_k, weights.T @ grad_output

    return attention_backward


def backward_autograd(grad_output, q, k, v, weights):
    q, k, v = (torch.tensor(part, requires_grad=True) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    out.backward(torch.tensor(grad_output))
    return [q.grad, k.grad, v.grad]


def backward_jacobian(grad_output, q, k, v, weights):
    grad_q, grad_k = np.zeros_like(q), np.zeros_like(k)
    for i, w in enumerate(weights):
        scores = (np.diag(w) - np.outer(w, w)) @ (v @ grad_output[i]) / np.sqrt(q.shape[1])
        grad_q[i] = scores @ k
        grad_k += np.outer(scores, q[i])
    return grad_q, grad_k, np.einsum("qk,qv->kv", weights, grad_output)


def backward_float32(*inputs):
    inputs = [part.astype(np.float32) for part in inputs]
    return tuple(part.tolist() for part in backward()(*inputs))


def backward_in_place(grad_output, q, k, v, weights):
    gradients = backward()(grad_output, q, k, v, weights)
    grad_output *= 2
    return gradients


def backward_with(**changed):
    def attention_backward(*inputs):
        parts = dict(zip(("q", "k", "v"), backward()(*inputs), strict=True))
        return tuple(changed.get(name, lambda g: g)(part) for name, part in parts.items())

    return attention_backward


# --- 4 · shared keys ------------------------------------------------------------------------------


def grouped(share=np.repeat, masked=True, out=True):
    def grouped_query_attention(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
        q = attention.split_heads(x @ w_q, n_heads)
        k, v = (attention.split_heads(x @ w, n_kv_heads) for w in (w_k, w_v))
        k, v = (share(heads, n_heads // n_kv_heads, axis=-3) for heads in (k, v))
        heads, _ = attention.scaled_dot_product_attention(q, k, v, mask if masked else None)
        joined = attention.merge_heads(heads)
        return joined @ w_o if out else joined

    return grouped_query_attention


def grouped_five_axes(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
    q = attention.split_heads(x @ w_q, n_heads)
    k, v = (attention.split_heads(x @ w, n_kv_heads)[..., None, :, :] for w in (w_k, w_v))
    q = q.reshape(*q.shape[:-3], n_kv_heads, -1, *q.shape[-2:])
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    heads = attention.softmax(scores) @ v
    return attention.merge_heads(heads.reshape(*x.shape[:-2], n_heads, *heads.shape[-2:])) @ w_o


def grouped_wide_matrices(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
    d_k = w_q.shape[1] // n_heads
    columns = np.concatenate(
        [np.arange(d_k) + d_k * (h // (n_heads // n_kv_heads)) for h in range(n_heads)]
    )
    return attention.multi_head_attention(
        x, w_q, w_k[:, columns], w_v[:, columns], w_o, n_heads, mask
    )[0]


def grouped_torch(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
    x, w_q, w_k, w_v, w_o = (torch.tensor(a, dtype=torch.float32) for a in (x, w_q, w_k, w_v, w_o))

    def cut(heads, n):
        return heads.unflatten(-1, (n, -1)).transpose(-2, -3)

    mask = mask if mask is None else torch.tensor(mask)
    y = F.scaled_dot_product_attention(
        cut(x @ w_q, n_heads),
        cut(x @ w_k, n_kv_heads).repeat_interleave(n_heads // n_kv_heads, dim=-3),
        cut(x @ w_v, n_kv_heads).repeat_interleave(n_heads // n_kv_heads, dim=-3),
        attn_mask=mask,
    )
    return y.transpose(-2, -3).flatten(-2) @ w_o


def in_turn(heads, times, axis):
    return np.concatenate([heads] * times, axis=axis)


def pairs_only(heads, times, axis):
    return np.repeat(heads, 2, axis=axis)


def on_axis_one(heads, times, axis):
    return np.repeat(heads, times, axis=1)


def first_only(heads, times, axis):
    return np.repeat(heads[..., :1, :, :], times * heads.shape[axis], axis=axis)


def reversed_groups(heads, times, axis):
    return np.flip(np.repeat(heads, times, axis=axis), axis=axis)


def grouped_keys_changed(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
    w_k *= 2
    return grouped()(x, w_q, w_k / 2, w_v, w_o, n_heads, n_kv_heads, mask)


def grouped_mask_required(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask):
    return grouped()(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask)


RIGHT = {
    "softmax": [
        softmax_lists,
        softmax_rows,
        softmax_turned,
        softmax_torch,
        softmax_float32,
        softmax_logs,
        shifted(lambda s: s.max(axis=-1, keepdims=True)),
        lambda scores, temperature=1.0: attention.softmax(scores / temperature),
    ],
    "sliding_window_mask": [window, window_loops, window_triangles, window_lists, window_torch],
    "attention_backward": [
        attention.scaled_dot_product_attention_backward,
        backward_autograd,
        backward_jacobian,
        backward_float32,
    ],
    "grouped_query_attention": [
        grouped(),
        grouped_five_axes,
        grouped_wide_matrices,
        grouped_torch,
    ],
}

WRONG = {
    "softmax": [
        (shifted(lambda s: 0), "`softmax([1000.0, 1001.0, 999.0], 1.0)` holds nan or infinity"),
        (shifted(lambda s: s.mean(axis=-1, keepdims=True)), "holds nan or infinity: either an exp"),
        (shifted(lambda s: s[..., :1]), "`softmax([0.0, 2000.0], 1.0)` holds nan or infinity"),
        (shifted(lambda s: abs(s).max(axis=-1, keepdims=True)), "holds nan"),
        (shifted(lambda s: s.max()), "One row disturbs the other"),
        (shifted(lambda s: s.max(axis=0)), "softmax"),
        (softmax_shift_before_heat, "holds nan or infinity"),
        (softmax_clipped, "softmax([1000.0, 1001.0, 999.0], 1.0)` must have 0.245 at [0]"),
        (softmax_in_place, "changes its input `scores`"),
        (
            lambda s, t=1.0: np.exp(s / t) / np.exp(s / t).sum(axis=0),
            "columns sum to one instead of the rows",
        ),
        (lambda s, t=1.0: np.exp(s / t) / np.exp(s / t).sum(), "One sum is taken for all rows"),
        (lambda s, t=1.0: np.exp(s - s.max()) / np.exp(s - s.max()).sum(), "One sum is taken"),
        (
            lambda s, t=1.0: attention.softmax(s / t, axis=s.ndim // 2),
            "With three axes the weights sum to one along the second",
        ),
        (lambda s, t=1.0: attention.softmax(s), "The temperature changes nothing"),
        (lambda s, t=1.0: attention.softmax(s * t), "yours sharpens them"),
        (lambda s, t=1.0: attention.softmax(s / np.sqrt(t)), "*root* of the temperature"),
        (lambda s, t=1.0: attention.softmax(s) / t, "divides the weights"),
        (lambda s, t=1.0: attention.softmax(2 * s / t), "must have … at [0, 0], and has"),
        (lambda s, t=1.0: attention.softmax(-s / t), "smallest score gets the largest"),
        (lambda s, t=1.0: attention.softmax(s / t)[0], "must have shape (3, 7), and yours"),
        (lambda s, t=1.0: attention.softmax(s / t).round(3), "must have"),
        (lambda s: attention.softmax(s), "does not take that: too many positional arguments."),
    ],
    "sliding_window_mask": [
        (lambda n, w: attention.causal_mask(n), "`window` changes nothing"),
        (lambda n, w: window(n, w + 1), "one key too many"),
        (lambda n, w: window(n, w, first=1), "allowed to attend to itself"),
        (lambda n, w: window(n, w + 1, first=1), "but not itself"),
        (lambda n, w: window(n, w, first=1 - w), "The future leaks"),
        (lambda n, w: window(n, w).T, "looks forward"),
        (lambda n, w: ~window(n, w), "upside down"),
        (lambda n, w: window(n, w).astype(float), "must hold True and False, and it holds float64"),
        (lambda n, w: window(n, w).astype(int), "must hold True and False"),
        (lambda n, w: window(n, w)[:-1], "must have shape (7, 7)"),
        (lambda n, w: window(n, 3), "always 3"),
        (lambda n, w: window(n, max(w, 2)), "`sliding_window_mask(5, 1)` must have False"),
        (lambda n, w: window(n, min(w, 5)), "`sliding_window_mask(6, 6)` must have True at [5, 0]"),
        (lambda n, w: window(7, w), "must have shape (1, 1)"),
        (window_one_row_wrong, "`sliding_window_mask(7, 3)` must have True at [1, 0], and has"),
    ],
    "attention_backward": [
        (backward(axis=0), "`grad_q`: the weights of a query … down the columns"),
        (backward(average=False), "`grad_q`: the weights of a query … nothing is subtracted"),
        (backward(scale_q=False), "`grad_q` points the right way but is off by a factor of 2.24"),
        (backward(transpose_k=False), "stops in line 7 of your function `attention_backward`"),
        (backward_in_place, "changes its input `grad_output`"),
        (lambda *inputs: backward()(*inputs)[:2], "return 3 things (grad_q, grad_k, grad_v)"),
        (lambda *inputs: backward()(*inputs)[0], "return 3 things"),
        (backward_with(v=abs), "`grad_v` of `attention_backward(array (6, 2), array (6, 5), "),
        (backward_with(k=lambda g: 0 * g), "`grad_k` points the right way but … factor of 0 "),
        (backward_with(q=lambda g: -g), "`grad_q` points the right way but … factor of -1 "),
        (backward_with(v=np.transpose), "`grad_v` must have shape (7, 2), and yours has"),
        (lambda *inputs: backward()(*inputs)[::-1], "`grad_q` must have shape (6, 5)"),
        (
            lambda g, q, k, v, w: backward()(g, q, k, v, attention.softmax(q @ k.T)),
            "`grad_q` of `attention_backward(",
        ),
    ],
    "grouped_query_attention": [
        (grouped(share=in_turn), "dealt out in turn"),
        (grouped(masked=False), "The mask changes nothing"),
        (grouped(out=False), "w_o is missing"),
        (grouped(share=pairs_only), "stops in line"),
        (grouped(share=on_axis_one), "grouped_query_attention("),
        (grouped(share=first_only), "All query heads use the first key head"),
        (grouped(share=reversed_groups), "reverse order"),
        (grouped_keys_changed, "changes its input `w_k`"),
        (grouped_mask_required, "does not take that: missing a required argument: 'mask'."),
        (lambda *inputs: (grouped()(*inputs), "weights"), "must be an array of numbers"),
        (lambda *inputs: grouped()(*inputs) * 2, "must have … at [0, 0, 0], and has"),
        (lambda *inputs: grouped()(*inputs)[0], "must have shape (2, 5, 12)"),
        (
            lambda x, q, k, v, o, h, g, mask=None: attention.multi_head_attention(
                x, q, k, v, o, h, mask
            )[0],
            "stops in line",
        ),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, "01_attention.ipynb"
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
