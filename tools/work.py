"""Fill in the learner's folder: `python tools/work.py`, or restore a lesson with `--reset 01`.

``work/`` holds the learner's own copies of lessons and exercises and is ignored by git. What is
missing there is copied; what is there is never overwritten. ``--reset`` first moves the changed
copies of one lesson aside, under a free name with the date, so that a restored lesson loses
nothing either, whoever else is at work in the folder and wherever the command is stopped.
"""

import argparse
import contextlib
import filecmp
import itertools
import os
import sys
from datetime import datetime
from pathlib import Path

from aigc_utils import files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("", "exercises")
NAMES = "[0-9][0-9]_*.ipynb"


def notebooks(source: Path) -> list[Path]:
    """Return what a learner has copies of, relative to ``source``."""
    found = [path for folder in FOLDERS for path in sorted((source / folder).glob(NAMES))]
    return [path.relative_to(source) for path in found]


def fill(source: Path, target: Path) -> list[Path]:
    """Copy every notebook that ``target`` lacks; return the copies made."""
    made = []
    for name in notebooks(source):
        copy = target / name
        if os.path.lexists(copy):  # a link that leads nowhere is the learner's, too
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if files.write_new(copy, (source / name).read_bytes()):
            made.append(copy)
    return made


def set_aside(source: Path, target: Path, number: str) -> list[Path]:
    """Move the copies of lesson ``number`` ("01") that differ to free names; return these."""
    moved = []
    for name in notebooks(source):
        copy = target / name
        if not name.name.startswith(f"{number}_") or not os.path.lexists(copy):
            continue
        if copy.is_file() and filecmp.cmp(source / name, copy, shallow=False):
            continue
        if kept := _move_to_a_free_name(copy):
            moved.append(kept)
    return moved


def _move_to_a_free_name(copy: Path) -> Path | None:
    """Move what is at ``copy``, a notebook, a link or a folder; None when it has just gone.

    The name is reserved before the move, since a file system moves onto whatever is there.
    """
    is_folder = copy.is_dir() and not copy.is_symlink()
    kept = _reserve(copy, is_folder)
    try:
        copy.replace(kept)  # one step: there is no moment at which neither name has it
    except OSError as error:
        with contextlib.suppress(OSError):
            kept.rmdir() if is_folder else kept.unlink()
        if isinstance(error, FileNotFoundError):
            return None
        raise
    return kept


def _reserve(copy: Path, is_folder: bool) -> Path:
    stem = f"my-{copy.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    for count in itertools.count(1):
        kept = copy.with_name(f"{stem}{f'-{count}' if count > 1 else ''}.ipynb")
        with contextlib.suppress(FileExistsError):
            kept.mkdir() if is_folder else kept.open("x").close()
            return kept
    raise AssertionError  # for the type checker: counting does not end


def in_the_way(target: Path) -> Path | None:
    """Return what stands where a folder must be, None when nothing does."""
    folders = [target / folder for folder in FOLDERS]
    return next((f for f in folders if os.path.lexists(f) and not f.is_dir()), None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reset", metavar="NN", help="restore lesson NN, e.g. 01")
    number = parser.parse_args(arguments).reset
    source, target = ROOT / "notebooks", ROOT / "work"
    if number is not None:
        known = sorted({name.name[:2] for name in notebooks(source)})
        if number not in known:
            told = f"There is no lesson {number!r}; choose one of {', '.join(known)}."
            print(told, file=sys.stderr)
            return 2
    if way := in_the_way(target):
        told = f"{way.relative_to(ROOT)} is in the way: there must be a folder of this name."
        print(f"{told} Rename yours, then go on.", file=sys.stderr)
        return 1
    try:
        for kept in set_aside(source, target, number) if number else ():
            print(f"kept your copy as {kept.relative_to(ROOT)}")
        made = fill(source, target)
    except OSError as error:
        told = f"work/ could not be filled ({error.strerror}); nothing of yours was changed."
        print(told, file=sys.stderr)
        return 1
    print(f"work/ is complete: {len(made)} notebook(s) copied, none overwritten.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
