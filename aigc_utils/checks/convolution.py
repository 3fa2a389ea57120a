"""Checkers and hints of lesson 07's exercises (receptive field, pool, temperature, transpose)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_utils.checks import (
    Answer,
    CheckFailed,
    HintTable,
    Slips,
    demand,
    exercise,
    read_array,
    read_number,
    read_several,
    read_whole,
    show_hint,
    show_hints,
    show_pair,
)
from aigc_utils.checks.core import Found

HINTS: HintTable = {
    "receptive_field": (
        "Go through the layers from the picture upwards and keep two numbers: how many pixels one "
        "output sees (`size`) and how many pixels apart two neighbours start (`jump`).",
        "A kernel of k taps at dilation d reaches over d·(k − 1) + 1 outputs of the layer below. "
        "How many pixels do d·(k − 1) steps of that layer span?",
        "The loop has two lines, one for each number. In which order must they stand, so that a "
        "layer's own stride does not widen its own windows?",
    ),
    "same_max_pool": (
        "Compare with Keras on a picture whose pixels are all negative, and on one with a single "
        "bright pixel in the first row.",
        "Which number can never win a maximum? And where does the extra row of padding go when "
        "the total is odd?",
        "One line says what the frame is filled with, and zero wins there. Another says how many "
        "rows lie above the picture: with a total of 3, is it 1 or 2 in Keras?",
    ),
    "temperature": (
        "The loss to lower is the mean of −log p(right class) with p = softmax(logits / T). One "
        "number T is all there is to find.",
        "One unknown needs no gradient: try many values of T, below and above 1, on a logarithmic "
        "grid, and keep the best. A second, finer grid around it makes it exact.",
        "Of each row, log p(right) is its logit less the log of the sum of exp of them all, both "
        "after the division by T. What may you subtract from a row first, so that exp stays small?",
    ),
    "transposed": (
        "In the convolution every window of the picture gives one number. Turn the arrow round: "
        "every number of y gives a whole window.",
        "Start from zeros of the size that makes y the output of a `valid` convolution, and let "
        "y[i, j] paint its copy of the kernel where its window lay. Windows may overlap.",
        "For y[0, 1] the window starts at column s. Where does it start for y[i, j], how wide is "
        "it, and what must happen to a pixel that has been painted before?",
    ),
}

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Layer = tuple[int, int, int]  # kernel, stride, dilation

hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · receptive field --------------------------------------------------------------------------


@exercise("07")
def receptive_field(answer: Answer) -> str:
    """Check ``receptive_field(layers)`` -> (size, jump), layers of (kernel, stride, dilation)."""
    stacks: list[list[Layer]] = [
        [(3, 1, 1)],
        [(5, 1, 1), (2, 1, 1), (3, 1, 1)],
        [(3, 2, 1)],
        [(2, 3, 1), (3, 1, 1)],
        [(3, 1, 2)],
        [(5, 2, 1), (3, 5, 1), (3, 1, 4), (2, 3, 1)],
        [(1, 2, 3), (7, 3, 2), (1, 1, 1), (4, 5, 3), (3, 2, 7)],
        [(3, 1, 3), (2, 2, 1)] * 4,
        [],
    ]
    found: dict[str, list[Found]] = {"size": [], "jump": []}
    for layers in stacks:
        values = read_several(answer(layers), "receptive_field", ("size", "jump"))
        expected = _size(layers), _jump(layers)
        for part, value, right in zip(found, values, expected, strict=True):
            found[part].append(((layers,), read_whole(value, part), right))
    swapped = all(
        (size[1], jump[1]) == (jump[2], size[2])
        for size, jump in zip(found["size"], found["jump"], strict=True)
    )
    demand(not swapped, "The two have changed places: return (size, jump).")
    answer.judge(found["size"], _SIZE_SLIPS, "size")
    answer.judge(found["jump"], _JUMP_SLIPS, "jump")
    return "these are the pixels that one output sees, counted one by one."


def _size(
    layers: Sequence[Layer],
    reach: Callable[[int, int], int] = lambda kernel, dilation: dilation * (kernel - 1),
    stride_first: bool = False,
    strides: Callable[[int, int, int], int] = lambda jump, stride, dilation: jump * stride,
    start: int = 1,
) -> int:
    size, jump = start, 1
    for kernel, stride, dilation in layers:
        after = strides(jump, stride, dilation)
        size += reach(kernel, dilation) * (after if stride_first else jump)
        jump = after
    return size


def _plain_reach(kernel: int, dilation: int) -> int:
    return kernel - 1


def _jump(layers: Sequence[Layer]) -> int:
    return math.prod(stride for _, stride, _ in layers)


_SIZE_SLIPS: Slips = [
    (
        partial(_size, reach=_plain_reach),
        "The dilation changes nothing in your sizes: k taps at dilation d reach over d·(k − 1) + 1 "
        "places.",
    ),
    (
        partial(_size, stride_first=True),
        "A layer's own stride moves its windows apart but does not widen them: let size grow "
        "before jump does.",
    ),
    (
        partial(_size, stride_first=True, reach=_plain_reach),
        "A layer's own stride does not widen its windows, and its dilation does: yours has it the "
        "other way round.",
    ),
    (
        partial(_size, strides=lambda *_: 1),
        "The strides change nothing in your sizes: after a stride of 2 each further step is worth "
        "two pixels.",
    ),
    (
        partial(_size, strides=lambda *_: 1, reach=_plain_reach),
        "Neither strides nor dilations change your sizes: that is right for plain layers only.",
    ),
    (
        partial(_size, reach=lambda kernel, dilation: dilation * kernel),
        "Each layer adds k − 1 steps, not k: one output of the layer below is seen already.",
    ),
    (
        partial(_size, reach=lambda kernel, dilation: dilation * kernel - 1),
        "A dilated kernel reaches over d·(k − 1) + 1 places, not over d·k.",
    ),
    (
        partial(_size, reach=lambda kernel, dilation: dilation * (kernel - 1) + 1),
        "Each layer adds its reach less one: one output of the layer below is seen already.",
    ),
    (partial(_size, start=0), "One pixel is missing: without any layer an output sees one."),
    (
        lambda layers: _size(layers[::-1]),
        "The stack is read from the wrong end: it starts at the picture.",
    ),
    (
        partial(_size, strides=lambda jump, stride, dilation: stride),
        "Only the layer just below moves the windows apart in your sizes: all strides below "
        "multiply.",
    ),
    (
        partial(_size, strides=lambda jump, stride, dilation: jump + stride - 1),
        "The strides below a layer multiply; yours add up.",
    ),
    (
        partial(_size, strides=lambda jump, stride, dilation: jump * stride * dilation),
        "The dilation widens a layer's own windows and does not move them apart: only strides "
        "multiply into jump.",
    ),
]

_JUMP_SLIPS: Slips = [
    (
        lambda layers: math.prod(stride * dilation for _, stride, dilation in layers),
        "The dilation widens a window and does not move its neighbour: jump is made of strides.",
    ),
    (lambda layers: sum(stride for _, stride, _ in layers), "The strides multiply; yours add up."),
    (
        lambda layers: 1 + sum(stride - 1 for _, stride, _ in layers),
        "The strides multiply; yours add up.",
    ),
    (
        lambda layers: layers[-1][1] if layers else 1,
        "That is the last layer's own stride, in outputs of the layer below: count in pixels.",
    ),
    (
        lambda layers: _jump(layers[:-1]),
        "The last layer's stride is missing: jump is the distance of *its* outputs.",
    ),
    (lambda layers: 1, "The strides change nothing in your jump."),
]


# --- 2 · pooling ----------------------------------------------------------------------------------


@exercise("07")
def same_max_pool(answer: Answer) -> str:
    """Check ``same_max_pool(x, k, s)`` on pictures (height, width, channels)."""
    rng = np.random.default_rng(7)
    found: list[Found] = []
    for shape, k, s in (
        ((7, 8, 3), 3, 2),
        ((8, 9, 2), 3, 2),
        ((9, 6, 2), 4, 1),
        ((10, 7, 1), 5, 3),
        ((5, 11, 4), 2, 3),  # gaps between the windows
        ((13, 6, 2), 3, 5),
        ((15, 9, 2), 2, 5),  # the last pixels lie in no window
        ((4, 3, 2), 1, 1),
        ((2, 5, 3), 7, 2),  # a window larger than the picture
        ((7, 4, 2), 2, 1),
    ):
        for picture in (-2e8 - 1e8 * rng.random(size=shape), rng.normal(size=shape)):
            expected = _pooled(picture, k, s)
            case = answer.case(picture, k, s)
            given = read_array(answer(picture, k, s), "same_max_pool")
            demand(
                given.shape == expected.shape,
                f"{case} must have shape {expected.shape}, ⌈n/s⌉ windows a side and the channels, "
                f"and yours has shape {given.shape}.",
            )
            found.append(((picture, k, s), given, expected))
    answer.judge(found, [*_POOL_SLIPS, *_filled_slips(found)])
    return "padding never wins, and the odd row goes to the bottom, as in Keras."


def _pooled(
    picture: Array,
    k: int,
    s: int,
    fill: float = -np.inf,
    above: Callable[[int, int], int] = lambda total, k: total // 2,
    left: Callable[[int, int], int] | None = None,
    take: Callable[..., Any] = np.max,
    step: int | None = None,
) -> Array:
    """Windows of k, ``step`` apart; ``above`` and ``left`` say how far outside they begin."""
    sides = picture.shape[:2]
    counts = [-(-n // s) for n in sides]
    totals = [max((count - 1) * s + k - n, 0) for count, n in zip(counts, sides, strict=True)]
    starts = above(totals[0], k), (left or above)(totals[1], k)
    frame = 2 * max(k, s) * max(counts)
    framed = np.pad(picture, ((frame, frame), (frame, frame), (0, 0)), constant_values=fill)
    pooled = np.empty((*counts, picture.shape[2]))
    for i, j in np.ndindex(*counts):
        row, column = (
            frame + (step or s) * at - start for at, start in zip((i, j), starts, strict=True)
        )
        pooled[i, j] = take(framed[row : row + k, column : column + k], axis=(0, 1))
    return pooled


def _larger(total: int, k: int) -> int:
    return total - total // 2


def _filled_slips(found: Sequence[Found]) -> Slips:
    """Recognise what padding has won a maximum: a number that the darkest picture does not have."""
    (picture, _, _), given, _ = found[0]
    foreign = given[given > picture.max()]
    if not foreign.size:
        return []
    fill = float(foreign[0])
    wins = f"Padding of {fill:g} wins where all pixels of a window are smaller: it must never win"
    return [
        (partial(_pooled, fill=fill), f"{wins}."),
        (
            partial(_pooled, fill=fill, above=_larger),
            f"{wins}. And where the total padding is odd, the extra row and column belong at the "
            "bottom and at the right.",
        ),
    ]


_POOL_SLIPS: Slips = [
    (
        partial(_pooled, above=_larger),
        "Padding never wins, but where its total is odd your extra row and column lie at the top "
        "and at the left: they belong at the bottom and at the right.",
    ),
    (
        partial(_pooled, above=_larger, left=lambda total, k: total // 2),
        "The columns are right, but where the total padding of the rows is odd the extra one lies "
        "at the top: it belongs at the bottom.",
    ),
    (
        partial(_pooled, left=_larger),
        "The rows are right, but where the total padding of the columns is odd the extra one lies "
        "at the left: it belongs at the right.",
    ),
    (
        partial(_pooled, above=lambda total, k: 0),
        "All padding lies below and to the right: half of it belongs above and to the left.",
    ),
    (
        partial(_pooled, above=lambda total, k: total),
        "All padding lies above and to the left: half of it belongs below and to the right.",
    ),
    (
        partial(_pooled, above=lambda total, k: k // 2),
        "k // 2 rows lie above the picture, whatever its size: how many are missing depends on the "
        "size and the stride, too.",
    ),
    (
        partial(_pooled, above=lambda total, k: (k - 1) // 2),
        "(k − 1) // 2 rows lie above the picture, whatever its size: how many are missing depends "
        "on the size and the stride, too.",
    ),
    (partial(_pooled, fill=np.inf, take=np.min), "That is the smallest of each window."),
    (partial(_pooled, fill=np.nan, take=np.nanmin), "That is the smallest of each window."),
    (partial(_pooled, fill=np.nan, take=np.nanmean), "That is the mean of each window."),
    (
        partial(_pooled, fill=0.0, take=np.mean),
        "That is a mean, and padding is in it.",
    ),
    (
        partial(_pooled, take=lambda window, axis: window.max()),
        "The largest of all channels is taken: each channel has its own.",
    ),
    (partial(_pooled, step=1), "The windows lie one pixel apart, whatever the stride."),
]


# --- 3 · temperature ------------------------------------------------------------------------------


@exercise("07", seconds=15)  # the first optimiser of torch takes seconds to be imported
def temperature(answer: Answer) -> str:
    """Check that ``temperature(logits, labels)`` minimises the loss of softmax(logits / T)."""
    cases = [_claims(seed, *shape) for seed, shape in enumerate(_NETS)]
    logits, labels = cases[0]
    rng = np.random.default_rng(9)
    far = [(logits + 5000, labels), (logits - 5000 * rng.random((len(labels), 1)), labels)]
    found: list[tuple[Any, float, float]] = []
    for args in (*cases, *far):
        value = read_number(answer(*args), "temperature")
        demand(
            math.isfinite(value) and value > 0,
            f"A temperature is a positive number, and yours is {value:g}"
            + (
                "."
                if len(found) < len(cases)
                else " for logits around 5000: adding one number to a whole row must not change T."
            ),
        )
        found.append((args, value, _best(*args)))
    near = found[: len(cases)]
    if all(_close(value, best) for _, value, best in near):
        demand(
            all(_close(value, best) for _, value, best in found),
            "Adding 5000 to all logits of a row changes no probability but changes your T: "
            "subtract each row's largest logit before exp.",
        )
        return "one number makes the confidence honest, and no answer changes."
    for slip, sentence in _TEMPERATURE_SLIPS:
        named = [(value, slip(*args)) for args, value, _ in near]
        demand(not all(_close(v, t) or _close(v, min(max(t, 0.1), 10)) for v, t in named), sentence)
    args, value, best = next(row for row in near if not _close(row[1], row[2]))
    lower, mine = show_pair(_loss(best, *args), _loss(value, *args))
    raise CheckFailed(
        f"{answer.case(*args)}: with your T = {value:.3g} the loss is {mine}, and a "
        f"{'larger' if best > value else 'smaller'} T brings it down to {lower}."
    )


# Of each network: pictures, classes, how much too large its logits are on two thirds of the
# pictures and on the rest. The best T lie between 0.1 and 10, none of them at a round number.
_NETS = (
    (181, 5, 3.0, 3.0),
    (160, 4, 1.0, 1.0),
    (199, 7, 0.45, 0.45),
    (150, 3, 0.14, 0.14),
    (170, 5, 8.5, 8.5),
    (190, 6, 4.0, 0.3),  # over- and underconfident: T lies elsewhere than the mean confidence says
    (140, 3, 0.5, 9.0),
)


def _claims(seed: int, n: int, n_classes: int, most: float, rest: float) -> tuple[Array, Labels]:
    rng = np.random.default_rng([7, seed])
    honest = rng.normal(scale=1.5, size=(n, n_classes)) + np.linspace(0, 1, n_classes)
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)  # drawn from softmax(honest)
    return np.where(np.arange(n)[:, None] % 3 < 2, most, rest) * honest, labels


def _log_probs(t: float, logits: Array, axis: int = 1) -> Array:
    z = (logits - logits.max(axis=axis, keepdims=True)) / t
    result: Array = z - np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return result


def _loss(t: float, logits: Array, labels: Labels, axis: int = 1) -> float:
    return float(-_log_probs(t, logits, axis)[np.arange(len(labels)), labels].mean())


def _brier(t: float, logits: Array, labels: Labels) -> float:
    wanted = np.eye(logits.shape[1])[labels]
    return float(((np.exp(_log_probs(t, logits)) - wanted) ** 2).mean())


def _boast(t: float, logits: Array, labels: Labels) -> float:
    """How far the mean confidence lies from the accuracy."""
    confidence = np.exp(_log_probs(t, logits)).max(axis=1).mean()
    return abs(float(confidence - (logits.argmax(axis=1) == labels).mean()))


def _best(logits: Array, labels: Labels, loss: Callable[..., float] = _loss) -> float:
    """Return the T of lowest loss, to four digits, on three grids, each finer than the last."""
    grid = np.geomspace(0.05, 20, 80)
    for _ in range(3):
        best = min(grid, key=lambda t: loss(t, logits, labels))
        step = grid[1] / grid[0]
        grid = np.geomspace(best / step, best * step, 30)
    return float(best)


def _close(t: float, best: float) -> bool:
    return abs(t - best) <= max(0.011, 0.01 * best)


_TEMPERATURE_SLIPS: Slips = [
    (
        lambda logits, labels: 1 / _best(logits, labels),
        "That is 1 / T: the logits are *divided* by the temperature.",
    ),
    (
        partial(_best, loss=_boast),
        "With your T the mean confidence equals the accuracy, and the smallest cross-entropy was "
        "asked for: a network may be too sure in one place and too shy in another.",
    ),
    (partial(_best, loss=_brier), "That is the T of the smallest squared error."),
    (
        partial(_best, loss=partial(_loss, axis=0)),
        "Your softmax runs over the pictures: the classes lie along axis 1.",
    ),
    (
        lambda logits, labels: math.sqrt(_best(logits, labels)),
        "That is the root of the best T.",
    ),
    (
        lambda logits, labels: _best(logits, labels) ** 2,
        "That is the square of the best T.",
    ),
]


# --- 4 · transposed -------------------------------------------------------------------------------


@exercise("07")
def transposed(answer: Answer) -> str:
    """Check ``transposed(y, w, s)``, the transpose of a `valid` convolution, for one channel."""
    rng = np.random.default_rng(7)
    found: list[Found] = []
    for shape, k, s in (
        ((3, 4), 3, 2),
        ((1, 1), 3, 2),
        ((2, 5), 4, 1),
        ((5, 2), 2, 5),  # gaps between the windows
        ((4, 3), 5, 2),
        ((1, 6), 1, 2),
        ((7, 1), 7, 3),
        ((3, 3), 2, 2),
        ((3, 3), 2, 2),  # again: nothing is left of the last call
    ):
        y, w = rng.normal(size=shape), rng.normal(size=(k, k))
        given = read_array(answer(y, w, s), "transposed")
        expected = _painted(y, w, s)
        demand(
            given.shape == expected.shape,
            f"{answer.case(y, w, s)} must have shape {expected.shape}, that of the picture whose "
            f"`valid` convolution has the shape of y, and yours has shape {given.shape}.",
        )
        found.append(((y, w, s), given, expected))
    apart = [case for case in found if len(case[0][1]) <= case[0][2] or case[0][0].size == 1]
    answer.judge(apart, _KERNEL_SLIPS)
    answer.judge(found, [*_KERNEL_SLIPS, *_OVERLAP_SLIPS])
    return "Σ conv(x)·y = Σ x·transposed(y) for every x and y: this is the transpose."


def _painted(
    y: Array,
    w: Array,
    s: int,
    paint: Callable[[Array, Array], Array] = np.add,
) -> Array:
    x = np.zeros([s * (n - 1) + len(w) for n in y.shape])
    for i, j in np.ndindex(y.shape):
        window = x[s * i : s * i + len(w), s * j : s * j + len(w)]
        window[:] = paint(window, y[i, j] * w)
    return x


def _averaged(y: Array, w: Array, s: int) -> Array:
    times = _painted(np.ones_like(y), np.ones_like(w), s)
    return _painted(y, w, s) / np.maximum(times, 1)


_KERNEL_SLIPS: Slips = [
    (
        lambda y, w, s: _painted(y, w[::-1, ::-1], s),
        "The kernel is painted turned by 180°: a single 1 in y becomes the kernel as it is.",
    ),
    (lambda y, w, s: _painted(y, w.T, s), "Rows and columns of the kernel have changed places."),
    (lambda y, w, s: _painted(y, w[::-1], s), "The kernel is painted upside down."),
    (
        lambda y, w, s: _painted(y, w[:, ::-1], s),
        "The kernel is painted with left and right exchanged.",
    ),
    (
        lambda y, w, s: _painted(np.ones_like(y), w, s),
        "Every copy of the kernel has the same strength: each number of y must scale its own copy.",
    ),
    (
        lambda y, w, s: _painted(y, np.ones_like(w), s),
        "Every window is painted in one colour: the kernel's numbers are missing.",
    ),
    (
        partial(_painted, paint=np.maximum),
        "A pixel keeps the larger of both, what it is and what is painted: they must add up.",
    ),
]

_OVERLAP_SLIPS: Slips = [
    (
        partial(_painted, paint=lambda old, new: new),
        "Where windows overlap the later one wipes out the earlier: they must add up.",
    ),
    (
        partial(_painted, paint=lambda old, new: np.where(old == 0, new, old)),
        "Where windows overlap the earlier one stays: they must add up.",
    ),
    (_averaged, "Where windows overlap you take the mean: they must add up."),
]
