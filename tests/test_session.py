"""The surroundings of a lesson: environment, seeds, quiet imports, cheap package import."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from aigc_utils import session


def fresh_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, without the settings that this test run has made."""
    env = {k: v for k, v in os.environ.items() if k not in session._ENVIRONMENT} | environment
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
        "import os; from aigc_utils import session;"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['HF_HUB_OFFLINE'])"
    )
    assert fresh_python(code).stdout.split() == ["2", "1"]
    assert fresh_python(code, HF_HUB_OFFLINE="0").stdout.split() == ["2", "0"]


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
    code = "from aigc_utils import session\nwith session.quiet_stderr(): import keras\n"
    start = time.perf_counter()
    ran = fresh_python(code + "session.start(1); print(keras.backend.backend())")
    assert (ran.stdout, ran.stderr) == ("tensorflow\n", "")
    assert time.perf_counter() - start < 60
