"""The curves of training runs: several seeds as a band, and one run that grows while it is watched.

Lessons 04, 06 and 07 draw what `aigc_utils.history` keeps with this module; 08 and 09 redraw clouds
and pictures while they train.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aigc_utils import plots, session
from aigc_utils.history import History


def seed_band(
    ax: Axes, runs: Sequence[History], x: str, y: str, *, label: str, color: str | None = None
) -> None:
    """Draw several seeds of one setting as a median line in a minimum-to-maximum band.

    Raises ValueError when the runs were not logged at the same values of ``x``.
    """
    pairs = [run.points(x, y) for run in runs]
    if any(not np.array_equal(pairs[0][0], xs) for xs, _ in pairs):
        raise ValueError(f"the runs of {label!r} were logged at different values of {x!r}")
    plots.band(ax, pairs[0][0], np.stack([ys for _, ys in pairs]), label=label, color=color)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


class Live:
    """A curve that grows while a learner watches and is one static figure otherwise.

    ``with Live("step", ["train_loss", "val_loss"], title="…") as live: … live.update(history)``.
    Under test and on paper nothing is drawn until the block ends: redraws cannot be compared.
    """

    def __init__(self, x: str, ys: Sequence[str], *, title: str = "", ylabel: str = "") -> None:
        self.x, self.ys, self.title, self.ylabel = x, list(ys), title, ylabel
        self._history = History()
        self._display: Any = None

    def update(self, history: History) -> None:
        """Take the run as it stands; redraw it when a learner watches."""
        self._history = history
        if not session.is_interactive():
            return
        from IPython.display import display

        figure = self.figure()
        if self._display is None:
            self._display = display(figure, display_id=True)
        else:
            self._display.update(figure)
        plt.close(figure)

    def figure(self) -> Figure:
        """Return the figure of everything logged so far."""
        figure, ax = plt.subplots()
        for name in self.ys:
            with contextlib.suppress(KeyError):  # not logged yet
                ax.plot(*self._history.points(self.x, name), label=name.replace("_", " "))
        ax.set_xlabel(self.x)
        ax.set_ylabel(self.ylabel)
        ax.set_title(self.title)
        if ax.lines:
            ax.legend()
        return figure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not session.is_interactive():
            self.figure()
            plt.show()


def redrawn(draw: Callable[..., Figure]) -> Callable[..., None]:
    """Return a function that shows ``draw``'s figure in place of the one that it showed before.

    For callbacks of a training: a learner who watches sees the figure move; under test and on
    paper nothing is drawn.
    """
    handles: list[Any] = []

    def show(*news: Any) -> None:
        if not session.is_interactive():
            return
        from IPython.display import display

        figure = draw(*news)
        if handles:
            handles[0].update(figure)
        else:
            handles.append(display(figure, display_id=True))
        plt.close(figure)

    return show
