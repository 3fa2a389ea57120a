"""Write what README.md takes from the notebooks, the course map and figures; `--check` compares.

The map stands between two marker comments. Its seconds and gigabytes come from
``notebooks/costs.json``, its titles, promises and minutes from each lesson's first cell.
"""

import argparse
import base64
import json
import re
import sys
from pathlib import Path

import nbformat

from aigc_utils import files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
START, END = "<!-- course map: made by tools/readme.py -->", "<!-- end of course map -->"

# The figures shown on the front page: file name, lesson, which of its pictures.
FIGURES: dict[str, tuple[str, int]] = {
    "docs/figures/attention.png": ("01_attention.ipynb", 5),
    "docs/figures/tokenization.png": ("02_tokenization.ipynb", -1),
}


def course_map() -> str:
    """Return the table of lessons with measured machine costs and estimated human minutes."""
    costs = json.loads((NOTEBOOKS / "costs.json").read_text())
    rows = [
        "| lesson | what you do | machine | memory | you |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        title, _, promise = first.partition("\n")
        promise = next(block for block in promise.split("\n\n") if block.strip())
        minutes = re.search(r"\*\*Your time\*\* about (\d+) minutes", first).group(1)
        cost = costs[path.name]
        rows.append(
            f"| [{title.removeprefix('# ')}](notebooks/{path.name}) | {' '.join(promise.split())} "
            f"| {cost['seconds']:.0f} s | {cost['gigabytes']:.1f} GB | {minutes} min |"
        )
    return "\n".join(rows)


def pictures(path: Path) -> list[bytes]:
    """Return the PNG pictures in a notebook's outputs, in order."""
    cells = nbformat.read(path, as_version=4).cells
    return [
        base64.b64decode(output.data["image/png"])
        for cell in cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def expected() -> dict[Path, bytes]:
    """Return every generated file with the content that it should have."""
    text = README.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1:
        raise SystemExit(f"README.md must hold the lines {START!r} and {END!r} once each")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    wanted = {README: f"{before}{START}\n{course_map()}\n{END}{after}".encode()}
    for name, (lesson, index) in FIGURES.items():
        wanted[ROOT / name] = pictures(NOTEBOOKS / lesson)[index]
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = [p for p, text in expected().items() if not p.exists() or p.read_bytes() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run `make refresh`")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(path, expected()[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
