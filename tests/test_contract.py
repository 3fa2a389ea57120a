"""What every notebook of the course promises, read from the raw files beside nbval's run."""

import copy
import json
import re
from pathlib import Path

import nbformat
import prose
import pytest
from exercises import exercise_from
from refresh import MEASURED

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
SOLUTIONS = sorted(NOTEBOOKS.glob("solutions/*.ipynb"))
EXERCISES = sorted(NOTEBOOKS.glob("exercises/*.ipynb"))
COSTS = json.loads((NOTEBOOKS / "costs.json").read_text())

KNOWN_TAGS = {"nbval-ignore-output", "raises-exception"}
HEADINGS = ["Play", "Seen in the wild", "Recap", "Exercises", "Read further"]
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|opt|usr)/|~/\.|[A-Z]:\\\\Users")
ANSI = re.compile(r"\x1b\[[\d;]*m")  # a colour stands before the path in a traceback
KEY = re.compile(r"\b(?:sk|hf|ghp)[-_][A-Za-z0-9_-]{16,}")
TIME_STAMP = re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d")


def name(path: Path) -> str:
    return path.relative_to(NOTEBOOKS).as_posix()


def load(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def strings(node: object) -> list[str]:
    """Return every string and every key in a notebook, pictures left out."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        parts = [part for key, part in node.items() if key != "image/png"]
        return [*node, *(text for part in parts for text in strings(part))]
    return [text for part in node for text in strings(part)] if isinstance(node, list) else []


def prose_words(notebook: nbformat.NotebookNode) -> int:
    return sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")


each_lesson = pytest.mark.parametrize("path", LESSONS, ids=name)
each_executed = pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
each_notebook = pytest.mark.parametrize("path", LESSONS + SOLUTIONS + EXERCISES, ids=name)


@each_executed
def test_outputs_come_from_one_run_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(load(path))]
    assert counts == list(range(1, len(counts) + 1))


@each_executed
def test_outputs_hold_no_error_and_no_stderr(path: Path) -> None:
    for cell in code_cells(load(path)):
        for output in cell.outputs:
            assert output.get("name") != "stderr", cell.source
            if output.output_type == "error":
                assert "raises-exception" in tags(cell), cell.source


@each_executed
def test_a_cell_that_may_raise_is_followed_by_an_assertion(path: Path) -> None:
    cells = code_cells(load(path))
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "raises-exception" in tags(cell):
            assert following is not None and "assert" in following.source, cell.source


@pytest.mark.parametrize(
    "path",
    [*LESSONS, *SOLUTIONS, *EXERCISES, *sorted((NOTEBOOKS.parent / "tests").rglob("*.ipynb"))],
    ids=lambda path: path.relative_to(NOTEBOOKS.parent).as_posix(),
)
def test_raw_file_names_no_machine_moment_or_key(path: Path) -> None:
    text = ANSI.sub("", "\n".join(strings(load(path).cells)))
    for pattern in (MACHINE_PATH, KEY, TIME_STAMP):
        assert not pattern.search(text), pattern.search(text).group()
    for output in ("widget-view+json", "image/svg+xml"):
        assert output not in text


@each_notebook
def test_metadata_is_plain(path: Path) -> None:
    notebook = load(path)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert tags(cell) <= KNOWN_TAGS, tags(cell)
        assert "execution" not in cell.metadata


@each_notebook
def test_code_cells_fit_on_a_screen(path: Path) -> None:
    for cell in code_cells(load(path)):
        assert len(cell.source.splitlines()) <= 30, cell.source


@each_notebook
def test_nothing_waits_for_the_keyboard(path: Path) -> None:
    for cell in code_cells(load(path)):
        assert not re.search(r"(?<!def )\b(?:input|getpass)\(", cell.source), cell.source


@each_lesson
def test_few_cells_ignore_their_output_and_each_is_asserted(path: Path) -> None:
    cells = code_cells(load(path))
    ignoring = [i for i, cell in enumerate(cells) if "nbval-ignore-output" in tags(cell)]
    assert len(ignoring) <= len(cells) / 4
    for index in ignoring:
        following = cells[index + 1 : index + 2]
        assert following and "assert" in following[0].source, cells[index].source


@each_lesson
def test_anatomy(path: Path) -> None:
    notebook = load(path)
    first = notebook.cells[0].source
    number = path.name[:2]
    assert first.startswith(f"# {number} · ")
    for part in ("**After this lesson you can**", "**Before this lesson**", "**Your time** about"):
        assert part in first, part
    assert MEASURED.search(first)
    assert "session.start(" in code_cells(notebook)[0].source
    headings = [heading for heading in dict.fromkeys(prose.sections(notebook)) if heading]
    questions = [heading for heading in headings if re.match(r"\d+ · ", heading)]
    assert len(questions) >= 3
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS
    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in code_cells(notebook)
        for output in cell.outputs
    )
    assert pictures >= 4
    assert 40 <= len(notebook.cells) <= 80
    assert 1200 <= prose_words(notebook) <= 3000
    assert f"exercises/{path.name}" in "".join(cell.source for cell in notebook.cells)


@each_notebook
def test_relative_links_lead_somewhere(path: Path) -> None:
    for cell in load(path).cells:
        if cell.cell_type != "markdown":
            continue
        for target in re.findall(r"\]\((?!https?://|#|attachment:)([^)#]+)[^)]*\)", cell.source):
            assert (path.parent / target).exists(), target


@each_executed
def test_numbers_in_prose_agree_with_outputs(path: Path) -> None:
    wrong = prose.unsupported(load(path))
    assert not wrong, [f"cell {claim.cell}: {claim.text}" for claim in wrong]


@each_lesson
def test_a_changed_number_in_prose_is_noticed(path: Path) -> None:
    notebook = load(path)
    decimals = [
        claim
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for claim in prose.find_claims(cell.source, index)
        if "." in claim.text
    ]
    assert decimals, "a lesson quotes at least one number that it measured"
    noticed = 0
    for claim in decimals:
        mutated = copy.deepcopy(notebook)
        cell = mutated.cells[claim.cell]
        number = claim.text.split()[0]
        other = number[:-1] + str((int(number[-1]) + 5) % 10)  # one digit, the last
        cell.source = cell.source.replace(number, other)
        noticed += any(wrong.cell == claim.cell for wrong in prose.unsupported(mutated))
    # A changed digit may by chance be another number of the lesson; most may not.
    assert noticed >= 0.75 * len(decimals), f"{noticed} of {len(decimals)} changes were noticed"


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_exercises_are_as_generated(path: Path) -> None:
    exercise = NOTEBOOKS / "exercises" / path.name
    assert exercise.read_text(encoding="utf-8") == exercise_from(path), (
        "run `make exercises`: the exercises are made from the solutions"
    )


def test_every_exercise_has_its_solution() -> None:
    assert [path.name for path in EXERCISES] == [path.name for path in SOLUTIONS]
    assert {path.name for path in SOLUTIONS} <= {path.name for path in LESSONS}


@each_lesson
def test_solutions_are_graded_and_between_three_and_five(path: Path) -> None:
    solution = NOTEBOOKS / "solutions" / path.name
    grading = [c.metadata.nbgrader for c in load(solution).cells if "nbgrader" in c.metadata]
    written = [cell.grade_id for cell in grading if cell.solution]
    graded = [cell for cell in grading if cell.grade]
    assert 3 <= len(graded) <= 5
    assert len(set(written)) == len(written)
    assert all(cell.points > 0 and cell.locked for cell in graded)


@each_executed
def test_measured_cost_is_within_budget(path: Path) -> None:
    cost = COSTS[name(path)]
    assert cost["seconds"] <= cost["budget"]
    assert cost["gigabytes"] <= 4


@each_lesson
def test_title_names_the_measured_cost(path: Path) -> None:
    cost = COSTS[name(path)]
    figures = f"**Measured** {cost['seconds']:.0f} s · {cost['gigabytes']:.1f} GB on 2 cores"
    assert figures in load(path).cells[0].source


def test_the_whole_course_fits_its_budget() -> None:
    assert sum(COSTS[name(path)]["seconds"] for path in LESSONS) <= 22 * 60
    assert sum(COSTS[name(path)]["seconds"] for path in SOLUTIONS) <= 5 * 60


def test_costs_name_just_the_notebooks_that_exist() -> None:
    assert set(COSTS) == {name(path) for path in LESSONS + SOLUTIONS}
