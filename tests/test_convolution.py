"""`aigc_utils.convolution` against Keras, plain loops, finite differences and its own laws."""

import itertools

import numpy as np
import pytest

from aigc_utils import convolution as conv
from aigc_utils import session

with session.quiet_stderr():
    import keras
    import tensorflow as tf

PADDINGS = ("valid", "same")
# (height, width, k_h, k_w, c_in, c_out, stride, dilation); Keras allows no stride with dilation
CASES = [
    (5, 5, 3, 3, 1, 1, 1, 1),
    (6, 8, 3, 2, 2, 3, 1, 1),
    (7, 6, 3, 3, 3, 4, 2, 1),
    (8, 9, 4, 4, 2, 2, 2, 1),
    (9, 10, 5, 4, 1, 2, 3, 1),
    (10, 9, 3, 3, 2, 2, 1, 2),
    (6, 6, 1, 1, 3, 2, 2, 1),
    (5, 7, 5, 7, 1, 1, 1, 1),
]


def random_case(rng, case):
    height, width, k_h, k_w, c_in, c_out, *_ = case
    return rng.normal(size=(2, height, width, c_in)), rng.normal(size=(k_h, k_w, c_in, c_out))


def by_loops(images, kernels, stride, dilation, padding):
    n, height, width, _ = images.shape
    k_h, k_w, _, c_out = kernels.shape
    sizes = [
        conv.output_size(s, k, stride=stride, dilation=dilation, padding=padding)
        for s, k in ((height, k_h), (width, k_w))
    ]
    top = left = 0
    if padding == "same":
        top, _ = conv.same_padding(height, k_h, stride=stride, dilation=dilation)
        left, _ = conv.same_padding(width, k_w, stride=stride, dilation=dilation)
    output = np.zeros((n, *sizes, c_out))
    for i, j, u, v in np.ndindex(*sizes, k_h, k_w):
        row, column = i * stride + u * dilation - top, j * stride + v * dilation - left
        if 0 <= row < height and 0 <= column < width:
            output[:, i, j] += images[:, row, column] @ kernels[u, v]
    return output


# --- sizes ---------------------------------------------------------------------------------------


def test_output_size_is_keras_over_a_grid():
    compared = 0
    grid = itertools.product(range(1, 13), range(1, 6), range(1, 4), range(1, 4), PADDINGS)
    for size, kernel, stride, dilation, padding in grid:
        reach = dilation * (kernel - 1) + 1
        if (stride > 1 and dilation > 1) or (padding == "valid" and reach > size):
            continue
        row, taps = np.zeros((1, size, 1), np.float32), np.zeros((kernel, 1, 1), np.float32)
        theirs = keras.ops.conv(row, taps, stride, padding, dilation_rate=dilation).shape[1]
        ours = conv.output_size(size, kernel, stride=stride, dilation=dilation, padding=padding)
        assert ours == theirs, (size, kernel, stride, dilation, padding)
        compared += 1
    assert compared > 400


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (28, 3, 1, (1, 1)),
        (28, 3, 2, (0, 1)),
        (27, 3, 2, (1, 1)),
        (28, 4, 1, (1, 2)),
        (5, 1, 3, (0, 0)),
    ],
)
def test_same_padding_puts_the_odd_zero_last(size, kernel, stride, expected):
    assert conv.same_padding(size, kernel, stride=stride) == expected


def test_same_gives_size_over_stride_rounded_up():
    for size, kernel, stride in itertools.product(range(1, 20), range(1, 6), range(1, 5)):
        expected = -(-size // stride)
        assert conv.output_size(size, kernel, stride=stride, padding="same") == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(size=4, kernel=5), "does not fit"),
        (dict(size=4, kernel=3, dilation=2), "reaches over 5 pixels"),
        (dict(size=4, kernel=3, stride=0), "at least 1"),
        (dict(size=4, kernel=3, padding="full"), "'valid' or 'same', not 'full'"),
    ],
)
def test_impossible_sizes_are_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        conv.output_size(**arguments)


# --- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_is_the_loops_and_keras(case, padding):
    images, kernels = random_case(np.random.default_rng(0), case)
    bias = np.arange(case[5], dtype=float)
    stride, dilation = case[6:]
    settings = dict(stride=stride, dilation=dilation, padding=padding)
    output = conv.conv2d(images, kernels, bias, **settings)
    np.testing.assert_allclose(output, by_loops(images, kernels, **settings) + bias, atol=1e-12)
    theirs = keras.ops.conv(images, kernels, stride, padding, dilation_rate=dilation)
    np.testing.assert_allclose(output, np.asarray(theirs) + bias, atol=1e-5)


