"""The record of passed checks: kept from any number of kernels, wrong about nothing, never loud."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_utils import checks, progress

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of three lessons, the third without exercises, and a learner who is not a test."""
    for lesson, names in (("01_a", ["add", "double"]), ("02_b", ["half"]), ("03_c", [])):
        cells = [{"metadata": {"nbgrader": {"grade_id": name, "grade": False}}} for name in names]
        cells += [
            {"metadata": {"nbgrader": {"grade_id": f"{name}-check", "grade": True}}}
            for name in names
        ]
        for folder in ("notebooks", "notebooks/exercises"):
            path = tmp_path / "course" / folder / f"{lesson}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            if names or folder == "notebooks":
                path.write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(progress, "COURSE", tmp_path / "course")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("AIGC_STATIC")
    return tmp_path / "course"


def test_what_passed_is_remembered_in_work(course: Path) -> None:
    assert progress.passed() == {}
    assert progress.report() == "No check has passed yet: begin with lesson 01."
    for _ in range(2):
        progress.record("01", "double")
    assert progress.passed() == {"01": {"double"}}
    assert (course / "work" / ".progress" / "01" / "double").is_file()
    assert progress.report() == (
        "You have passed 1 of 2 checks of lesson 01, 1 of 3 in all; go on with lesson 01."
    )


def test_the_lesson_to_go_on_with(course: Path) -> None:
    def pass_at(lesson: str, exercise: str, moment: int) -> str:
        progress.record(lesson, exercise)
        os.utime(course / "work" / ".progress" / lesson / exercise, (moment, moment))
        return progress.next_lesson()

    assert progress.next_lesson() == "01"
    assert pass_at("02", "half", 10) == "01"  # nothing is left further on: round to the start
    assert pass_at("01", "add", 20) == "01"
    assert pass_at("09", "unknown", 25) == "01"
    assert pass_at("01", "double", 30) == "01"  # at the end, the last one
    assert progress.report() == "You have passed all 3 checks of the course."
    (course / "work" / ".progress" / "02" / "half").unlink()
    assert progress.next_lesson() == "02"
    assert "2 of 2 checks of lesson 01, 2 of 3 in all; go on with lesson 02" in progress.report()


@pytest.mark.parametrize(
    ("name", "value"), [("AIGC_STATIC", "1"), ("NBGRADER_EXECUTION", "autograde")]
)
def test_answers_run_by_tests_and_graders_leave_no_trace(
    course: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    progress.record("01", "add")
    assert not (course / "work").exists() and not (course.parent / "user").exists()


def test_a_checker_records_what_passes_and_nothing_else(course: Path) -> None:
    @checks.exercise("01")
    def double(answer: checks.Answer) -> str:
        """Check it."""
        checks.demand(answer(2) == 4, "twice as much")
        return "twice as much."

    with pytest.raises(checks.CheckFailed):
        double(lambda x: x**3)
    assert progress.passed() == {}
    double(lambda x: 2 * x)
    assert progress.passed() == {"01": {"double"}}


@pytest.mark.parametrize("name", ["../../gone", "a/b", "", "a b", ".x", "C:x"])
def test_names_never_lead_out_of_the_record(course: Path, name: str) -> None:
    progress.record("01", name)
    progress.record(name, "add")
    assert not (course / "work").exists()


@pytest.mark.parametrize("place", ["work", "work/.progress", "work/.progress/01"])
def test_a_file_in_the_way_is_set_aside_whole(course: Path, place: str) -> None:
    (course / place).parent.mkdir(parents=True, exist_ok=True)
    (course / place).write_text("MINE")
    assert progress.passed() == {}
    progress.record("01", "add")
    assert progress.passed() == {"01": {"add"}}
    found = [p for p in course.rglob("*") if p.is_file() and p.read_text() == "MINE"]
    assert len(found) == 1
    # What is not the record's own folder stays where it is: another place takes the record.
    assert (found[0] == course / "work") == (place == "work")


def test_damage_is_not_a_crash(course: Path) -> None:
    progress.record("01", "add")
    home = course / "work" / ".progress"
    (home / "01" / "not a name").write_bytes(b"\xff\0")
    (home / "notes.txt").write_text("x")
    (home / "02").symlink_to(home / "02")  # a loop
    (course / "notebooks" / "exercises" / "02_b.ipynb").write_bytes(b"{\xff")
    progress.record("02", "half")
    assert progress.passed()["01"] == {"add"}
    assert "1 of 2 checks of lesson 01" in progress.report()


def test_a_disk_that_refuses_is_borne(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", refuse)
    progress.record("01", "add")
    monkeypatch.undo()
    monkeypatch.setattr(progress, "COURSE", course)
    assert progress.passed() == {}


def test_an_installed_package_keeps_it_with_the_user(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "COURSE", course.parent / "site-packages")
    progress.record("01", "add")
    assert progress.passed() == {"01": {"add"}}
    assert progress.next_lesson() == "01"
    assert progress.report() == "You have passed 1 check(s)."
    assert not (course.parent / "site-packages").exists()


@pytest.mark.parametrize("place", [RuntimeError("no home"), Path("~/.local/share/aigc")])
def test_without_a_home_it_is_in_work_or_nowhere(
    course: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Path | RuntimeError
) -> None:
    def homeless(*args: object, **named: object) -> Path:
        if isinstance(place, RuntimeError):
            raise place
        return place

    monkeypatch.setattr(progress.platformdirs, "user_data_path", homeless)
    monkeypatch.chdir(tmp_path)
    progress.record("01", "add")
    assert progress.passed() == {"01": {"add"}}
    monkeypatch.setattr(progress, "COURSE", tmp_path / "site-packages")
    progress.record("01", "double")
    assert progress.passed() == {}
    assert not (tmp_path / "~").exists()


def _record_many(course: Path, kernel: int) -> None:
    progress.COURSE = course
    for i in range(50):
        progress.record(f"{i % 5:02}", f"check_{i % 25 if kernel % 2 else i}")


def test_several_kernels_at_once_lose_nothing(course: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    kernels = [spawn.Process(target=_record_many, args=(course, k)) for k in range(3)]
    for kernel in kernels:
        kernel.start()
    for kernel in kernels:
        kernel.join()
        assert kernel.exitcode == 0
    assert {name for names in progress.passed().values() for name in names} == {
        f"check_{i}" for i in range(50)
    }


def test_the_courses_exercises_have_checkers_of_the_same_name() -> None:
    known = progress.exercises()
    for path in (ROOT / "notebooks" / "exercises").glob("*.ipynb"):
        module = re.search(r"from aigc_utils\.checks import (\w+) as check", path.read_text())
        assert known[path.name[:2]], path.name
        source = (ROOT / "aigc_utils" / "checks" / f"{module.group(1)}.py").read_text()
        for name in known[path.name[:2]]:
            assert f"\ndef {name}(" in source, f"{path.name}: {name}"


def test_import_is_light() -> None:
    code = "import sys, aigc_utils.progress, aigc_utils.files; print('numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
