"""What a training run did: one run is one JSONL file (lessons 04, 06, 07 and 09).

The first line of the file holds the run's settings, every further line one step's metrics. A file
that is being written can be read at any time, and a killed run loses at most its last line.
`aigc_utils.curves` draws it.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from aigc_utils import files


class TrainingDiverged(ArithmeticError):
    """A loss is no longer a number; what a run had kept before is still there."""


@dataclass
class History:
    """The settings of one run and its rows of metrics, in the order they were logged."""

    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: str) -> np.ndarray:
        """Return the values of metric ``name``, shape (n,), from the rows that have it.

        Raises KeyError, naming the metrics there are, when no row has it.
        """
        values = [row[name] for row in self.rows if name in row]
        if not values:
            known = sorted({key for row in self.rows for key in row})
            raise KeyError(f"no row has the metric {name!r}; this run has {known}")
        return np.array(values)

    def points(self, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
        """Return two arrays (n,): metrics ``x`` and ``y`` from the rows that have both."""
        both = [(row[x], row[y]) for row in self.rows if x in row and y in row]
        if not both:
            raise KeyError(f"no row has both {x!r} and {y!r}")
        xs, ys = zip(*both, strict=True)
        return np.array(xs), np.array(ys)


class Run:
    """Write one run to a JSONL file: ``with Run(path, lr=0.1) as run: run.log(step=1, loss=2.0)``.

    ``append=True`` continues a file that an interrupted run left behind; ``settings`` are then
    those of the file. Without it an existing file is replaced. Every row is on its way to the disk
    when ``log`` returns. With ``path=None`` the rows stay in memory, in ``history``.
    """

    def __init__(self, path: str | Path | None, *, append: bool = False, **settings: Any) -> None:
        self.path = None if path is None else Path(path)
        self.history = History(settings=settings)
        self._file: io.RawIOBase | None = None
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            self.history = read(self.path)
        write(self.path, self.history)  # without the half line that a killed run may leave
        self._file = self.path.open("ab", buffering=0)

    def log(self, **metrics: Any) -> None:
        """Append one row of metrics to the file and to ``history``."""
        row = {name: _plain(value) for name, value in metrics.items()}
        self.history.rows.append(row)
        line = (json.dumps(row) + "\n").encode()
        while line and self._file is not None:
            line = line[self._file.write(line) or 0 :]  # a disk nearly full takes a part

    def close(self) -> None:
        """Close the file; the history stays readable."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | Path) -> History:
    """Read a run back. A half-written last line is dropped; any other bad line is a ValueError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no run at {path}; train first, or check the name")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines) or number == 1:
            raise ValueError(
                f"line {number} of {path} is no row of JSON; move the file away and run again"
            )
    if not rows or "settings" not in rows[0]:
        raise ValueError(f"{path} does not begin with the settings of a run; it is another file")
    return History(settings=rows[0]["settings"], rows=rows[1:])


def write(path: Path, history: History) -> None:
    """Write a whole run; ``read`` gives it back."""
    lines = [{"settings": history.settings}, *history.rows]
    files.write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def _plain(value: Any) -> Any:
    """Return NumPy and framework scalars as the Python numbers that JSON knows."""
    return value.item() if hasattr(value, "item") else value
