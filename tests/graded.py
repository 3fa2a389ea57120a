"""What the tests of every lesson's checkers share: answers taken from notebooks, and hints."""

from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

from aigc_utils.checks import CheckFailed


def run_answer(notebook: nbformat.NotebookNode, name: str, space: dict[str, Any]) -> Any:
    """Run the learner's cell of one exercise in ``space`` and return what it defines."""
    cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name]
    exec(cells[0].source, space)
    return space[name]


def assert_refused(check: ModuleType, name: str, wrong: Any, sentence: str) -> None:
    """The checker of one exercise refuses an answer with one line that holds ``sentence``."""
    with pytest.raises(CheckFailed) as failed:
        getattr(check, name)(wrong)
    message = str(failed.value)
    assert sentence in message
    assert message.endswith(".") and "\n" not in message


def assert_checkers_and_hints(
    solutions: Path, check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every graded exercise of the notebook has a checker cell and three hints, in order."""
    names = list(check.HINTS)
    notebook = nbformat.read(solutions, as_version=4)
    grading = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert [cell.grade_id for cell in grading if cell.solution] == names
    assert [cell.grade_id for cell in grading if cell.grade] == [f"{name}-check" for name in names]
    for name in names:
        for level in (1, 2, 3):
            check.hint(name, level)
            assert capsys.readouterr().out.startswith(f"Hint {level} of 3: ")
