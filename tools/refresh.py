"""Re-execute notebooks in order and store their outputs, their seconds and their memory.

    python tools/refresh.py                              every lesson and every solution
    python tools/refresh.py notebooks/01_attention.ipynb one of them

Each notebook runs in a fresh kernel, in its own folder, with drawing set to static, and
without a network, as the tests run it. What depends on the moment (time stamps, widget state) is
removed. The measured seconds and the peak memory go into ``notebooks/costs.json``, beside the
lesson's budget, and into the lesson's own first cell.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from aigc_utils import files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
COSTS = NOTEBOOKS / "costs.json"
MEASURED = re.compile(r"\*\*Measured\*\* [\d.]+ s · [\d.]+ GB")
CELL_SECONDS = 300
DEFAULT_BUDGET = 60  # seconds; a lesson's own is set by hand in costs.json


def peak_bytes(pid: int) -> int:
    """Return the largest resident size that process ``pid`` has had so far."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        sizes = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
        return int(sizes[0].split()[1]) * 1024 if sizes else 0  # a dead process has none
    return psutil.Process(pid).memory_info().rss if psutil.pid_exists(pid) else 0


def execute(path: Path) -> dict[str, float]:
    """Run one notebook, store its outputs and return its cost: seconds and gigabytes."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # one print, one output: where a stream is cut is chance
        resources={"metadata": {"path": str(path.parent)}},
    )
    peak = 0
    start = time.perf_counter()
    with client.setup_kernel():
        pid = client.km.provisioner.pid
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            peak = max(peak, peak_bytes(pid))
    cost = {"seconds": round(time.perf_counter() - start, 1), "gigabytes": round(peak / 2**30, 1)}
    note_cost(notebook, cost)
    tidy(notebook)
    files.write_whole(path, nbformat.writes(notebook) + "\n")
    return cost


def note_cost(notebook: nbformat.NotebookNode, cost: dict[str, float]) -> None:
    """Write the measured figures into the line of the first cell that gives them."""
    figures = f"**Measured** {cost['seconds']:.0f} s · {cost['gigabytes']:.1f} GB"
    first = notebook.cells[0]
    first.source = MEASURED.sub(figures, first.source)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from one execution to the next and number the cells 1…n."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.metadata.pop("execution", None)
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def selected(names: list[str]) -> list[Path]:
    """Return the notebooks to run: those named, else all lessons and then all solutions."""
    if names:
        return [Path(name).resolve() for name in names]
    return sorted(NOTEBOOKS.glob("*.ipynb")) + sorted(NOTEBOOKS.glob("solutions/*.ipynb"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="default: all of them")
    os.environ["AIGC_STATIC"] = "1"
    os.environ["PYTHONPATH"] = str(ROOT / "tools" / "offline")
    for path in selected(parser.parse_args().notebooks):
        name = path.relative_to(NOTEBOOKS).as_posix()
        cost = execute(path)
        costs = json.loads(COSTS.read_text())  # another refresh may have written meanwhile
        costs.setdefault(name, {"budget": DEFAULT_BUDGET}).update(cost)
        files.write_whole(COSTS, json.dumps(dict(sorted(costs.items())), indent=1) + "\n")
        print(f"{name}: {cost['seconds']:.1f} s, {cost['gigabytes']:.1f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
