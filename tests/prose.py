"""Find the numbers that a notebook's prose claims and look each of them up in its outputs.

A claim is a decimal, a percentage, a number with a thousands separator or a number with a unit.
Numbers in `code spans`, in $formulas$ and in links are definitions, not claims. The few constants
that no output shows (published figures, say) are declared in the same cell, invisibly:
``<!-- constants: 0.1, 90 % -->``.
"""

import re
from dataclasses import dataclass

import nbformat

UNITS = (
    "s|ms|µs|seconds|kB|MB|GB|bytes|byte|tokens|token|characters|words|merges|bits|bit|nats|nat|"
    "parameters|pictures|steps|times|neurons|FLOPs|epochs"
)
NUMBER = r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?"
CLAIM = re.compile(
    rf"(?<![\w.,\-−^/])(?P<number>{NUMBER})(?P<unit>\s?%|[\s-]?(?:{UNITS})\b)?(?![\w/]|[.,]\d)"
)
NOT_PROSE = re.compile(
    r"```.*?```|``.*?``|`[^`]*`|\$\$.*?\$\$|\$(?=\S)[^$\n]*(?:\n(?!\n)[^$\n]*)*(?<=\S)\$(?!\d)|\]\([^)]*\)|https?://\S+"
    r"|\*\*Measured\*\*.*?\n|\*\*Measured\*\*.*?$|<!--.*?-->",
    re.DOTALL,
)
CONSTANTS = re.compile(r"<!--\s*constants:(.*?)-->", re.DOTALL)
OUTPUT_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\d)")


@dataclass(frozen=True)
class Claim:
    """A number as the prose writes it, and where: ``cell`` counts from 0."""

    text: str
    cell: int

    @property
    def value(self) -> float:
        return to_float(re.match(NUMBER, self.text).group())

    @property
    def is_percentage(self) -> bool:
        return self.text.endswith("%")

    @property
    def tolerance(self) -> float:
        """Half a unit of the last digit written: an output that rounds to the claim agrees."""
        digits = re.match(NUMBER, self.text).group().partition(".")[2]
        return 0.5 * 10.0 ** -len(digits) * (1 + 1e-9)


def to_float(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def find_claims(markdown: str, cell: int = 0) -> list[Claim]:
    """Return the claims of one Markdown cell, its declared constants left out."""
    declared = {
        " ".join(text.split())
        for group in CONSTANTS.findall(markdown)
        for text in group.split(";" if ";" in group else ", ")
    }
    claims = []
    for match in CLAIM.finditer(NOT_PROSE.sub(" ", markdown)):
        number, unit = match["number"], (match["unit"] or "").replace("-", " ").strip()
        if not unit and "." not in number and "," not in number:
            continue
        text = f"{number} {unit}".strip()
        if text not in declared and number not in declared:
            claims.append(Claim(text, cell))
    return claims


def output_numbers(cell: nbformat.NotebookNode) -> list[float]:
    """Return every number in the text outputs of a code cell."""
    texts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            texts.append(output.text)
        else:
            data = output.get("data", {})
            if "image/png" in data:  # its text says only "Figure … with 1 Axes"
                continue
            texts.extend(
                data.get(kind, "") for kind in ("text/plain", "text/html", "text/markdown")
            )
    return [to_float(found) for text in texts for found in OUTPUT_NUMBER.findall(text)]


def sections(notebook: nbformat.NotebookNode) -> list[str]:
    """Return for each cell the `##` heading it stands under ("" before the first)."""
    heading, result = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("## "):
                    heading = line[3:].strip()
        result.append(heading)
    return result


def unsupported(notebook: nbformat.NotebookNode) -> list[Claim]:
    """Return the claims that no output supports.

    A claim may lean on any output above it or in its own section; the title cell sums up the
    whole lesson and may lean on all of them.
    """
    headings = sections(notebook)
    numbers = [output_numbers(c) if c.cell_type == "code" else [] for c in notebook.cells]
    wrong = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        for claim in find_claims(cell.source, index):
            known = [
                value
                for other, values in enumerate(numbers)
                if index == 0 or other < index or headings[other] == headings[index]
                for value in values
            ]
            if claim.is_percentage:
                known += [100 * value for value in known if 0 <= value <= 1]
            if not any(abs(value - claim.value) <= claim.tolerance for value in known):
                wrong.append(claim)
    return wrong
