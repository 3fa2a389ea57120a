"""Instant answers for the exercises: a checker praises in one line or fails in one sentence.

One module a lesson holds its checkers and hints; ``core`` calls the learner's function for all of
them, ``reading`` reads and compares what comes back, ``hints`` shows the hints.
"""

from aigc_utils.checks.core import Answer, Slips, exercise
from aigc_utils.checks.hints import HintTable, show_hint, show_hints
from aigc_utils.checks.reading import (
    CheckFailed,
    alike,
    demand,
    difference,
    read_array,
    read_number,
    read_several,
    read_whole,
    show_pair,
)

__all__ = [
    "Answer",
    "CheckFailed",
    "HintTable",
    "Slips",
    "alike",
    "demand",
    "difference",
    "exercise",
    "read_array",
    "read_number",
    "read_several",
    "read_whole",
    "show_hint",
    "show_hints",
    "show_pair",
]
