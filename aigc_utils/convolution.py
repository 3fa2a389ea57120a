"""Convolution and pooling in NumPy, forward and backward (lesson 07).

Layouts are Keras's: images (n, height, width, channels), kernels (k_h, k_w, c_in, c_out). What
deep learning calls convolution is cross-correlation: the kernel slides over the image unflipped.
``padding`` is ``"valid"`` (none) or ``"same"`` (as many zeros as make the output ⌈size/stride⌉
long; when their number is odd, the extra one goes to the bottom and to the right).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]


def same_padding(size: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return how many zeros ``same`` puts before and after ``size`` pixels of one axis.

    The total is what the last of ⌈size/stride⌉ windows sticks out. An odd total puts the extra
    zero after, as TensorFlow and Keras do. Raises ValueError for numbers below 1.
    """
    _at_least_one(size, kernel, stride, dilation)
    windows = -(-size // stride)
    reach = dilation * (kernel - 1) + 1
    total = max((windows - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def output_size(
    size: int, kernel: int, *, stride: int = 1, dilation: int = 1, padding: str = "valid"
) -> int:
    """Return how long the output of a convolution or a pooling is along one axis.

    ⌊(size + p − dilation·(kernel − 1) − 1) / stride⌋ + 1, where p is the total padding. Raises
    ValueError for numbers below 1, an unknown padding, and a kernel that does not fit.
    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).
    """
    _at_least_one(size, kernel, stride, dilation)
    total = sum(_padding(size, kernel, stride, dilation, padding))
    spare = size + total - dilation * (kernel - 1) - 1
    if spare < 0:
        raise ValueError(
            f"a kernel that reaches over {dilation * (kernel - 1) + 1} pixels does not fit into "
            f"{size}: take a smaller one, or padding='same'"
        )
    return spare // stride + 1


def patches(
    images: ArrayLike,
    kernel: tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: str = "valid",
    fill: float = 0.0,
) -> Array:
    """Return every window that a kernel sees: (n, out_h, out_w, k_h, k_w, channels).

    This is *im2col* with its axes kept apart; ``fill`` is the value of the padding. The result is
    a read-only view: copy it before you write to it. Raises ValueError when ``images`` are not
    (n, height, width, channels) and when the kernel does not fit.
    """
    images = _images(images)
    amounts = []
    for size, k in zip(images.shape[1:3], kernel, strict=True):
        output_size(size, k, stride=stride, dilation=dilation, padding=padding)  # raises
        amounts.append(_padding(size, k, stride, dilation, padding))
    padded = np.pad(images, ((0, 0), *amounts, (0, 0)), constant_values=fill)
    reach = tuple(dilation * (k - 1) + 1 for k in kernel)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    windows = windows[:, ::stride, ::stride, :, ::dilation, ::dilation]
    return np.moveaxis(windows, 3, -1)


def conv2d(
    images: ArrayLike,
    kernels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: str = "valid",
) -> Array:
    """Slide ``kernels`` over ``images``, multiply and add up: what Keras's ``Conv2D`` computes.

    Shapes: images (n, height, width, c_in), kernels (k_h, k_w, c_in, c_out), bias (c_out,);
    returns (n, out_h, out_w, c_out). Raises ValueError when shapes do not fit.
    Source: Goodfellow, Bengio and Courville, "Deep Learning" (2016), equation 9.6.
    """
    images, kernels = _images(images), _kernels(kernels, images)
    size = (kernels.shape[0], kernels.shape[1])
    windows = patches(images, size, stride=stride, dilation=dilation, padding=padding)
    # One matrix product: a row is a window, a column is a kernel.
    rows = windows.reshape(np.prod(windows.shape[:3]), -1)
    output = (rows @ kernels.reshape(-1, kernels.shape[-1])).reshape(*windows.shape[:3], -1)
    if bias is None:
        return output
    if np.shape(bias) != output.shape[-1:]:
        raise ValueError(
            f"the bias has shape {np.shape(bias)} and there are {output.shape[-1]} kernels: "
            "each needs one number"
        )
    return output + np.asarray(bias)


def conv2d_backward(
    grad_output: ArrayLike,
    images: ArrayLike,
    kernels: ArrayLike,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: str = "valid",
) -> tuple[Array, Array, Array]:
    """Return ∂loss/∂images, ∂loss/∂kernels and ∂loss/∂bias of `conv2d`, given ∂loss/∂output.

    ``grad_output`` has the output's shape (n, out_h, out_w, c_out), and the other arguments are
    those of the forward call. Raises ValueError when shapes do not fit. Derived in lesson 07.
    """
    images, kernels = _images(images), _kernels(kernels, images)
    grad_output = np.asarray(grad_output)
    size = (kernels.shape[0], kernels.shape[1])
    windows = patches(images, size, stride=stride, dilation=dilation, padding=padding)
    expected = (*windows.shape[:3], kernels.shape[-1])
    if grad_output.shape != expected:
        raise ValueError(
            f"grad_output has shape {grad_output.shape} and the output {expected}: "
            "pass the gradient of the loss with respect to the output"
        )
    grad_kernels = np.tensordot(windows, grad_output, axes=([0, 1, 2], [0, 1, 2]))
    # What each window hands back, (n, out_h, out_w, k_h, k_w, c_in) …
    grad_windows = np.tensordot(grad_output, kernels, axes=([3], [3]))
    # … is added up at the pixels that the window saw.
    (top, bottom), (left, right) = (
        _padding(length, k, stride, dilation, padding)
        for length, k in zip(images.shape[1:3], size, strict=True)
    )
    n, height, width, channels = images.shape
    grad = np.zeros((n, top + height + bottom, left + width + right, channels), grad_windows.dtype)
    for i, j in np.ndindex(size):
        rows = slice(i * dilation, i * dilation + stride * windows.shape[1], stride)
        columns = slice(j * dilation, j * dilation + stride * windows.shape[2], stride)
        grad[:, rows, columns] += grad_windows[:, :, :, i, j]
    grad_images = grad[:, top : top + height, left : left + width]
    return grad_images, grad_kernels, grad_output.sum(axis=(0, 1, 2))


def max_pool(
    images: ArrayLike, size: int, *, stride: int | None = None, padding: str = "valid"
) -> Array:
    """Return the largest value of each ``size`` × ``size`` window, channel by channel.

    ``stride`` is ``size`` unless told otherwise. Shapes (n, height, width, channels) in,
    (n, out_h, out_w, channels) out; with ``same`` the padding never wins.
    """
    stride = size if stride is None else stride
    windows = patches(images, (size, size), stride=stride, padding=padding, fill=-np.inf)
    largest: Array = windows.max(axis=(3, 4))
    return largest


def average_pool(images: ArrayLike, size: int) -> Array:
    """Return the mean of each ``size`` × ``size`` window, side by side, channel by channel.

    Shapes (n, height, width, channels) in, (n, height // size, width // size, channels) out.
    """
    averages: Array = patches(images, (size, size), stride=size).mean(axis=(3, 4))
    return averages


def _at_least_one(size: int, kernel: int, stride: int, dilation: int) -> None:
    for name, value in zip(
        ("size", "kernel", "stride", "dilation"), (size, kernel, stride, dilation), strict=True
    ):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"{name} is one whole number for both axes, at least 1, and not {value!r}"
            )


def _padding(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        return same_padding(size, kernel, stride=stride, dilation=dilation)
    raise ValueError(f"padding is 'valid' or 'same', not {padding!r}")


def _images(images: ArrayLike) -> Array:
    """Return four-axis floats as they are (float32 stays float32), integers as float64."""
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"images have shape (n, height, width, channels), and these have {images.shape}: "
            "a grey picture has one channel, images[..., None]"
        )
    return images if np.issubdtype(images.dtype, np.floating) else images.astype(np.float64)


def _kernels(kernels: ArrayLike, images: Array) -> Array:
    kernels = np.asarray(kernels)
    if kernels.ndim != 4 or kernels.shape[2] != images.shape[3]:
        raise ValueError(
            f"kernels of shape {kernels.shape} do not fit images of shape {images.shape}: "
            f"they need the shape (k_h, k_w, {images.shape[3]}, c_out)"
        )
    return kernels
