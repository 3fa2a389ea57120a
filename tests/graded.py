"""What the tests of every lesson's checkers share: answers from notebooks, tables, hints.

A lesson's test holds two tables, each from an exercise's name to a list: ``RIGHT`` of functions
that must pass, in the styles in which students write them, and ``WRONG`` of pairs of a function and
a piece of the sentence that it must get (`` … `` stands for a gap); ``CheckerTests`` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from exercises import exercise_from

from aigc_utils.checks import CheckFailed, core

Rights = Mapping[str, Sequence[Callable[..., Any]]]
Wrongs = Mapping[str, Sequence[tuple[Callable[..., Any], str]]]

UNREAD = "cannot make sense of"  # the core's last resort, which no table should need


def run_answer(notebook: nbformat.NotebookNode, name: str, space: dict[str, Any]) -> Any:
    """Run the learner's cell of one exercise in ``space`` and return what it defines."""
    cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name]
    exec(cells[0].source, space)
    return space[name]


def rows(table: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return a test's parameters for every entry of a table: name, answer and perhaps piece."""
    found = []
    for name, entries in table.items():
        for number, entry in enumerate(entries):
            answer, *piece = entry if isinstance(entry, tuple) else (entry,)
            label = getattr(answer, "__name__", "answer").strip("<>")
            found.append(pytest.param(name, answer, *piece, id=f"{name}-{number}-{label}"))
    return found


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


class CheckerTests:
    """What is tested of every lesson's checkers: a lesson subclasses it as ``TestCheckers``.

    ``check`` is the module of checkers, ``solutions`` the name of the notebook, ``right`` and
    ``wrong`` are the tables, ``function_of(notebook, name)`` runs an answer's cell and returns what
    it defines.
    """

    check: ModuleType
    solutions: str
    right: Rights
    wrong: Wrongs
    function_of: Callable[[nbformat.NotebookNode, str], Any]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test of every row of a table, and of every exercise."""
        if "piece" in metafunc.fixturenames:
            metafunc.parametrize("name, answer, piece", rows(self.wrong))
        elif "answer" in metafunc.fixturenames:
            metafunc.parametrize("name, answer", rows(self.right))
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize("name", list(self.check.HINTS))

    @property
    def notebook(self) -> Path:
        return Path(__file__).parents[1] / "notebooks" / "solutions" / self.solutions

    def test_right_answer_passes_with_one_line(
        self, name: str, answer: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert_accepted(self.check, name, answer, capsys)

    def test_wrong_answer_gets_the_sentence_that_fits(
        self, name: str, answer: Any, piece: str
    ) -> None:
        assert_refused(self.check, name, answer, piece)

    def test_odd_answers_get_one_true_sentence(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert_odd_answers_refused(self.check, name, monkeypatch)

    def test_solution_passes(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        answer = type(self).function_of(nbformat.read(self.notebook, as_version=4), name)
        capsys.readouterr()  # what the cell itself prints
        assert_accepted(self.check, name, answer, capsys)

    def test_unsolved_cell_fails_kindly(self, name: str) -> None:
        exercise = nbformat.reads(exercise_from(self.notebook), as_version=4)
        stub = type(self).function_of(exercise, name)
        assert_refused(self.check, name, stub, f"`{name}` gives nothing back yet")

    def test_every_exercise_has_checker_and_hints(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert_checkers_and_hints(self.notebook, self.check, capsys)

    def test_every_exercise_has_four_right_and_eight_wrong_answers(self) -> None:
        assert set(self.right) == set(self.wrong) == set(self.check.HINTS)
        assert {name: len(row) for name, row in self.right.items() if len(row) < 4} == {}
        assert {name: len(row) for name, row in self.wrong.items() if len(row) < 8} == {}
