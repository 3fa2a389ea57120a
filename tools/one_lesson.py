"""Print what tests one lesson: `python tools/one_lesson.py 05`; `make test LESSON=05` runs it.

The lesson and its solutions, the contract of all notebooks, the tests of its checkers and those of
the modules whose docstring names the lesson.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"[Ll]essons? ((?:\d\d(?:, | and )?)+)")


def tests_of(number: str) -> list[str]:
    """Return the files for pytest, relative to the course's folder; none for an unknown number."""
    if not re.fullmatch(r"\d\d", number, re.ASCII):
        return []
    notebooks = sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    notebooks += sorted((ROOT / "notebooks" / "solutions").glob(f"{number}_*.ipynb"))
    if not notebooks:
        return []
    text = "".join(path.read_text(encoding="utf-8") for path in notebooks)
    names = [f"checks_{name}" for name in re.findall(r"aigc_utils\.checks import (\w+) as", text)]
    names += [name for name, lessons in modules().items() if number in lessons]
    tests = [ROOT / "tests" / f"test_{name}.py" for name in ["contract", "prose", *names]]
    found = [*(path for path in tests if path.exists()), *notebooks]
    return [path.relative_to(ROOT).as_posix() for path in dict.fromkeys(found)]


def modules() -> dict[str, set[str]]:
    """Return every module of the package with the lessons that its docstring names."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "aigc_utils").rglob("*.py")):
        name = path.parent.name if path.stem == "__init__" else path.stem
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lessons = re.findall(r"\d\d", " ".join(NAMED.findall(said)))
        found.setdefault(name, set()).update(lessons)
    return found


def main() -> int:
    number = sys.argv[1] if len(sys.argv) == 2 else ""
    if files := tests_of(number):
        print(" ".join(files))
        return 0
    known = [path.name[:2] for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    print(f"There is no lesson {number!r}; choose one of {', '.join(known)}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
