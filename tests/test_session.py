"""The surroundings of a lesson: environment, seeds, quiet imports, cheap package import."""

import ast
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aigc_utils import session

ROOT = Path(__file__).resolve().parents[1]


# What `prepare` sets, and so what this test run has set already.
PREPARED = {*session._ENVIRONMENT, *session._FOLLOW_OMP, "OMP_NUM_THREADS"}


def fresh_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, without the settings that this test run has made."""
    env = {k: v for k, v in os.environ.items() if k not in PREPARED} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_import_of_the_package_is_free() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import aigc_utils; s = time.perf_counter() - t"
    )
    ran = fresh_python(code + "; print(s); print('numpy' in sys.modules)")
    seconds, has_numpy = ran.stdout.split()
    assert float(seconds) < 0.1
    assert has_numpy == "False"


def test_environment_is_set_but_never_overridden() -> None:
    code = (
        "import os; from aigc_utils import session; session.prepare();"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])"
    )
    assert fresh_python(code).stdout.split() == ["2", "1"]
    assert fresh_python(code, HF_HUB_OFFLINE="0").stdout.split() == ["2", "0"]
    follow = "print([os.environ[name] for name in session._FOLLOW_OMP])"
    assert fresh_python(f"{code};{follow}", OMP_NUM_THREADS="4,2").stdout == (
        "4,2 1\n['4', '4', '4']\n"
    )


def test_importing_session_prepares_in_a_notebook_alone() -> None:
    code = (
        "import sys, os; sys.modules.update({}); from aigc_utils import session;"
        "print('numpy' in sys.modules, os.environ.get('OMP_NUM_THREADS'))"
    )
    assert fresh_python(code.format("")).stdout.split() == ["False", "None"]
    assert fresh_python(code.format("ipykernel=sys")).stdout.split() == ["False", "2"]


THREADS_OF = (
    "from aigc_utils import session; session.prepare(); import torch, os;"
    "before = torch.get_num_threads(); session.start(1);"
    "print(before, torch.get_num_threads(),"
    "*[os.environ[k] for k in session._FOLLOW_OMP]);"
    "torch.set_num_threads(3); session.start(2); print(torch.get_num_threads())"
)


@pytest.mark.parametrize(("chosen", "threads"), [({}, 2), ({"OMP_NUM_THREADS": "5"}, 5)])
def test_threads_are_two_or_what_the_learner_chose(chosen: dict[str, str], threads: int) -> None:
    # On one core, because that is where libraries take fewer threads than they are told.
    core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    one_core = core if hasattr(os, "sched_setaffinity") else ""
    first, last = fresh_python(one_core + THREADS_OF, **chosen).stdout.splitlines()
    assert first.split() == [str(threads)] * 5
    assert last == "3"  # what was chosen later is kept, too


@pytest.mark.parametrize(
    "module", ["chat", "features", "gan", "colour", "gan_callbacks", "smollm2"]
)
def test_modules_that_prepare_the_session_say_so(module: str) -> None:
    source = (ROOT / "aigc_utils" / module).with_suffix(".py")
    if not source.exists():
        source = ROOT / "aigc_utils" / module / "__init__.py"
    assert "`session.prepare`" in ast.get_docstring(ast.parse(source.read_text()))


def test_no_other_module_prepares_the_session() -> None:
    preparing = {
        path.stem
        for path in (ROOT / "aigc_utils").rglob("*.py")
        if "session.prepare()" in path.read_text()
    }
    assert preparing == {"features", "gan", "colour", "ring", "smollm2", "providers"}


def test_start_repeats_the_same_numbers() -> None:
    import torch

    def draw() -> list[float]:
        rng = session.start(seed=3)
        return [random.random(), np.random.rand(), torch.rand(1).item(), rng.random()]  # noqa: NPY002

    assert draw() == draw()


def test_is_interactive_only_in_a_live_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setenv("AIGC_STATIC", "1")
    assert not session.is_interactive()
    monkeypatch.delenv("AIGC_STATIC")
    assert session.is_interactive()
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert not session.is_interactive()


def test_quiet_stderr_silences_descriptor_2_and_gives_it_back() -> None:
    code = (
        "import os; from aigc_utils import session\n"
        "with session.quiet_stderr(): os.write(2, b'noise')\n"
        "os.write(2, b'heard')"
    )
    assert fresh_python(code).stderr == "heard"


def test_errors_come_through_quiet_stderr() -> None:
    with pytest.raises(ValueError, match="mine"), session.quiet_stderr():
        raise ValueError("mine")


@pytest.mark.slow
def test_keras_imports_without_a_word() -> None:
    code = (
        "from aigc_utils import session\nsession.prepare()\n"
        "with session.quiet_stderr(): import keras\n"
    )
    start = time.perf_counter()
    ran = fresh_python(code + "session.start(1); print(keras.backend.backend())")
    assert (ran.stdout, ran.stderr) == ("tensorflow\n", "")
    assert time.perf_counter() - start < 60
