"""Hints on request: a button under each exercise, or a line to type."""

import html
import os
import re
from collections.abc import Mapping

from aigc_utils import session

HintTable = Mapping[str, tuple[str, str, str]]


def show_hint(hints: HintTable, name: str, level: int = 1) -> None:
    """Print hint ``level`` (1 nudges, 2 points, 3 nearly says it) of exercise ``name``.

    A wrong name or level gets a sentence, not an exception: asking for help is never an error.
    """
    if name not in hints:
        print(f"There is no exercise {name!r} here; choose from {', '.join(hints)}.")
    elif level not in (1, 2, 3):
        print(f"Hints have levels 1, 2 and 3, not {level!r}.")
    else:
        print(f"Hint {level} of 3: {hints[name][level - 1]}")


def show_hints(hints: HintTable, name: str) -> None:
    """Show a button that reveals the hints of exercise ``name``, one with each press.

    On paper, in tests and while nbgrader grades, nothing is shown.
    """
    if name not in hints:
        show_hint(hints, name)
        return
    if not session.is_interactive() or "NBGRADER_EXECUTION" in os.environ:
        return
    import ipywidgets
    from IPython.display import display

    shown = ipywidgets.VBox()
    button = ipywidgets.Button(description="Hint 1 of 3", icon="lightbulb-o")

    def reveal(_: object) -> None:
        level = len(shown.children) + 1
        text = ipywidgets.HTML(f"<b>Hint {level} of 3</b> {_as_html(hints[name][level - 1])}")
        shown.children = (*shown.children, text)
        button.description = f"Hint {min(level + 1, 3)} of 3"
        button.disabled = level == 3

    button.on_click(reveal)
    display(ipywidgets.VBox([shown, button]))


def _as_html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
