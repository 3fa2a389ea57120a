"""What the tests of every lesson's checkers share: answers from notebooks, tables, hints.

A lesson's test holds two tables, each from an exercise's name to a list: ``RIGHT`` of functions
that must pass, in the styles in which students write them, and ``WRONG`` of pairs of a function and
a piece of the sentence that it must get (`` … `` stands for a gap).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

from aigc_utils.checks import CheckFailed, core

Rights = Mapping[str, Sequence[Callable[..., Any]]]
Wrongs = Mapping[str, Sequence[tuple[Callable[..., Any], str]]]

UNREAD = "cannot make sense of"  # the core's last resort, which no table should need


def run_answer(notebook: nbformat.NotebookNode, name: str, space: dict[str, Any]) -> Any:
    """Run the learner's cell of one exercise in ``space`` and return what it defines."""
    cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name]
    exec(cells[0].source, space)
    return space[name]


def each(table: Mapping[str, Sequence[Any]]) -> pytest.MarkDecorator:
    """Make a test of every entry of a table: arguments (name, answer) or (name, answer, piece)."""
    rows = []
    for name, entries in table.items():
        for number, entry in enumerate(entries):
            answer, *piece = entry if isinstance(entry, tuple) else (entry,)
            label = getattr(answer, "__name__", "answer").strip("<>")
            rows.append(pytest.param(name, answer, *piece, id=f"{name}-{number}-{label}"))
    pairs = bool(rows) and len(rows[0].values) == 3
    return pytest.mark.parametrize("name, answer, piece" if pairs else "name, answer", rows)


def assert_accepted(
    check: ModuleType, name: str, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checker of one exercise answers with one line of praise and nothing else."""
    getattr(check, name)(answer)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and printed[0].startswith("Right: "), printed


def assert_refused(check: ModuleType, name: str, wrong: Any, piece: str) -> None:
    """The checker of one exercise refuses an answer with one line that holds ``piece``."""
    with pytest.raises(CheckFailed) as failed:
        getattr(check, name)(wrong)
    message = str(failed.value)
    for part in piece.split(" … "):
        assert part in message, message
    assert message.endswith((".", "?")) and "\n" not in message
    assert UNREAD not in message or UNREAD in piece, message


def undefined(*inputs: Any) -> Any:
    return zwei * inputs  # type: ignore[name-defined]  # noqa: F821


def without_inputs() -> Any:
    return 1


def endless(*inputs: Any) -> Any:
    while True:
        pass


def recursive(*inputs: Any) -> Any:
    return recursive(*inputs)


def printing(*inputs: Any) -> None:
    print("the answer")


ODD: list[tuple[Callable[..., Any], str]] = [
    (undefined, "in line 2 of your function `undefined` … NameError: name 'zwei' is not defined."),
    (without_inputs, "The check calls … does not take that"),
    (endless, "was still running after … of your function `endless`"),
    (recursive, "calls itself again and again in line 2 of your function `recursive`"),
    (printing, "prints something and gives nothing back"),
    (lambda *inputs: None, "gives nothing back yet"),
    (lambda *inputs: "text", ""),
    (lambda *inputs: object(), ""),
    (lambda *inputs: {"a": 1}, ""),
    (lambda *inputs: (1, "a", None, 2.5), ""),
    (lambda *inputs: float("nan"), ""),
    (lambda *inputs: -123.456, ""),
]


def assert_odd_answers_refused(
    check: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, wrong signatures, endless loops and strange types get one true sentence each."""
    limit = core._time_limit
    monkeypatch.setattr(core, "_time_limit", lambda seconds: limit(0.3))
    for wrong, piece in ODD:
        assert_refused(check, name, wrong, piece)


def assert_tables_are_full(check: ModuleType, right: Rights, wrong: Wrongs) -> None:
    """Every exercise has at least four right and eight wrong answers."""
    assert set(right) == set(wrong) == set(check.HINTS)
    assert {name: len(rows) for name, rows in right.items() if len(rows) < 4} == {}
    assert {name: len(rows) for name, rows in wrong.items() if len(rows) < 8} == {}


def assert_checkers_and_hints(
    solutions: Path, check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every graded exercise has a checker cell, a cell with its hints and three hints, in order."""
    names = list(check.HINTS)
    notebook = nbformat.read(solutions, as_version=4)
    grading = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert [cell.grade_id for cell in grading if cell.solution] == names
    assert [cell.grade_id for cell in grading if cell.grade] == [f"{name}-check" for name in names]
    sources = [cell.source for cell in notebook.cells]
    for name in names:
        grade_ids = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells]
        assert sources.index(f'check.hints("{name}")') == grade_ids.index(name) - 1
        for level in (1, 2, 3):
            check.hint(name, level)
            assert capsys.readouterr().out.startswith(f"Hint {level} of 3: ")
