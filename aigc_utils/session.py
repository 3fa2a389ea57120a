"""The surroundings of a lesson: threads, quiet logs, seeds, print and figure options.

Every lesson begins with ``from aigc_utils import session`` *before* the other imports, because
numerical libraries read their environment variables once, when they are imported. In a notebook
that import calls `prepare`; a script calls it itself, or has it called by a module whose docstring
says so. After the imports `start` seeds whatever has been loaded.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

THREADS = 2

_FOLLOW_OMP = ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_ENVIRONMENT = {
    # MKL would count one core as one thread, whatever was asked for, and add up in another order.
    "MKL_DYNAMIC": "FALSE",
    # Threads that wait for each other soon go to sleep instead of spinning. Measured with a small
    # GPT: beside one busy program 60 steps take 7 s instead of 11 s, and alone 3.4 s, not 3.0 s.
    "GOMP_SPINCOUNT": "1000",
    "TF_NUM_INTEROP_THREADS": "1",
    # The Rust tokenizers warn when a process that used them is forked.
    "TOKENIZERS_PARALLELISM": "false",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    # Lessons run without a network; transformers reads these when it is imported.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def prepare() -> None:
    """Set the environment that numerical libraries read when they are imported.

    Two threads, Keras on TensorFlow, quiet logs, and transformers without a network. What is set
    already is kept: ``OMP_NUM_THREADS=8`` gives every library eight threads, ``HF_HUB_OFFLINE=0``
    goes online, and ``torch.set_num_threads`` has the last word at any time.
    """
    # The same number of threads everywhere: sums are then added in the same order.
    chosen = os.environ.setdefault("OMP_NUM_THREADS", str(THREADS)).split(",")[0].strip()
    for name in _FOLLOW_OMP:
        os.environ.setdefault(name, chosen if chosen.isdecimal() else str(THREADS))
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


if "ipykernel" in sys.modules:
    prepare()


def start(seed: int = 0) -> np.random.Generator:
    """Seed every random generator that is loaded and set print and figure options.

    Seeds ``random``, NumPy's global generator and, when they have been imported, torch and Keras.
    Returns a fresh NumPy generator with the same seed, for code that passes one explicitly.
    """
    import numpy as np  # not above: it reads what `prepare` sets

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that still use the global state)
    np.set_printoptions(precision=3, suppress=True, linewidth=100)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
        torch.set_printoptions(precision=3, sci_mode=False, linewidth=100)
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(seed)
    if "matplotlib" in sys.modules:
        from aigc_utils import plots

        plots.use_course_style()
    return np.random.default_rng(seed)


def is_interactive() -> bool:
    """Return True when a learner watches a live kernel, False in tests, on paper and in scripts.

    ``AIGC_STATIC=1`` (set by the tests and by ``make refresh``) turns live drawing and widgets
    off: a cell then shows one figure that says the same.
    """
    return "ipykernel" in sys.modules and os.environ.get("AIGC_STATIC") != "1"


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence what C++ code writes to file descriptor 2 while the block runs.

    TensorFlow logs several lines at import whatever its log level says; Python's own
    ``sys.stderr`` cannot catch them. Python errors raised in the block still come through.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
