"""The doctor names each problem with its mend and says by its exit code whether lessons can run."""

import subprocess
import sys

import pytest

from aigc_utils import data, doctor


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
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 1)
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
