"""Lesson 07: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import itertools
import math
from pathlib import Path

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils import convolution
from aigc_utils.checks import convolution as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "07_convolution.ipynb"


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, {"np": np, "convolution": convolution})


@functools.cache
def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


# --- 1 · receptive field --------------------------------------------------------------------------


def field(
    *, reach=lambda k, d: d * (k - 1), jumps=lambda j, s, d: j * s, stride_first=False, end=1
):
    def receptive_field(layers):
        size, jump = 1, 1
        for kernel, stride, dilation in layers[::end]:
            before, jump = jump, jumps(jump, stride, dilation)
            size += reach(kernel, dilation) * (jump if stride_first else before)
        return size, jump

    return receptive_field


def field_from_the_top(layers):
    size = 1
    for kernel, stride, dilation in reversed(layers):
        size = (size - 1) * stride + dilation * (kernel - 1) + 1
    return [size, math.prod(layer[1] for layer in layers)]


def field_by_counting(layers):
    starts = []
    for output in (0, 1):
        places = {output}
        for kernel, stride, dilation in layers[::-1]:
            places = {p * stride + dilation * tap for p in places for tap in range(kernel)}
        starts.append(min(places))
        size = max(places) - min(places) + 1
    return size, starts[1] - starts[0]


def field_of_arrays(layers):
    kernels, strides, dilations = np.array(layers, dtype=float).reshape(-1, 3).T
    jumps = np.cumprod(np.concatenate([[1], strides]))
    return np.array([1 + (dilations * (kernels - 1) * jumps[:-1]).sum(), jumps[-1]])


def field_recursive(layers):
    if not layers:
        return torch.tensor(1), np.int64(1)
    *below, (k, s, d) = layers
    size, jump = field_recursive(below)
    return size + d * (k - 1) * jump, jump * s


def field_without_copy(layers):
    size, jump = 1, 1
    while layers:
        kernel, stride, dilation = layers.pop(0)
        size, jump = size + dilation * (kernel - 1) * jump, jump * stride
    return size, jump


# --- 2 · pooling ----------------------------------------------------------------------------------


def window_of(x, i, j, k, s):
    return x[s * i : s * i + k, s * j : s * j + k]


def pooling(
    *, fill=-np.inf, above=lambda total: total // 2, left=None, take=np.max, same=True, step=None
):
    def same_max_pool(x, k, s):
        height, width, channels = x.shape
        sizes = [-(-n // s) if same else max((n - k) // s + 1, 1) for n in (height, width)]
        down, across = (
            max((out - 1) * s + k - n, 0) for out, n in zip(sizes, (height, width), strict=True)
        )
        top, before = above(down), (left or above)(across)
        around = np.full((height + down, width + across, channels), fill, dtype=float)
        around[top : top + height, before : before + width] = x
        y = np.zeros((*sizes, channels))
        for i, j in np.ndindex(*sizes):
            y[i, j] = take(window_of(around, i, j, k, step or s), axis=(0, 1))
        return y

    return same_max_pool


def pool_in_lists(x, k, s):
    height, width, channels = x.shape
    rows = []
    for i in range(math.ceil(height / s)):
        rows.append([])
        for j in range(math.ceil(width / s)):
            top = i * s - max((math.ceil(height / s) - 1) * s + k - height, 0) // 2
            left = j * s - max((math.ceil(width / s) - 1) * s + k - width, 0) // 2
            window = x[max(top, 0) : top + k, max(left, 0) : left + k]
            rows[-1].append([float(window[..., c].max()) for c in range(channels)])
    return rows


def pool_of_torch(x, k, s):
    pad = []
    for n in (x.shape[1], x.shape[0]):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pad += [total // 2, total - total // 2]
    picture = torch.from_numpy(x).float().permute(2, 0, 1)[None]
    framed = torch.nn.functional.pad(picture, pad, value=-torch.inf)
    return torch.nn.functional.max_pool2d(framed, k, s)[0].permute(1, 2, 0)


def pool_of_the_package(x, k, s):
    return convolution.max_pool(x[None], k, stride=s, padding="same")[0].astype(np.float32)


def pool_with_lowest(x, k, s):
    return pooling(fill=np.finfo(np.float64).min)(x, k, s)


def buggy_max_pool(x, k, s):
    return pooling(fill=0, above=lambda total: total - total // 2)(x, k, s)


def pool_in_place(x, k, s):
    y = pooling()(x, k, s)
    x -= x.min()
    return y


# --- 3 · temperature ------------------------------------------------------------------------------


def cross_entropy(logits, labels, t, shifted=True):
    z = (logits - logits.max(axis=1, keepdims=True)) / t if shifted else logits / t
    return (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]).mean()


def fitted(grid, loss=cross_entropy):
    return lambda logits, labels: min(grid, key=lambda t: loss(logits, labels, t))


FINE = np.geomspace(0.1, 10, 1_500)


def temperature_halving(logits, labels):
    """Find where the slope of the loss in 1 / T is zero."""
    low, high, rows = 0.05, 20.0, np.arange(len(labels))
    z = logits - logits.max(axis=1, keepdims=True)
    for _ in range(40):
        inverse = (low + high) / 2
        probs = np.exp(z * inverse)
        probs /= probs.sum(axis=1, keepdims=True)
        slope = ((probs * z).sum(axis=1) - z[rows, labels]).mean()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return np.array([1 / low], dtype=np.float32)


def temperature_of_torch(logits, labels):
    scores, right = torch.tensor(logits), torch.tensor(labels)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores / log_t.exp(), right)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_t.exp().detach()


def temperature_by_thirds(logits, labels):
    low, high = 0.1, 10.0
    while high - low > 0.004:
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if cross_entropy(logits, labels, a) < cross_entropy(logits, labels, b):
            high = b
        else:
            low = a
    return round((low + high) / 2, 2)


def temperature_in_lists(logits, labels):
    rows = [[v - max(row) for v in row] for row in logits.tolist()]

    def loss(t):
        total = 0.0
        for row, label in zip(rows, labels.tolist(), strict=True):
            total += math.log(sum(math.exp(v / t) for v in row)) - row[label] / t
        return total

    best = min((0.1 * 1.2**i for i in range(27)), key=loss)
    return min((best / 1.2 * 1.01**i for i in range(38)), key=loss)


def boast(logits, labels, t):
    probs = np.exp((logits - logits.max(axis=1, keepdims=True)) / t)
    probs /= probs.sum(axis=1, keepdims=True)
    return abs(probs.max(axis=1).mean() - (probs.argmax(axis=1) == labels).mean())


def squared(logits, labels, t):
    probs = np.exp((logits - logits.max(axis=1, keepdims=True)) / t)
    probs /= probs.sum(axis=1, keepdims=True)
    return ((probs - np.eye(logits.shape[1])[labels]) ** 2).sum()


def temperature_in_place(logits, labels):
    logits -= logits.max(axis=1, keepdims=True)
    return fitted(FINE)(logits, labels)


# --- 4 · transposed -------------------------------------------------------------------------------


def painted(*, kernel=lambda w: w, paint=lambda old, new: old + new, scaled=True, size=None):
    def transposed(y, w, s):
        k = len(w)
        x = np.zeros([s * (n - 1) + k if size is None else size(n, s, k) for n in y.shape])
        for i, j in np.ndindex(y.shape):
            piece = x[s * i : s * i + k, s * j : s * j + k]
            copy = (y[i, j] if scaled else 1) * kernel(w)[: piece.shape[0], : piece.shape[1]]
            piece[:] = paint(piece, copy)
        return x

    return transposed


def transposed_of_torch(y, w, s):
    y, w = torch.tensor(y), torch.tensor(w)
    return torch.nn.functional.conv_transpose2d(y[None, None], w[None, None], stride=s)[0, 0]


def transposed_of_fourier(y, w, s):
    spread = np.zeros([s * (n - 1) + 1 for n in y.shape])
    spread[::s, ::s] = y
    shape = [n + len(w) - 1 for n in spread.shape]
    product = np.fft.rfft2(spread, shape) * np.fft.rfft2(w, shape)
    return np.fft.irfft2(product, shape).astype(np.float32)


def transposed_of_steps(y, w, s):
    k, (height, width) = len(w), y.shape
    x = [[0.0] * (s * (width - 1) + k) for _ in range(s * (height - 1) + k)]
    for i, j, a, b in itertools.product(range(height), range(width), range(k), range(k)):
        x[s * i + a][s * j + b] += y[i][j] * w[a][b]
    return x


def transposed_by_matrix(y, w, s):
    shape = [s * (n - 1) + len(w) for n in y.shape]
    rows = []
    for i, j in np.ndindex(y.shape):
        row = np.zeros(shape)
        row[s * i : s * i + len(w), s * j : s * j + len(w)] = w
        rows.append(row.ravel())
    return (np.array(rows).T @ y.ravel()).reshape(shape)


def transposed_in_place(y, w, s):
    w[:] = w[::-1, ::-1].copy()
    return painted(kernel=lambda w: w[::-1, ::-1])(y, w, s)


def transposed_on_top(y, w, s, pictures={}):  # noqa: B006  (the mistake)
    """Paints on the picture of the last call."""
    key = y.shape, w.shape, s
    pictures[key] = pictures.get(key, 0) + painted()(y, w, s)
    return pictures[key]


RIGHT = {
    "receptive_field": [
        field_from_the_top,
        field_by_counting,
        field_of_arrays,
        field_recursive,
        solution("receptive_field"),
    ],
    "same_max_pool": [pool_in_lists, pool_of_torch, pool_of_the_package, pool_with_lowest],
    "temperature": [
        temperature_halving,
        temperature_of_torch,
        temperature_by_thirds,
        temperature_in_lists,
        fitted(np.arange(0.1, 10.005, 0.01)),
    ],
    "transposed": [
        transposed_of_torch,
        transposed_of_fourier,
        transposed_of_steps,
        transposed_by_matrix,
    ],
}
WRONG = {
    "receptive_field": [
        (field(reach=lambda k, d: k - 1), "The dilation changes nothing"),
        (field(stride_first=True), "own stride moves its windows apart"),
        (field(stride_first=True, reach=lambda k, d: k - 1), "the other way round"),
        (field(reach=lambda k, d: d * k), "adds k − 1 steps, not k"),
        (field(reach=lambda k, d: d * k - 1), "not over d·k"),
        (field(jumps=lambda j, s, d: 1), "The strides change nothing in your sizes"),
        (field(jumps=lambda j, s, d: s), "strides below multiply"),
        (field(jumps=lambda j, s, d: j + s - 1), "multiply; yours add up"),
        (field(jumps=lambda j, s, d: j * s * d), "only strides multiply into jump"),
        (field(end=-1), "read from the wrong end"),
        (lambda layers: solution("receptive_field")(layers)[::-1], "have changed places"),
        (lambda layers: (solution("receptive_field")(layers)[0], 1), "nothing in your jump"),
        (
            lambda layers: (
                solution("receptive_field")(layers)[0],
                layers[-1][1] if layers else 1,
            ),
            "last layer's own stride",
        ),
        (lambda layers: (solution("receptive_field")(layers)[0] + 3, 1), "`size` of"),
        (lambda layers: 3, "must return 2 things (size, jump)"),
        (field_without_copy, "changes its input `layers`"),
        (lambda layers: (layers[0][0], 1), "IndexError"),
    ],
    "same_max_pool": [
        (buggy_max_pool, "Padding of 0 wins … at the bottom and at the right"),
        (pooling(fill=0), "Padding of 0 wins … it must never win."),
        (pooling(fill=-1), "Padding of -1 wins"),
        (pooling(fill=-1e6), "Padding of -1e+06 wins"),
        (pooling(above=lambda total: total - total // 2), "extra row and column lie at the top"),
        (
            pooling(above=lambda total: total - total // 2, left=lambda total: total // 2),
            "The columns are right",
        ),
        (pooling(left=lambda total: total - total // 2), "The rows are right"),
        (pooling(above=lambda total: 0), "All padding lies below"),
        (pooling(above=lambda total: total), "All padding lies above"),
        (pooling(same=False), "⌈n/s⌉ windows a side"),
        (pooling(fill=np.inf, take=np.min), "smallest of each window"),
        (pooling(fill=np.nan, take=np.nanmean), "mean of each window"),
        (pooling(fill=0, take=np.mean), "a mean, and padding is in it"),
        (pooling(take=lambda window, axis: window.max()), "each channel has its own"),
        (pooling(step=1), "one pixel apart, whatever the stride"),
        (pool_in_place, "changes its input `x`"),
        (lambda x, k, s: pooling()(x[::-1], k, s), "numbers differ"),
        (lambda x, k, s: pooling()(x, k, s).transpose(1, 0, 2), "must have shape"),
    ],
    "temperature": [
        (lambda *case: 1 / temperature_halving(*case), "That is 1 / T"),
        (lambda *case: temperature_halving(*case) ** 2, "the square of the best T"),
        (lambda *case: temperature_halving(*case) ** 0.5, "the root of the best T"),
        (fitted(FINE, boast), "mean confidence equals the accuracy"),
        (fitted(FINE, squared), "smallest squared error"),
        (fitted(np.geomspace(1, 10, 800)), "and a smaller T brings it down to"),
        (fitted(np.geomspace(0.1, 3, 800)), "and a larger T brings it down to"),
        (fitted(np.arange(0.1, 10, 0.1)), "T brings it down to"),
        (
            fitted(FINE, functools.partial(cross_entropy, shifted=False)),
            "subtract each row's largest logit",
        ),
        (temperature_in_place, "changes its input `logits`"),
        (lambda *case: -1.0, "a positive number, and yours is -1"),
        (lambda *case: math.log(temperature_halving(*case)[0]), "a positive number"),
        (lambda *case: 1.0, "and a larger T"),
        (lambda logits, labels: logits.std(), "T brings it down to"),
        (lambda logits, labels: fitted(FINE)(logits, logits.argmax(1)), "and a larger T"),
        (lambda logits, labels: logits / 2, "one number"),
    ],
    "transposed": [
        (painted(kernel=lambda w: w[::-1, ::-1]), "turned by 180°"),
        (painted(kernel=lambda w: w.T), "Rows and columns of the kernel"),
        (painted(kernel=lambda w: w[::-1]), "upside down"),
        (painted(paint=lambda old, new: new), "wipes out the earlier: they must add up"),
        (painted(paint=np.maximum), "keeps the larger of both"),
        (painted(scaled=False), "must scale its own copy"),
        (painted(kernel=np.ones_like), "the kernel's numbers are missing"),
        (painted(size=lambda n, s, k: s * n), "must have shape"),
        (lambda y, w, s: painted()(y[::-1], w, s), "must have"),
        (lambda y, w, s: painted()(y, w, 1), "must have shape"),
        (lambda y, w, s: painted()(y.T, w, s), "must have shape"),
        (lambda y, w, s: painted()(y.T, w, s).T, "Rows and columns of the kernel"),
        (lambda y, w, s: 2 * painted()(y, w, s), "numbers differ"),
        (transposed_in_place, "changes its input `w`"),
        (lambda y, w, s: painted()(y, w, s)[None], "yours has shape (1, 7, 9)"),
        (transposed_on_top, "numbers differ"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
