"""The doctor names each problem with its mend and says by its exit code whether lessons can run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_utils import data, doctor, smollm2


def test_a_sound_installation_passes() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "aigc_utils.doctor"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert "Everything that the lessons need is here." in ran.stdout
    assert "torch          2.13.0" in ran.stdout


def test_a_missing_package_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "keras" else real(name))
    assert doctor.main() == 1
    assert "PROBLEM  keras is missing: run `make setup`" in capsys.readouterr().out


def test_a_wrong_version_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: "1.26" if name == "numpy" else real(name))
    assert doctor.main() == 1
    assert "numpy 1.26 is installed and the course needs <3,>=2.4" in capsys.readouterr().out


def test_a_damaged_data_file_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(name: str) -> None:
        raise data.DataError(f"data/{name} is truncated. Restore it.")

    monkeypatch.setattr(data, "path", damaged)
    assert doctor.main() == 1
    assert "PROBLEM  data/pride_and_prejudice.txt.gz is truncated. Restore it." in (
        capsys.readouterr().out
    )


def test_limits_are_notes_not_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "cores", lambda: 1)
    monkeypatch.setattr(doctor, "MEMORY_GB", 10**6)
    monkeypatch.setattr(doctor, "DISK_GB", 10**6)
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": "nothing"})
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for words in ("one core", "close other programs", "make room", "no_such_module is missing"):
        assert words in out


def test_the_key_itself_is_never_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-real-key-123")
    doctor.main()
    out = capsys.readouterr().out
    assert "set: used only where you choose OpenAI" in out
    assert "123" not in out


@pytest.mark.parametrize(("version", "said"), [((3, 13, 0), False), ((3, 14, 1), True)])
def test_three_pythons_are_accepted(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], said: bool
) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", version)
    sentences = [text for text in doctor.package_problems() if "needs 3.11, 3.12 or 3.13" in text]
    assert bool(sentences) == said


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one of a user without HOME who is not among the machine's users."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("AIGC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])


def test_without_a_home_the_doctor_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody(monkeypatch)
    with pytest.raises(smollm2.ModelError, match="set AIGC_CACHE"):
        smollm2.cache_root()
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "NOTE     There is no home folder that can be written" in out
    assert "course/smollm2 There is no home folder to keep the chat model in" in out


def test_a_home_that_cannot_be_written_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "deep" / "cache"))
    assert not list(doctor.folder_warnings())
    real = os.access  # root may write everywhere, so permission bits alone would prove nothing
    monkeypatch.setattr(
        os, "access", lambda path, mode: real(path, mode) and (path != tmp_path or mode != os.W_OK)
    )
    home, cache = doctor.folder_warnings()
    assert "no home folder that can be written" in home
    assert f"cannot be kept in {tmp_path / 'deep' / 'cache'}: set AIGC_CACHE" in cache


def test_the_disk_that_is_measured_is_the_cache_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = []
    real = doctor.shutil.disk_usage
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda at: measured.append(at) or real(at))
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "not" / "yet"))
    doctor.free_disk()
    assert measured == [tmp_path]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone pins processes")
def test_cores_are_those_that_may_be_used() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    ran = subprocess.run(
        [sys.executable, "-c", code + "from aigc_utils import doctor; print(doctor.cores())"],
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "1\n"


def test_a_locale_that_is_not_utf8_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.locale, "getencoding", lambda: "cp936")
    monkeypatch.setattr(doctor, "utf8_mode", lambda: False)
    assert "read as cp936" in " ".join(doctor.machine_warnings())
    monkeypatch.setattr(doctor, "utf8_mode", lambda: True)
    assert "cp936" not in " ".join(doctor.machine_warnings())


def test_a_course_that_python_does_not_find_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(doctor.__file__).resolve().parents[1]
    elsewhere = [entry for entry in sys.path[1:] if Path(entry).resolve() != here]
    monkeypatch.setattr(doctor.sys, "path", [str(here), *elsewhere])
    assert "take Python 3.13" in " ".join(doctor.package_problems())


def test_the_lesson_to_go_on_with_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.progress, "report", lambda: "Go on with lesson 05.")
    doctor.report()
    assert "Go on with lesson 05." in capsys.readouterr().out
