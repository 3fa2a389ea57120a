"""Plant one fault at a time in the package and see whether the quick tests notice.

    python tools/mutants.py                   every fault of tests/mutants.toml
    python tools/mutants.py training gpt      the faults of these modules
    python tools/mutants.py --list            only say what would be planted

The faults are planted in a copy of the checkout; nothing of yours is touched. Each names a text of
the module that occurs once and what stands there instead; its tests run until the first failure. A
fault that no test notices is a test that is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.toml"
LIMIT = 300  # seconds; a fault that makes the tests hang is noticed, too
PIECES = ("aigc_utils", "tests", "tools", "benchmarks", "data", "notebooks", "conftest.py")


@dataclass(frozen=True)
class Fault:
    """One wrong line: in `module` the text `old`, which occurs once, becomes `new`."""

    module: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file of the module, from the root of the checkout."""
        return f"aigc_utils/{self.module.replace('.', '/')}.py"

    def planted(self, source: str) -> str:
        """The module's source with the fault; ValueError where it no longer fits."""
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.module}: {self.what}: the text to replace occurs "
                f"{source.count(self.old)} times in {self.path}."
            )
        return source.replace(self.old, self.new)


def faults() -> list[Fault]:
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [
        Fault(module, fault["what"], fault["old"], fault["new"], tuple(section["tests"]))
        for module, section in listed.items()
        for fault in section["faults"]
    ]


def copy(folder: Path) -> None:
    """Lay what the tests need into `folder`; data and notebooks are only read, so links do."""
    for name in (*PIECES, "pyproject.toml", "README.md"):
        if name in ("data", "notebooks"):
            (folder / name).symlink_to(ROOT / name)
        elif (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)


def noticed(fault: Fault, folder: Path) -> bool:
    """Whether a quick test of the module fails, or hangs, with the fault planted in the copy."""
    path = folder / fault.path
    sound = path.read_text(encoding="utf-8")
    path.write_text(fault.planted(sound), encoding="utf-8")
    try:
        return not passes(fault.tests, folder)
    finally:
        path.write_text(sound, encoding="utf-8")


def passes(tests: tuple[str, ...], folder: Path) -> bool:
    """Whether the quick ones of these tests pass in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not browser", *tests]
    # The copy comes first, and no stale byte code: two faults may be planted within a second.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode > 1:  # 1 is a failed test, a negative one a killed process: both notice
        raise SystemExit(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="default: all")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [f for f in faults() if not options.modules or f.module in options.modules]
    if unknown := set(options.modules) - {fault.module for fault in chosen}:
        parser.error(f"no faults are listed for {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(f"{fault.module:20} {fault.what}" for fault in chosen))
        return 0
    made, seen = Counter(fault.module for fault in chosen), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy(folder)
        for tests in sorted({fault.tests for fault in chosen}):
            if not passes(tests, folder):
                raise SystemExit(f"{', '.join(tests)} fail without any fault: mend them first.")
        for fault in chosen:
            begin = time.monotonic()
            caught = noticed(fault, folder)
            seen[fault.module] += caught
            print(
                f"{'noticed ' if caught else 'SURVIVED'} {fault.module:20} {fault.what} "
                f"({time.monotonic() - begin:.0f} s)",
                flush=True,
            )
    for module, number in made.items():
        print(f"{module:20} {seen[module]} of {number}")
    print(f"{'together':20} {seen.total()} of {made.total()}")
    return 0 if seen.total() == made.total() else 1


if __name__ == "__main__":
    sys.exit(main())
