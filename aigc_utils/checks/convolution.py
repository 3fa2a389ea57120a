"""Checkers and hints for the exercises of lesson 07, convolution.

from aigc_utils.checks import convolution as check
check.receptive_field(receptive_field)
check.hint("receptive_field", 1)
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc_utils import checks
from aigc_utils import convolution as conv
from aigc_utils.checks import demand, praise

Array = NDArray[np.float64]
Layer = tuple[int, int, int]  # kernel, stride, dilation

HINTS = {
    "receptive_field": (
        "Go through the layers from the picture upwards and keep two numbers: how many pixels one "
        "output sees (`size`) and how many pixels apart two neighbours start (`jump`).",
        "A kernel of k taps at dilation d reaches over d·(k − 1) + 1 outputs of the layer below. "
        "How many pixels do d·(k − 1) steps of that layer span?",
        "Two lines in the loop: size grows first, by a number of steps of length jump; then jump "
        "grows by the stride. The other order widens a layer by its own stride.",
    ),
    "same_max_pool": (
        "Compare with Keras on a picture whose pixels are all negative, and on one with a single "
        "bright pixel in the first row.",
        "Which number can never win a maximum? And where does the extra row of padding go when "
        "the total is odd?",
        "Pad with -np.inf, `total // 2` before and `total - total // 2` after.",
    ),
    "temperature": (
        "The loss to lower is the mean of −log p(right class) with p = softmax(logits / T). One "
        "number T is all there is to find.",
        "One unknown needs no gradient: try many values of T, below and above 1, on a logarithmic "
        "grid, and keep the best. A second, finer grid around it makes it exact.",
        "For each T: z = logits / T; loss = (log(sum(exp(z − max z))) + max z − z[right]).mean().",
    ),
    "transposed": (
        "In the convolution every window of the picture gives one number. Turn the arrow round: "
        "every number of y gives a whole window.",
        "Start from zeros of the size that makes y the output of a `valid` convolution, and let "
        "y[i, j] paint its copy of the kernel where its window lay. Windows may overlap.",
        "The window of y[i, j] is x[s*i : s*i+k, s*j : s*j+k]: what do you add to it?",
    ),
}


hint = partial(checks.show_hint, HINTS)
hints = partial(checks.show_hints, HINTS)


def receptive_field(function: Callable[[Sequence[Layer]], tuple[int, int]]) -> None:
    """Check (size, jump) of stacks of layers (kernel, stride, dilation) against counting."""
    answer = function([(3, 1, 1)])
    checks.answered(answer, "receptive_field")
    demand(
        np.shape(answer) == (2,),
        "`receptive_field` must return two numbers, (size, jump).",
    )
    cases: list[tuple[list[Layer], str]] = [
        ([], "With no layer at all an output is a pixel: it sees one, and the next is one away."),
        ([(3, 1, 1)], "One layer with kernel 3 sees three pixels and moves by one."),
        ([(3, 1, 1)] * 3, "Three kernels of 3: each adds k − 1 pixels, not k."),
        ([(3, 2, 1)], "A layer's own stride moves its windows apart but does not widen them."),
        ([(2, 2, 1), (3, 1, 1)], "After a stride of 2 each further step is worth two pixels."),
        ([(3, 1, 2)], "The dilation counts: k taps at dilation d reach over d·(k − 1) + 1 places."),
        ([(5, 2, 1), (3, 2, 1), (3, 1, 4), (2, 3, 1)], "All together it does not fit yet."),
    ]
    for layers, sentence in cases:
        demand(tuple(function(layers)) == _counted(layers), f"{sentence} Layers: {layers}.")
    praise("these are the pixels that one output sees, counted one by one.")


def same_max_pool(function: Callable[[Array, int, int], Array]) -> None:
    """Check max pooling with `same` padding on pictures (height, width, channels)."""
    rng = np.random.default_rng(7)
    picture = rng.normal(size=(7, 8, 3))
    kept = picture.copy()
    answer = function(picture, 3, 2)
    checks.answered(answer, "same_max_pool")
    demand(np.array_equal(picture, kept), "The input was changed: pad a copy of it.")
    expected = _pooled(picture, 3, 2)
    demand(
        np.shape(answer) == expected.shape,
        f"`same` with stride 2 makes (7, 8, 3) into {expected.shape}: ⌈n/s⌉ windows a side.",
    )
    demand(
        (np.asarray(function(picture - 100, 3, 2)) < 0).all(),
        "A picture that is negative everywhere has a zero in your answer: padding must never win.",
    )
    for height, width, size, stride in [(8, 8, 3, 2), (9, 6, 4, 1), (10, 7, 5, 3)]:
        picture = rng.normal(size=(height, width, 2))
        demand(
            np.allclose(function(picture, size, stride), _pooled(picture, size, stride)),
            "The windows lie one pixel off when the total padding is odd: the extra row and "
            "column go to the bottom and to the right.",
        )
    praise("padding never wins, and the odd row goes to the bottom, as in Keras.")


def temperature(function: Callable[[Array, NDArray[np.int64]], float]) -> None:
    """Check that the temperature minimises the cross-entropy of softmax(logits / T)."""
    rng = np.random.default_rng(7)
    honest = rng.normal(scale=1.5, size=(4000, 5))
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)  # drawn from softmax(honest)
    answer = function(3 * honest, labels)
    checks.answered(answer, "temperature")
    demand(
        np.ndim(answer) == 0 and np.isfinite(answer) and float(answer) > 0,
        "`temperature` must return one positive number.",
    )
    demand(
        float(answer) > 1,
        "These logits are three times too large, and your T makes them larger still: the "
        "logits are divided by T.",
    )
    for scale, kind in [(3.0, "an overconfident"), (1.0, "an honest"), (0.4, "an underconfident")]:
        found = float(function(scale * honest, labels))
        best = min(
            _cross_entropy(scale * honest / t, labels) for t in scale * np.linspace(0.8, 1.25, 200)
        )
        excess = _cross_entropy(scale * honest / found, labels) - best
        side = "small" if found < scale else "large"
        demand(excess < 1e-4, f"For {kind} network your T is too {side}: the loss can go lower.")
    with np.errstate(all="ignore"):
        found = function(3 * honest + 5000, labels)  # the same probabilities as 3 * honest
    demand(
        np.isfinite(found) and 2.9 < found < 3.1,
        "Adding 5000 to every logit changes no probability but upsets your answer: subtract the "
        "largest logit of each row before exp.",
    )
    praise("one number makes the confidence honest, and no answer changes.")


def transposed(function: Callable[[Array, Array, int], Array]) -> None:
    """Check the transposed convolution of one channel: the adjoint of a `valid` convolution."""
    rng = np.random.default_rng(7)
    y, w = rng.normal(size=(3, 4)), rng.normal(size=(3, 3))
    answer = function(y, w, 2)
    checks.answered(answer, "transposed")
    demand(
        np.shape(answer) == (7, 9),
        f"y of shape (3, 4) at stride 2 with kernel 3 must give (7, 9), and yours is "
        f"{np.shape(answer)}: that is the picture whose `valid` convolution has the shape of y.",
    )
    dot = np.asarray(function(np.ones((1, 1)), w, 2))
    demand(
        not np.allclose(dot, w[::-1, ::-1]),
        "One bright pixel becomes the kernel turned by 180°: here the kernel stays as it is, "
        "because it was the forward pass that turned it.",
    )
    demand(np.allclose(dot, w), "A single 1 must paint one unchanged copy of the kernel.")
    demand(
        np.allclose(function(2 * y, w, 2), 2 * np.asarray(answer)),
        "Twice the input must give twice the output: every number of y scales its copy.",
    )
    for stride, k in [(1, 3), (2, 3), (2, 2), (3, 5), (2, 4)]:
        y, w = rng.normal(size=(3, 4)), rng.normal(size=(k, k))
        x = rng.normal(size=(stride * 2 + k, stride * 3 + k))
        painted = np.asarray(function(y, w, stride))
        demand(
            painted.shape == x.shape,
            f"At stride {stride} and kernel {k} the shape must be {x.shape}, not {painted.shape}.",
        )
        forward = conv.conv2d(x[None, :, :, None], w[:, :, None, None], stride=stride)[0, :, :, 0]
        demand(
            np.isclose((forward * y).sum(), (x * painted).sum()),
            "It is not the transpose of the convolution yet: where painted windows overlap they "
            "must add up, and neighbours in y lie one stride apart.",
        )
    praise("Σ conv(x)·y = Σ x·transposed(y) for every x and y: this is the transpose.")


def _counted(layers: Sequence[Layer]) -> tuple[int, int]:
    """Count from the top down which pixels the outputs 0 and 1 of a stack see."""
    starts = []
    for output in (0, 1):
        places = {output}
        for kernel, stride, dilation in reversed(layers):
            places = {p * stride + dilation * tap for p in places for tap in range(kernel)}
        starts.append(min(places))
        size = max(places) - min(places) + 1
    return size, starts[1] - starts[0]


def _pooled(picture: Array, size: int, stride: int) -> Array:
    return conv.max_pool(picture[None], size, stride=stride, padding="same")[0]


def _cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())
