"""Instant answers for the exercises: a checker praises in one line or fails in one sentence.

One module a lesson holds its checkers and hints. A checker *raises* when something is wrong,
because nbgrader gives full marks to a test cell that ends without an error.
"""

from collections.abc import Mapping

HintTable = Mapping[str, tuple[str, str, str]]


class CheckFailed(AssertionError):
    """A property that the learner's answer does not have yet; Jupyter shows just its sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


def demand(condition: object, sentence: str) -> None:
    """Raise CheckFailed with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(sentence)


def answered(value: object, name: str) -> None:
    """Raise CheckFailed when ``value`` is what an unsolved exercise leaves behind."""
    demand(
        value is not None and value is not ...,
        f"`{name}` gives nothing back yet: write its body and run the cell again.",
    )


def praise(sentence: str) -> None:
    """Print the one line that a right answer earns."""
    print(f"Right: {sentence}")


def show_hint(hints: HintTable, name: str, level: int) -> None:
    """Print hint ``level`` (1 nudges, 2 points, 3 nearly says it) of exercise ``name``."""
    if name not in hints:
        raise ValueError(f"there is no exercise {name!r} here; choose from {sorted(hints)}")
    if level not in (1, 2, 3):
        raise ValueError(f"hints have levels 1, 2 and 3, not {level!r}")
    print(f"Hint {level} of 3: {hints[name][level - 1]}")
