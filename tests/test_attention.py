"""`aigc_utils.attention` against PyTorch, autograd, finite differences and its own laws."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aigc_utils import attention as att

SHAPES = [
    pytest.param((), 5, 5, 8, 8, id="one sequence"),
    pytest.param((), 3, 7, 4, 6, id="cross attention, d_v differs from d_k"),
    pytest.param((2, 3), 5, 6, 8, 4, id="batch and heads"),
    pytest.param((), 1, 1, 1, 1, id="one query, one key, one number"),
]
finite = st.floats(-30, 30, allow_nan=False, width=64)


def random_qkv(rng, batch, n_q, n_k, d_k, d_v, dtype=np.float64):
    shapes = ((*batch, n_q, d_k), (*batch, n_k, d_k), (*batch, n_k, d_v))
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def random_mask(rng, *shape):
    """A random mask in which every query may attend to at least one key."""
    mask = rng.random(shape) < 0.5
    mask[..., 0] |= ~mask.any(axis=-1)
    return mask


def numerical_gradient(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        up = function()
        array[index] = kept - step
        down = function()
        array[index] = kept
        gradient[index] = (up - down) / (2 * step)
    return gradient


# --- softmax -------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=3), elements=finite))
def test_softmax_is_positive_sums_to_one_and_ignores_a_shift(scores):
    weights = att.softmax(scores)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(att.softmax(scores + 700), weights, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_equals_torch_on_every_axis(axis):
    scores = np.random.default_rng(0).normal(scale=50, size=(4, 6))
    expected = torch.softmax(torch.from_numpy(scores), dim=axis).numpy()
    np.testing.assert_allclose(att.softmax(scores, axis=axis), expected, atol=1e-12)


def test_softmax_survives_huge_scores_and_gives_minus_infinity_no_weight():
    np.testing.assert_allclose(att.softmax([1e5, 1e5]), [0.5, 0.5])
    np.testing.assert_allclose(att.softmax([0.0, -np.inf]), [1, 0])


@pytest.mark.parametrize("bad", [[-np.inf, -np.inf], [np.nan, 0.0], [np.inf, 0.0]])
def test_softmax_without_a_finite_score_is_an_error(bad):
    with pytest.raises(ValueError, match="finite score in every row"):
        att.softmax([[0.0, 0.0], bad])


@pytest.mark.parametrize("empty", [np.zeros((3, 0)), np.float64(1.0)])
def test_softmax_of_nothing_is_an_error(empty):
    with pytest.raises(ValueError, match="at least one score"):
        att.softmax(empty)


def test_softmax_backward_is_the_product_with_the_jacobian():
    rng = np.random.default_rng(0)
    weights, grad = att.softmax(rng.normal(size=6)), rng.normal(size=6)
    jacobian = np.diag(weights) - np.outer(weights, weights)
    np.testing.assert_allclose(att.softmax_backward(grad, weights), jacobian @ grad, atol=1e-14)


# --- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["none", "causal", "random", "one for the whole batch"])
@pytest.mark.parametrize("batch, n_q, n_k, d_k, d_v", SHAPES)
def test_forward_equals_the_pytorch_kernel(batch, n_q, n_k, d_k, d_v, kind, dtype, tolerance):
    rng = np.random.default_rng(1)
    q, k, v = random_qkv(rng, batch, n_q, n_k, d_k, d_v, dtype)
    mask = {
        "none": None,
        "causal": np.tril(np.ones((n_q, n_k), dtype=bool)),
        "random": random_mask(rng, *batch, n_q, n_k),
        "one for the whole batch": random_mask(rng, 1, n_k),
    }[kind]
    output, weights = att.scaled_dot_product_attention(q, k, v, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)),
        attn_mask=None if mask is None else torch.from_numpy(mask),
    )
    assert output.dtype == weights.dtype == dtype
    assert output.shape == (*batch, n_q, d_v) and weights.shape == (*batch, n_q, n_k)
    np.testing.assert_allclose(output, expected.numpy(), atol=tolerance)


def test_causal_mask_equals_is_causal():
    q, k, v = random_qkv(np.random.default_rng(2), (2,), 7, 7, 4, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), is_causal=True
    )
    output, _ = att.scaled_dot_product_attention(q, k, v, att.causal_mask(7))
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-12)


def test_additive_mask_of_pytorch_says_the_same_as_our_boolean_mask():
    rng = np.random.default_rng(3)
    q, k, v = random_qkv(rng, (), 4, 5, 3, 3)
    mask = random_mask(rng, 4, 5)
    additive = torch.zeros(4, 5, dtype=torch.float64).masked_fill(
        ~torch.from_numpy(mask), -torch.inf
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), attn_mask=additive
    )
    output, _ = att.scaled_dot_product_attention(q, k, v, mask)
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-12)


def test_integers_are_computed_as_floats():
    output, weights = att.scaled_dot_product_attention([[1, 0]], [[1, 0], [0, 1]], [[1], [0]])
    assert output.dtype == weights.dtype == np.float64
    np.testing.assert_allclose(weights.sum(), 1)


def test_axes_in_front_broadcast():
    rng = np.random.default_rng(4)
    q, _, _ = random_qkv(rng, (2, 3), 4, 5, 6, 6)
    _, k, v = random_qkv(rng, (2, 1), 4, 5, 6, 6)
    shared, _ = att.scaled_dot_product_attention(q, k, v)
    repeated, _ = att.scaled_dot_product_attention(
        q, np.repeat(k, 3, axis=1), np.repeat(v, 3, axis=1)
    )
    np.testing.assert_allclose(shared, repeated)


# --- laws ----------------------------------------------------------------------------------------

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(seeds, sizes, sizes, sizes, sizes, st.floats(0.01, 100))
def test_rows_sum_to_one_and_outputs_are_averages_of_values(seed, n_q, n_k, d_k, d_v, scale):
    rng = np.random.default_rng(seed)
    q, k, v = random_qkv(rng, (2,), n_q, n_k, d_k, d_v)
    mask = random_mask(rng, 2, n_q, n_k)
    output, weights = att.scaled_dot_product_attention(scale * q, k, v, mask)
    assert (weights >= 0).all() and (weights[~mask] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-12)
    assert (output <= v.max(axis=-2, keepdims=True) + 1e-12).all()
    assert (output >= v.min(axis=-2, keepdims=True) - 1e-12).all()


@settings(deadline=None)
@given(seeds, sizes)
def test_self_attention_is_permutation_equivariant(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    w_q, w_k, w_v, w_o = rng.normal(size=(4, 4, 4))
    order = rng.permutation(n)
    straight, _ = att.multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads=2)
    shuffled, _ = att.multi_head_attention(x[order], w_q, w_k, w_v, w_o, n_heads=2)
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-10)


@settings(deadline=None)
@given(seeds, st.integers(2, 8), st.data())
def test_nothing_leaks_through_a_causal_mask(seed, n, data):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    weights = rng.normal(size=(4, 4, 4))
    changed_from = data.draw(st.integers(1, n - 1))
    other = x.copy()
    other[changed_from:] = rng.normal(size=other[changed_from:].shape)
    before, _ = att.multi_head_attention(x, *weights, n_heads=2, mask=att.causal_mask(n))
    after, _ = att.multi_head_attention(other, *weights, n_heads=2, mask=att.causal_mask(n))
    np.testing.assert_array_equal(before[:changed_from], after[:changed_from])


# --- backward ------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch, n_q, n_k, d_k, d_v", SHAPES)
def test_backward_passes_the_gradient_check(batch, n_q, n_k, d_k, d_v, masked):
    rng = np.random.default_rng(5)
    q, k, v = random_qkv(rng, batch, n_q, n_k, d_k, d_v)
    mask = random_mask(rng, *batch, n_q, n_k) if masked else None
    g = rng.normal(size=(*batch, n_q, d_v))

    def loss():
        return (g * att.scaled_dot_product_attention(q, k, v, mask)[0]).sum()

    _, weights = att.scaled_dot_product_attention(q, k, v, mask)
    gradients = att.scaled_dot_product_attention_backward(g, q, k, v, weights)
    for array, gradient in zip((q, k, v), gradients, strict=True):
        assert gradient.shape == array.shape
        np.testing.assert_allclose(gradient, numerical_gradient(loss, array), atol=1e-6)


@pytest.mark.parametrize(
    "q_batch, kv_batch", [((2, 3), (2, 3)), ((2, 3), (2, 1)), ((2, 3), ()), ((), (2,))]
)
def test_backward_equals_autograd_with_mask_and_broadcast_axes(q_batch, kv_batch):
    rng = np.random.default_rng(6)
    q, _, _ = random_qkv(rng, q_batch, 4, 5, 3, 2)
    _, k, v = random_qkv(rng, kv_batch, 4, 5, 3, 2)
    mask = random_mask(rng, 4, 5)
    output, weights = att.scaled_dot_product_attention(q, k, v, mask)
    g = rng.normal(size=output.shape)
    ours = att.scaled_dot_product_attention_backward(g, q, k, v, weights)
    tensors = [torch.tensor(array, requires_grad=True) for array in (q, k, v)]
    scores = tensors[0] @ tensors[1].mT / 3**0.5
    scores = scores.masked_fill(~torch.from_numpy(mask), -torch.inf)
    (torch.softmax(scores, dim=-1) @ tensors[2] * torch.from_numpy(g)).sum().backward()
    for mine, tensor in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), atol=1e-12)


def test_backward_through_the_pytorch_kernel_itself():
    rng = np.random.default_rng(7)
    q, k, v = random_qkv(rng, (2, 3), 6, 6, 4, 4)
    mask = att.causal_mask(6)
    output, weights = att.scaled_dot_product_attention(q, k, v, mask)
    g = rng.normal(size=output.shape)
    tensors = [torch.tensor(array, requires_grad=True) for array in (q, k, v)]
    torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True).backward(
        torch.from_numpy(g)
    )
    ours = att.scaled_dot_product_attention_backward(g, q, k, v, weights)
    for mine, tensor in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), atol=1e-12)


def test_no_gradient_reaches_a_masked_key():
    rng = np.random.default_rng(8)
    q, k, v = random_qkv(rng, (), 3, 4, 2, 2)
    _, weights = att.scaled_dot_product_attention(q, k, v, [True, True, False, True])
    _, grad_k, grad_v = att.scaled_dot_product_attention_backward(
        rng.normal(size=(3, 2)), q, k, v, weights
    )
    assert (grad_k[2] == 0).all() and (grad_v[2] == 0).all()


# --- heads ---------------------------------------------------------------------------------------


def test_split_and_merge_undo_each_other():
    x = np.arange(2 * 5 * 6.0).reshape(2, 5, 6)
    heads = att.split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 2)
    np.testing.assert_array_equal(heads[0, 1, 4], x[0, 4, 2:4])
    np.testing.assert_array_equal(att.merge_heads(heads), x)


@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention_equals_torch_module(causal):
    d_model, n_heads, n = 12, 3, 7
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True).double()
    x = torch.randn(2, n, d_model, dtype=torch.float64)
    mask = att.causal_mask(n) if causal else None
    with torch.no_grad():
        # This module's mask is the other way round: True = may NOT attend.
        expected, expected_weights = module(
            x, x, x,
            attn_mask=None if mask is None else ~torch.from_numpy(mask),
            average_attn_weights=False,
        )  # fmt: skip
    w_q, w_k, w_v = (w.T for w in module.in_proj_weight.detach().numpy().reshape(3, 12, 12))
    w_o = module.out_proj.weight.detach().numpy().T
    output, weights = att.multi_head_attention(x.numpy(), w_q, w_k, w_v, w_o, n_heads, mask)
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(weights, expected_weights.numpy(), atol=1e-12)


def test_one_head_is_plain_attention():
    rng = np.random.default_rng(9)
    x, w_q, w_k, w_v = rng.normal(size=(4, 5, 5))
    output, weights = att.multi_head_attention(x, w_q, w_k, w_v, np.eye(5), n_heads=1)
    expected, expected_weights = att.scaled_dot_product_attention(x @ w_q, x @ w_k, x @ w_v)
    np.testing.assert_allclose(output, expected)
    np.testing.assert_allclose(weights[0], expected_weights)


# --- errors: one sentence that names the shapes --------------------------------------------------


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((zeros(2, 3), zeros(4, 5), zeros(4, 1)), r"same width.*q \(2, 3\), k \(4, 5\)"),
        ((zeros(2, 3), zeros(4, 3), zeros(5, 1)), r"one value.*k \(4, 3\), v \(5, 1\)"),
        ((zeros(3), zeros(4, 3), zeros(4, 1)), r"two axes.*q \(3,\)"),
        ((zeros(2, 3), zeros(0, 3), zeros(0, 1)), r"at least one key.*k \(0, 3\)"),
        ((zeros(2, 0), zeros(3, 0), zeros(3, 1)), r"at least one key.*q \(2, 0\)"),
        ((zeros(2, 1, 3), zeros(3, 4, 3), zeros(3, 4, 1)), r"broadcast.*q \(2, 1, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        att.scaled_dot_product_attention(*arguments)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((2, 4)), r"dtype float64.*astype\(bool\)"),
        (np.ones((2, 4), dtype=int), r"dtype int64.*True = may attend"),
        (np.ones((4, 2), dtype=bool), r"\(4, 2\) does not broadcast.*\(2, 4\)"),
        (np.ones((3, 2, 4), dtype=bool), r"\(3, 2, 4\) does not broadcast"),
        (np.eye(2, 4, k=4, dtype=bool), "2 of 2 queries no key"),
        (np.array([[True] * 4, [False] * 4]), "1 of 2 queries no key"),
        (np.array(False), "2 of 2 queries no key"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        att.scaled_dot_product_attention(zeros(2, 3), zeros(4, 3), zeros(4, 1), mask)


def test_backward_names_the_arrays_that_do_not_belong():
    q, k, v = zeros(2, 3), zeros(4, 3), zeros(4, 1)
    with pytest.raises(ValueError, match=r"weights of shape \(4, 2\).*\(2, 4\)"):
        att.scaled_dot_product_attention_backward(zeros(2, 1), q, k, v, zeros(4, 2))
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 3\).*\(2, 1\)"):
        att.scaled_dot_product_attention_backward(zeros(2, 3), q, k, v, zeros(2, 4))


def test_heads_that_do_not_divide_and_projections_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(5, 8\) cannot be cut into 3"):
        att.split_heads(zeros(5, 8), 3)
    with pytest.raises(ValueError, match="0 equal heads"):
        att.split_heads(zeros(5, 8), 0)
    with pytest.raises(ValueError, match="n_heads, n, d"):
        att.merge_heads(zeros(5, 8))
    square = np.eye(8)
    with pytest.raises(ValueError, match=r"x of shape \(5, 6\).*w_q of shape \(8, 8\)"):
        att.multi_head_attention(zeros(5, 6), square, square, square, square, 2)
    with pytest.raises(ValueError, match=r"merged heads of shape \(5, 8\).*w_o of shape \(6, 8\)"):
        att.multi_head_attention(zeros(5, 8), square, square, square, zeros(6, 8), 2)


def test_arguments_are_left_as_they_were():
    arrays = random_qkv(np.random.default_rng(10), (), 3, 3, 2, 2)
    copies = [array.copy() for array in arrays]
    _, weights = att.scaled_dot_product_attention(*arrays, att.causal_mask(3))
    att.scaled_dot_product_attention_backward(np.ones((3, 2)), *arrays, weights)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_module_needs_numpy_only():
    code = "import sys, aigc_utils.attention; print('torch' in sys.modules, 'keras' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["False", "False"]
