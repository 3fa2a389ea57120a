"""Make the exercises from the solutions: `python tools/exercises.py` writes, `--check` compares.

``notebooks/solutions/NN_topic.ipynb`` is the source of truth, in nbgrader's format; what stands
between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` goes, and so do outputs and counts.
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions
from traitlets.config import Config

from aigc_utils import files

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
STUB = "...  # your code here"


def exercise_from(solution: Path) -> str:
    """Return the text of the exercise notebook that belongs to a solution notebook."""
    notebook = nbformat.read(solution, as_version=4)
    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    for step in (ClearSolutions, ClearHiddenTests, ClearOutput):
        notebook, _ = step(config=config).preprocess(notebook, {})
    title = notebook.cells[0]
    title.source = title.source.replace(" · solutions", " · exercises")
    return nbformat.writes(notebook)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = []
    for solution in sorted((NOTEBOOKS / "solutions").glob("*.ipynb")):
        target = NOTEBOOKS / "exercises" / solution.name
        text = exercise_from(solution)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
            if not check:
                target.parent.mkdir(exist_ok=True)
                files.write_whole(target, text)
    if stale:
        print(("differ from their solutions: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
