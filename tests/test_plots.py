"""Figures show the numbers they were given and refuse what they cannot show."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from aigc_utils import plots


@pytest.fixture(autouse=True)
def close_figures():
    plots.use_course_style()
    yield
    plt.close("all")


def test_heatmap_writes_every_number_readably() -> None:
    _, ax = plt.subplots()
    plots.heatmap(ax, [[0.0, 1.0], [0.25, 0.75]], rows=["a", "b"], columns=["c", "d"], fmt=".2f")
    assert [text.get_text() for text in ax.texts] == ["0.00", "1.00", "0.25", "0.75"]
    assert [text.get_color() for text in ax.texts] == ["white", "black", "white", "black"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_a_signed_heatmap_is_white_at_zero_and_the_same_on_both_sides() -> None:
    _, ax = plt.subplots()
    plots.heatmap(ax, [[-1.0, 0.0], [0.5, -np.inf]], signed=True, fmt=".1f")
    picture = ax.images[0]
    assert picture.get_clim() == (-1.0, 1.0)
    below, zero, above = picture.to_rgba(np.array([-1.0, 0.0, 1.0]))[:, :3]
    assert zero.min() > 0.95 and below[2] > below[0] and above[0] > above[2]
    assert picture.get_array().mask.tolist() == [[False, False], [False, True]]
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black", "black"]


@pytest.mark.parametrize(
    ("matrix", "rows", "message"),
    [(np.zeros(3), None, r"\(3,\)"), (np.zeros((2, 2)), ["a"], "1 labels")],
)
def test_heatmap_refuses_what_does_not_fit(matrix, rows, message: str) -> None:
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=message):
        plots.heatmap(ax, matrix, rows=rows)


def test_image_grid_shows_each_picture_once() -> None:
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    figure = plots.image_grid(images, columns=3, titles=list("abcde"), title="five")
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 6 and len(shown) == 5
    np.testing.assert_array_equal(shown[4].images[0].get_array(), images[4])
    assert shown[0].images[0].get_clim() == (0, 255)


@pytest.mark.parametrize("images", [np.full((1, 2, 2), 1.5), np.full((1, 2, 2), -0.5), np.ones(4)])
def test_image_grid_refuses_other_ranges_and_shapes(images: np.ndarray) -> None:
    with pytest.raises(ValueError):
        plots.image_grid(images, columns=1)


def test_band_spans_minimum_to_maximum_around_the_median() -> None:
    _, ax = plt.subplots()
    plots.band(ax, [0, 1], [[1, 2], [3, 4], [8, 6]], label="three seeds")
    assert ax.lines[0].get_ydata().tolist() == [3, 4]
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 8)
    with pytest.raises(ValueError, match="runs, points"):
        plots.band(ax, [0, 1], [1, 2], label="one run")