def test_float32_stays_float32_and_integers_become_floats():
    kernels = np.ones((2, 2, 1, 1), np.float32)
    assert conv.conv2d(np.ones((1, 3, 3, 1), np.float32), kernels).dtype == np.float32
    assert conv.conv2d(np.full((1, 3, 3, 1), 255, np.uint8), kernels).max() == 4 * 255


def test_nothing_is_flipped():
    impulse = np.zeros((1, 5, 5, 1))
    impulse[0, 2, 2, 0] = 1
    kernel = np.arange(9.0).reshape(3, 3, 1, 1)
    output = conv.conv2d(impulse, kernel)[0, :, :, 0]
    np.testing.assert_array_equal(output, kernel[::-1, ::-1, 0, 0])


@pytest.mark.parametrize(
    ("images", "kernels", "words"),
    [
        ((28, 28), (3, 3, 1, 1), "one channel"),
        ((1, 28, 28, 1), (3, 3), "do not fit"),
        ((1, 28, 28, 3), (3, 3, 1, 8), r"they need the shape \(k_h, k_w, 3, c_out\)"),
    ],
)
def test_wrong_shapes_are_one_sentence(images, kernels, words):
    with pytest.raises(ValueError, match=words):
        conv.conv2d(np.zeros(images), np.zeros(kernels))


def test_strides_and_biases_that_do_not_fit_are_one_sentence():
    picture, kernels = np.zeros((1, 8, 8, 1)), np.zeros((3, 3, 1, 2))
    for call in (
        lambda: conv.same_padding(8, 3, stride=0),
        lambda: conv.max_pool(picture, 2, stride=0),
        lambda: conv.conv2d(picture, kernels, stride=(1, 2)),
    ):
        with pytest.raises(ValueError, match="stride is one whole number for both axes"):
            call()
    for bias in (np.zeros(1), np.zeros((7, 1)), np.zeros(3)):
        with pytest.raises(ValueError, match="there are 2 kernels: each needs one number"):
            conv.conv2d(picture, kernels, bias)


# --- backward ------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_is_finite_differences_and_keras(case, padding):
    rng = np.random.default_rng(1)
    images, kernels = random_case(rng, case)
    settings = dict(stride=case[6], dilation=case[7], padding=padding)
    grad_output = rng.normal(size=conv.conv2d(images, kernels, **settings).shape)
    grads = conv.conv2d_backward(grad_output, images, kernels, **settings)

    x, w, b = (tf.Variable(a) for a in (images, kernels, np.zeros(case[5])))
    with tf.GradientTape() as tape:
        y = keras.ops.conv(x, w, case[6], padding, dilation_rate=case[7]) + b
        loss = tf.reduce_sum(y * grad_output)
    for ours, theirs in zip(grads, tape.gradient(loss, [x, w, b]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)

    def loss_at(images, kernels):
        return (conv.conv2d(images, kernels, **settings) * grad_output).sum()

    # The loss is linear in either argument, so a difference is exact up to rounding.
    for position, grad in enumerate(grads[:2]):
        direction = rng.normal(size=grad.shape)
        moved = [images, kernels]
        moved[position] = moved[position] + direction
        slope = loss_at(*moved) - loss_at(images, kernels)
        assert np.isclose(slope, (grad * direction).sum())


def test_backward_names_a_gradient_of_the_wrong_shape():
    with pytest.raises(ValueError, match="gradient of the loss with respect to the output"):
        conv.conv2d_backward(np.ones((1, 3, 3, 1)), np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1)))


# --- pooling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, 2), (2, 1), (3, None)])
def test_max_pooling_is_keras(size, stride, padding):
    images = np.random.default_rng(2).normal(size=(2, 7, 8, 3)) - 3  # padding by zeros would win
    theirs = keras.ops.max_pool(images, size, strides=stride or size, padding=padding)
    ours = conv.max_pool(images, size, stride=stride, padding=padding)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_average_pooling_is_keras(size):
    images = np.random.default_rng(2).normal(size=(2, 7, 8, 3))
    theirs = keras.ops.average_pool(images, size)
    np.testing.assert_allclose(conv.average_pool(images, size), theirs, atol=1e-6)


def test_pooling_hides_no_pixel_that_is_no_number():
    images = np.ones((1, 4, 4, 1))
    images[0, 0, 1] = np.nan
    for pool in (conv.max_pool, conv.average_pool):
        np.testing.assert_array_equal(pool(images, 2)[0, :, :, 0], [[np.nan, 1], [1, 1]])


def test_patches_hold_every_window_once():
    images = np.arange(24.0).reshape(1, 4, 6, 1)
    windows = conv.patches(images, (2, 3), stride=1)
    assert windows.shape == (1, 3, 4, 2, 3, 1)
    np.testing.assert_array_equal(windows[0, 1, 2, :, :, 0], images[0, 1:3, 2:5, 0])
