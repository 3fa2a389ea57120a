"""A teacher's way through nbgrader: generate, collect three submissions, grade them by machine."""

import ast
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

SOLUTIONS = sorted((Path(__file__).resolve().parents[1] / "notebooks/solutions").glob("*.ipynb"))


def wrong_answer(source: str, name: str) -> str:
    """Return a solution cell whose last function answers with a number that is never right."""
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    asked = name if name in functions else functions[-1]  # helpers may stand beside the answer
    return f"{source}\n\n\ndef {asked}(*args, **kwargs):\n    return -123.456\n"


def submit(course: Path, student: str, notebook: nbformat.NotebookNode, name: str) -> None:
    folder = course / "submitted" / student / "lesson"
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Object of type")  # nbgrader's own use of SQLAlchemy
@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)
def test_right_wrong_and_empty_submissions_get_the_right_points(
    solution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nbgrader calls `alembic` by name, as it stands in an activated environment.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.CourseDirectory.db_url = f"sqlite:///{tmp_path}/gradebook.db"
    config.ClearSolutions.code_stub = {"python": "...  # your code here"}
    config.ExecutePreprocessor.timeout = 120
    config.Application.log_level = "ERROR"
    source = tmp_path / "source" / "lesson"
    source.mkdir(parents=True)
    shutil.copy(solution, source)
    api = NbGraderAPI(config=config)

    generated = api.generate_assignment("lesson")
    assert generated["success"], generated
    released = nbformat.read(tmp_path / "release" / "lesson" / solution.name, as_version=4)
    solved = nbformat.read(solution, as_version=4)
    answers = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in solved.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    assert not any("BEGIN SOLUTION" in cell.source for cell in released.cells)

    submit(tmp_path, "empty", released, solution.name)
    for cell in released.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = answers[cell.metadata.nbgrader.grade_id]
    submit(tmp_path, "right", released, solution.name)
    first = next(c for c in released.cells if c.metadata.get("nbgrader", {}).get("solution"))
    first.source = wrong_answer(first.source, first.metadata.nbgrader.grade_id)
    submit(tmp_path, "wrong", released, solution.name)

    for student in ("empty", "right", "wrong"):
        graded = api.autograde("lesson", student)
        assert graded["success"], graded

    points = [
        cell.metadata.nbgrader.points
        for cell in solved.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    ]
    with Gradebook(config.CourseDirectory.db_url) as gradebook:
        scores = {
            student: gradebook.find_submission("lesson", student).score
            for student in ("empty", "right", "wrong")
        }
    assert scores == {"empty": 0, "right": sum(points), "wrong": sum(points) - points[0]}
