"""Curves are drawn from the numbers of the run, once under test and in place for a learner."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from aigc_utils import curves, session
from aigc_utils.history import History


def make_run(first: float) -> History:
    rows = [{"step": step, "train_loss": first - step} for step in range(4)]
    return History(rows=[*rows, {"step": 1, "val_loss": 3.0}, {"step": 3, "val_loss": 1.0}])


def test_a_band_holds_every_seed_and_its_line_is_the_median() -> None:
    _, ax = plt.subplots()
    curves.seed_band(ax, [make_run(x) for x in (5.0, 1.0, 2.0)], "step", "train_loss", label="x")
    (line,), (area,) = ax.lines, ax.collections
    assert line.get_xdata().tolist() == [0, 1, 2, 3] and line.get_label() == "x"
    np.testing.assert_allclose(line.get_ydata(), [2.0, 1.0, 0.0, -1.0])
    heights = area.get_paths()[0].vertices[:, 1]
    assert heights.min() == -2.0 and heights.max() == 5.0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "train_loss")
    with pytest.raises(ValueError, match="'x' were logged at different values of 'step'"):
        shorter = History(rows=make_run(1.0).rows[:3])
        curves.seed_band(ax, [make_run(1.0), shorter], "step", "train_loss", label="x")
    plt.close("all")


def test_live_draws_one_figure_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: pytest.fail("drawn early"))
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    monkeypatch.setattr(session, "is_interactive", lambda: False)
    with curves.Live("step", ["train_loss", "val_loss"], title="falls") as live:
        live.update(make_run(2.0))
        assert shown == []
    (figure,) = shown
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [4, 2]
    plt.close("all")


def test_live_redraws_in_place_when_a_learner_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    calls = []

    class Handle:
        def update(self, figure: object) -> None:
            calls.append("update")

    def display(figure: object, display_id: bool) -> Handle:
        calls.append("display")
        return Handle()

    monkeypatch.setattr(session, "is_interactive", lambda: True)
    monkeypatch.setattr(IPython.display, "display", display)
    with curves.Live("step", ["train_loss"]) as live:
        for _ in range(3):
            live.update(make_run(2.0))
    assert calls == ["display", "update", "update"]
    assert plt.get_fignums() == []


def test_a_redrawn_figure_replaces_the_one_before_and_stays_away_on_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import IPython.display

    calls, drawn = [], []

    class Handle:
        def update(self, figure: object) -> None:
            calls.append("update")

    def draw(title: str) -> object:
        drawn.append(title)
        return plt.figure()

    monkeypatch.setattr(
        IPython.display, "display", lambda figure, display_id: calls.append("display") or Handle()
    )
    show = curves.redrawn(draw)
    monkeypatch.setattr(session, "is_interactive", lambda: False)
    show("on paper")
    assert drawn == []
    monkeypatch.setattr(session, "is_interactive", lambda: True)
    for title in ("a", "b", "c"):
        show(title)
    assert calls == ["display", "update", "update"] and drawn == ["a", "b", "c"]
    assert plt.get_fignums() == []
