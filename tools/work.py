"""Fill in the learner's folder: `python tools/work.py`, or restore a lesson with `--reset 01`.

``work/`` holds the learner's own copies of lessons and exercises and is ignored by git. What is
missing there is copied; what is there is never overwritten. ``--reset`` first moves the old copies
of one lesson aside, under a name with the date, so that even a restored lesson loses nothing.
"""

import argparse
import shutil
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "exercises")


def fill(source: Path, target: Path) -> list[Path]:
    """Copy every notebook that ``target`` lacks; return the copies made."""
    made = []
    for folder in FOLDERS:
        for notebook in sorted((source / folder).glob("*.ipynb")):
            copy = target / folder / notebook.name
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                unfinished = copy.with_suffix(".tmp")  # an interrupted copy is not taken for one
                shutil.copyfile(notebook, unfinished)
                unfinished.replace(copy)
                made.append(copy)
    return made


def set_aside(target: Path, number: str) -> list[Path]:
    """Move the copies of lesson ``number`` ("01") to dated names; return the new names."""
    moved = []
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for folder in FOLDERS:
        for notebook in sorted((target / folder).glob(f"{number}_*.ipynb")):
            kept = notebook.with_name(f"my-{notebook.stem}-{stamp}.ipynb")
            moved.append(notebook.rename(kept))
    return moved


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reset", metavar="NN", help="restore lesson NN, e.g. 01")
    number = parser.parse_args().reset
    source, target = ROOT / "notebooks", ROOT / "work"
    if number is not None:
        if not list(source.glob(f"{number}_*.ipynb")):
            known = ", ".join(path.name[:2] for path in sorted(source.glob("*.ipynb")))
            print(f"There is no lesson {number!r}; choose one of {known}.", file=sys.stderr)
            return 2
        for kept in set_aside(target, number):
            print(f"kept your copy as {kept.relative_to(ROOT)}")
    made = fill(source, target)
    print(f"work/ is complete: {len(made)} notebook(s) copied, none overwritten.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
