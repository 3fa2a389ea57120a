"""Surroundings of every test: static drawing, no network, and the cost of each notebook watched."""

import json
import os
import runpy
import signal
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
NOTEBOOKS = ROOT / "notebooks"
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

# Kernels inherit these: no widgets, no network but loopback, and no key of the person who tests.
os.environ["AIGC_STATIC"] = "1"
os.environ["PYTHONPATH"] = str(ROOT / "tools" / "offline")
os.environ.pop("OPENAI_API_KEY", None)
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]  # nothing that tests ask for lies behind a proxy

# A process that a shell starts in the background ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

runpy.run_path(str(ROOT / "tools" / "offline" / "sitecustomize.py"))  # this process too

from aigc_utils import session  # noqa: E402

session.prepare()  # before numpy, torch and TensorFlow are imported

# Exercises are unsolved on purpose; their solutions are run instead.
collect_ignore = ["notebooks/exercises"]

# A busy machine may be slower than the one that measured; a notebook that needs three times its
# budget has become another notebook.
SLACK = 3
MAX_GIGABYTES = 4

_seconds: dict[Path, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of each notebook's cells (nbval makes every cell a test)."""
    path = ROOT / report.nodeid.split("::")[0]
    if path.suffix == ".ipynb":
        _seconds[path] += report.duration


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """After the last cell of a notebook, hold what it took against its budget."""
    inside = item.path.suffix == ".ipynb" and item.path.is_relative_to(NOTEBOOKS)
    if not inside or (nextitem is not None and nextitem.path == item.path):
        return (yield)
    from refresh import peak_bytes

    gigabytes = peak_bytes(item.parent.kernel.km.provisioner.pid) / 2**30
    yield  # the kernel stops here: a failure below is this notebook's alone
    name = item.path.relative_to(NOTEBOOKS).as_posix()
    budget = json.loads((NOTEBOOKS / "costs.json").read_text())[name]["budget"]
    seconds = _seconds[item.path]
    assert seconds <= SLACK * budget, f"{name} took {seconds:.0f} s; its budget is {budget} s"
    assert gigabytes <= MAX_GIGABYTES, f"{name} took {gigabytes:.1f} GB of {MAX_GIGABYTES} allowed"
