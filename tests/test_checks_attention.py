"""Lesson 01: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from exercises import exercise_from
from graded import assert_checkers_and_hints, run_answer

from aigc_utils import attention
from aigc_utils.checks import CheckFailed
from aigc_utils.checks import attention as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "01_attention.ipynb"
NAMES = list(check.HINTS)


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    space = {"np": np, "attention": attention}
    return run_answer(notebook, name, space)


def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def softmax_unstable(scores, temperature=1.0):
    exponentials = np.exp(scores / temperature)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax_columns(scores, temperature=1.0):
    exponentials = np.exp(scores / temperature)
    return exponentials / exponentials.sum(axis=0)


def softmax_one_sum_for_all(scores, temperature=1.0):
    exponentials = np.exp(scores / temperature)
    return exponentials / exponentials.sum()


def softmax_one_shift_for_all(scores, temperature=1.0):
    return softmax_unstable(scores - scores.max(), temperature)


def softmax_times(scores, temperature=1.0):
    return attention.softmax(scores * temperature)


def softmax_in_place(scores, temperature=1.0):
    scores -= scores.max(axis=-1, keepdims=True)
    return attention.softmax(scores / temperature)


def window(n, width, shift=0, **_):
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    return (distance >= shift) & (distance < width)


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


def grouped(share=np.repeat, masked=True):
    def grouped_query_attention(x, w_q, w_k, w_v, w_o, n_heads, n_kv_heads, mask=None):
        q = attention.split_heads(x @ w_q, n_heads)
        k, v = (attention.split_heads(x @ w, n_kv_heads) for w in (w_k, w_v))
        k, v = (share(heads, n_heads // n_kv_heads, axis=-3) for heads in (k, v))
        heads, _ = attention.scaled_dot_product_attention(q, k, v, mask if masked else None)
        return attention.merge_heads(heads) @ w_o

    return grouped_query_attention


def in_turn(heads, times, axis):
    return np.concatenate([heads] * times, axis=axis)


def with_weights(*arguments):
    return grouped()(*arguments), "weights"


WRONG = [
    ("softmax", softmax_unstable, "1000 give nan: the exponential overflows"),
    ("softmax", softmax_columns, "columns sum to one instead of the rows"),
    ("softmax", softmax_one_sum_for_all, "rows of the weights do not sum to one"),
    ("softmax", softmax_one_shift_for_all, "one row disturbs the other"),
    ("softmax", softmax_times, "yours sharpens them"),
    ("softmax", softmax_in_place, "changes the array that it was given"),
    ("softmax", lambda s, t=1.0: attention.softmax(s), "temperature changes nothing"),
    ("softmax", lambda s, t=1.0: attention.softmax(s / np.sqrt(t)), "a quarter of every score"),
    ("softmax", lambda s, t=1.0: attention.softmax(2 * s / t), "not those of softmax"),
    ("softmax", lambda s, t=1.0: attention.softmax(s / t)[0], "must have shape"),
    ("sliding_window_mask", lambda n, w: attention.causal_mask(n), "see 3 keys.*sees 7"),
    ("sliding_window_mask", lambda n, w: window(n, w + 1), "see 3 keys.*sees 4"),
    ("sliding_window_mask", lambda n, w: window(n, w, shift=1), "attend to itself"),
    ("sliding_window_mask", lambda n, w: window(n, w, shift=1 - w), "future leaks"),
    ("sliding_window_mask", lambda n, w: window(n, w).T, "looks forward"),
    ("sliding_window_mask", lambda n, w: ~window(n, w), "upside down"),
    ("sliding_window_mask", lambda n, w: window(n, w).astype(float), "must be boolean"),
    ("sliding_window_mask", lambda n, w: window(n, w)[:-1], "must have shape"),
    ("sliding_window_mask", lambda n, w: window(n, 3), "n = 5 and window = 1 not"),
    (
        "sliding_window_mask",
        lambda n, w: window(n, w) & (np.arange(n) % n != 1)[:, None] | np.eye(n, dtype=bool),
        "another row has the wrong keys",
    ),
    ("attention_backward", backward(axis=0), "gradients of its scores must sum to zero"),
    ("attention_backward", backward(average=False), "gradients of its scores must sum to zero"),
    ("attention_backward", backward(scale_q=False), "`grad_q` .* off by a factor of 2.83"),
    ("attention_backward", backward(transpose_k=False), "3 queries and 6 keys do not go through"),
    ("attention_backward", lambda g, q, k, v, w: backward()(g, q, k, v, w)[:2], "return three"),
    (
        "attention_backward",
        lambda g, q, k, v, w: (*backward()(g, q, k, v, w)[:2], w.T @ np.abs(g)),
        "`grad_v` differs from the slope",
    ),
    ("grouped_query_attention", grouped(share=in_turn), "neighbouring query heads must share"),
    ("grouped_query_attention", grouped(masked=False), "the future leaks"),
    ("grouped_query_attention", with_weights, "must be one array, and yours is a tuple"),
    (
        "grouped_query_attention",
        lambda *a: grouped()(*a[:5], a[5], a[6], a[7]) * 2,
        "differs from attention whose keys",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_with_one_line(name, capsys):
    assert getattr(check, name)(solution(name)) is None
    praise = capsys.readouterr().out.splitlines()[-1]
    assert praise.startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_unsolved_cell_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    with pytest.raises(CheckFailed, match=rf"`{name}` gives nothing back yet"):
        getattr(check, name)(stub)


@pytest.mark.parametrize(
    "name, wrong, sentence", WRONG, ids=[f"{name}: {sentence}" for name, _, sentence in WRONG]
)
def test_a_wrong_answer_gets_the_sentence_that_fits(name, wrong, sentence, capsys):
    with pytest.raises(CheckFailed, match=sentence) as caught:
        getattr(check, name)(wrong)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)


def test_checkers_work_on_the_packages_own_functions():
    check.softmax(lambda scores, temperature=1.0: attention.softmax(scores / temperature))
    check.attention_backward(attention.scaled_dot_product_attention_backward)
