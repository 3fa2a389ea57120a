"""`make setup` takes a Python that works, and says that all is well only when the doctor does.

The Pythons here are scripts that claim a version, run code given with ``-c`` under that claim, and
make an environment of one file: what pip would install is not the matter.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
claim="import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])"
case "$*" in
-c*) exec "{real}" -c "$claim" "$2" ;;
--version) echo "Python 3.{minor}.0" ;;
"-m venv --clear .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*--editable*)
  site=.venv/lib/python3.{minor}/site-packages
  mkdir -p $site && pwd >$site/_editable_impl_aigc_utils.pth ;;
*doctor*) exit "${{DOCTOR:-0}}" ;;
esac
"""


class Laptop:
    """A folder with the course's set-up, and a PATH on which only what is put there is found."""

    def __init__(self, root: Path) -> None:
        self.bin, self.course = root / "bin", root / "my course 课程"
        self.bin.mkdir()
        (self.course / "tools").mkdir(parents=True)
        for name in ("Makefile", "tools/venv.sh"):
            shutil.copy(ROOT / name, self.course / name)
        (self.course / "requirements.lock").write_text("")
        for name in ("sh", "make", "mkdir", "cp", "touch", "rm", "test", "awk"):
            (self.bin / name).symlink_to(shutil.which(name))

    def add(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script, "utf-8")
        (self.bin / name).chmod(0o755)

    def add_python(self, name: str, minor: int) -> None:
        self.add(name, PYTHON.format(minor=minor, real=sys.executable))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.course,
            env={"PATH": str(self.bin), "HOME": str(self.bin), "LC_ALL": "C"} | environment,
            capture_output=True,
            encoding="utf-8",
        )

    def chosen(self) -> str:
        made = self.run("sh", "tools/venv.sh")
        assert made.returncode == 0, made.stderr
        return self.run(".venv/bin/python", "--version").stdout.strip()


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def test_the_newest_of_the_three_is_taken(laptop: Laptop) -> None:
    laptop.add_python("python3", 14)
    laptop.add_python("python3.11", 11)
    assert laptop.chosen() == "Python 3.11.0"
    shutil.rmtree(laptop.course / ".venv")
    laptop.add_python("python3.13", 13)
    laptop.add_python("python3.12", 12)
    assert laptop.chosen() == "Python 3.13.0"


def test_a_name_that_leads_nowhere_and_a_python_without_venv_are_passed_by(laptop: Laptop) -> None:
    laptop.add("python3.13", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    laptop.add("python3.12", '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    laptop.add_python("python3", 11)
    assert laptop.chosen() == "Python 3.11.0"


def test_without_a_python_uv_brings_one(laptop: Laptop) -> None:
    laptop.add_python("python3", 14)
    laptop.add("uv", '#!/bin/sh\necho "$@"\n')
    made = laptop.run("sh", "tools/venv.sh")
    assert made.returncode == 0
    assert "venv --clear --seed --python 3.13 .venv" in made.stdout


def test_without_either_one_sentence_names_the_commands(laptop: Laptop) -> None:
    laptop.add_python("python3", 10)
    made = laptop.run("sh", "tools/venv.sh")
    assert made.returncode == 1
    assert made.stderr.count("\n") == 1
    for way in ("apt install", "dnf install", "brew install", "winget install", "install uv"):
        assert way in made.stderr


def test_an_environment_that_works_is_kept_unless_another_python_is_named(laptop: Laptop) -> None:
    laptop.add_python("python3.11", 11)
    laptop.chosen()
    laptop.add_python("python3.13", 13)
    assert laptop.chosen() == "Python 3.11.0"
    assert laptop.run("sh", "tools/venv.sh", "python3.13").returncode == 0
    assert laptop.chosen() == "Python 3.13.0"
    refused = laptop.run("sh", "tools/venv.sh", "no-such-python")
    assert refused.returncode == 1
    assert "PYTHON=no-such-python does not run" in refused.stderr


def test_set_up_is_not_done_before_the_doctor_is_content(laptop: Laptop) -> None:
    laptop.add_python("python3.13", 13)
    for _ in range(2):
        assert laptop.run("make", "setup", DOCTOR="1").returncode != 0
    assert "Installing" in laptop.run("make", "setup").stdout
    again = laptop.run("make", "setup", DOCTOR="1")
    assert again.returncode == 0
    assert "Installing" not in again.stdout


def test_the_way_to_the_course_is_plain_ascii(laptop: Laptop) -> None:
    laptop.add_python("python3.12", 12)
    assert laptop.run("make", "setup").returncode == 0
    (link,) = laptop.course.glob(".venv/lib/python*/site-packages/*.pth")
    assert (link.parent / link.read_text("ascii").strip()).resolve() == laptop.course


@pytest.mark.parametrize("home", [{"HOME": ""}, {"HOME": "/no/such/folder"}])
def test_without_a_home_there_is_one_beside_the_course(
    laptop: Laptop, home: dict[str, str]
) -> None:
    (laptop.course / "Makefile").open("a").write("\nshow:\n\t@echo $$HOME $$PYTHONUTF8\n")
    assert laptop.run("make", "show").stdout == f"{laptop.bin} 1\n"
    assert laptop.run("make", "show", **home).stdout == f"{laptop.course / '.home'} 1\n"


def test_every_make_target_has_a_line_of_help(laptop: Laptop) -> None:
    listed = {line.split()[0] for line in laptop.run("make").stdout.splitlines()}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    assert listed == set(phony.split())


def test_the_lock_is_renewed_with_uv_alone(laptop: Laptop) -> None:
    without = laptop.run("make", "lock")
    assert without.returncode != 0
    assert "python -m pip install uv" in without.stdout
    laptop.add("uv", '#!/bin/sh\necho "$@"\n')
    asked = laptop.run("make", "lock", "LOCK_OPTIONS=--upgrade").stdout
    for option in ("--universal", "--generate-hashes", "--no-emit-package torch", "--upgrade"):
        assert option in asked


def test_hooks_run_the_programs_of_this_environment_and_download_nothing() -> None:
    offered = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in offered["repos"] for hook in repository["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "contract"}
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system"
        assert (Path(sys.executable).parent / Path(program).relative_to(".venv/bin")).exists()
        assert all((ROOT / text).exists() for text in arguments if text.endswith(".py"))


def test_notebooks_are_nbdimes_where_it_is_switched_on() -> None:
    asked = ["git", "check-attr", "diff", "merge", "--", "notebooks/01_attention.ipynb"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.count(": jupyternotebook\n") == 2
