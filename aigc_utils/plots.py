"""Figures in one style for every lesson: heat maps, image grids, curves with their spread.

The colours are those of Okabe and Ito (2008), which readers with any common form of colour
blindness can tell apart.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
YELLOW = "#F0E442"
GREY = "#777777"

STYLE = {
    "figure.figsize": (7.0, 3.5),
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY]),
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.3,
    "font.size": 10,
    "legend.frameon": False,
    "image.cmap": "viridis",
    "lines.linewidth": 1.8,
}


def use_course_style() -> None:
    """Make the course's style the default for every figure that follows."""
    plt.style.use(STYLE)


def heatmap(
    ax: Axes,
    matrix: ArrayLike,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    fmt: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    signed: bool = False,
) -> None:
    """Draw ``matrix`` (n_rows, n_columns) as coloured cells, labelled and, with ``fmt``, numbered.

    ``fmt`` is a format such as ``".2f"``; each number is written in black or white, whichever
    can be read on its cell. ``signed`` takes colours that part at a white zero, blue below and red
    above, up to ``vmax`` on both sides (default: the largest finite size). What is not finite has
    no colour. Raises ValueError when the matrix is not two-dimensional or the labels do not fit it.
    """
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"a heat map needs a 2-D array, and this one has shape {values.shape}")
    for axis, labels in enumerate((rows, columns)):
        if labels is not None and len(labels) != values.shape[axis]:
            raise ValueError(f"{len(labels)} labels do not fit axis {axis} of shape {values.shape}")
    finite = np.isfinite(values)
    if signed:
        vmax = float(np.abs(values[finite]).max(initial=0)) if vmax is None else vmax
        vmin = -vmax
    picture = ax.imshow(
        np.ma.masked_where(~finite, values),
        cmap="RdBu_r" if signed else None,
        vmin=vmin,
        vmax=vmax,
        aspect="auto",
    )
    ax.grid(False)
    ax.set_title(title)
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if columns is not None:
        slanted = sum(len(label) for label in columns) > 30
        ax.set_xticks(
            range(len(columns)),
            columns,
            rotation=45 if slanted else 0,
            ha="right" if slanted else "center",
        )
    if fmt is not None:
        luminance = picture.to_rgba(values)[..., :3] @ (0.2126, 0.7152, 0.0722)
        dark = finite & (luminance < 0.5)
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if dark[i, j] else "black"
            ax.text(j, i, format(value, fmt), ha="center", va="center", color=colour, fontsize=8)
    else:
        ax.figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.02)


def image_grid(
    images: ArrayLike,
    *,
    columns: int,
    titles: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure with ``images`` (n, height, width[, 3]) side by side, ``columns`` a row.

    Integers are read as 0…255; floats must lie in [0, 1]. Raises ValueError otherwise.
    """
    pictures: np.ndarray = np.asarray(images)
    if pictures.ndim not in (3, 4):
        raise ValueError(
            f"images have shape (n, height, width) or (n, height, width, 3), not {pictures.shape}"
        )
    top = 255 if np.issubdtype(pictures.dtype, np.integer) else 1.0
    if pictures.size and (pictures.min() < 0 or pictures.max() > top + 1e-6):
        raise ValueError(
            f"pixel values lie between {pictures.min():.2f} and {pictures.max():.2f}; rescale them "
            f"to 0…{top} first"
        )
    n_rows = -(-len(pictures) // columns)
    cell = 7.0 / columns
    height = n_rows * (cell + (0.22 if titles is not None else 0)) + (0.3 if title else 0)
    figure, axes = plt.subplots(n_rows, columns, figsize=(7.0, height), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[index], fontsize=8, loc="center")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def band(ax: Axes, x: ArrayLike, ys: ArrayLike, *, label: str, color: str | None = None) -> None:
    """Draw the median of several runs as a line and their minimum-to-maximum range as a band.

    ``x`` has shape (points,), ``ys`` shape (runs, points): one row a seed.
    """
    runs = np.asarray(ys, dtype=float)
    if runs.ndim != 2:
        raise ValueError(f"a band needs an array (runs, points), and this one has {runs.shape}")
    (line,) = ax.plot(x, np.median(runs, axis=0), label=label, color=color)
    ax.fill_between(
        np.asarray(x), runs.min(axis=0), runs.max(axis=0), alpha=0.2, color=line.get_color(), lw=0
    )
