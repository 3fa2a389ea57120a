"""Runs survive being killed and are read back as written."""

from pathlib import Path

import numpy as np
import pytest

from aigc_utils import history


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    with history.Run(tmp_path / "run.jsonl", lr=0.1) as run:
        for step in range(4):
            run.log(step=step, train_loss=np.float32(2.0 - step / 4))
            if step % 2 == 1:
                run.log(step=step, val_loss=3.0 - step)
    return tmp_path / "run.jsonl"


def test_a_run_is_read_back_as_written(run_file: Path) -> None:
    run = history.read(run_file)
    assert run.settings == {"lr": 0.1}
    np.testing.assert_allclose(run.column("train_loss"), [2.0, 1.75, 1.5, 1.25])
    steps, losses = run.points("step", "val_loss")
    assert steps.tolist() == [1, 3] and losses.tolist() == [2.0, 0.0]


def test_unknown_metric_names_those_there_are(run_file: Path) -> None:
    with pytest.raises(KeyError, match="train_loss"):
        history.read(run_file).column("accuracy")


def test_a_half_written_last_line_is_dropped_and_the_run_goes_on(run_file: Path) -> None:
    with run_file.open("a") as file:
        file.write('{"step": 4, "train_l')
    assert len(history.read(run_file).rows) == 6
    with history.Run(run_file, append=True) as run:
        run.log(step=4, train_loss=1.0)
    again = history.read(run_file)
    assert again.settings == {"lr": 0.1}
    assert again.column("step").tolist() == [0, 1, 1, 2, 3, 3, 4]


def test_rows_are_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    with history.Run(tmp_path / "run.jsonl") as run:
        run.log(step=1)
        assert len(history.read(run.path).rows) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"settings": {}}\nbroken\n{"step": 1}\n', "line 2"),
        ('{"step": 1}\n', "settings"),
        ("", "settings"),
        ("5\n", "line 1"),
        ('{"settings": {}}\n[1, 2]\n{"step": 1}\n', "line 2"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        history.read(path)


def test_a_missing_file_says_train_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        history.read(tmp_path / "none.jsonl")


def test_a_row_that_the_disk_takes_in_parts_is_whole(tmp_path: Path) -> None:
    run = history.Run(tmp_path / "run.jsonl")
    file = run._file

    class Narrow:
        def write(self, line: bytes) -> int:
            return file.write(line[:5])

        def close(self) -> None:
            file.close()

    run._file = Narrow()
    with run:
        run.log(step=1, train_loss=2.0)
        run.log(step=2, train_loss=1.0)
    assert history.read(run.path).rows == run.history.rows


def test_without_a_path_the_rows_stay_in_memory(tmp_path: Path) -> None:
    with history.Run(None, lr=0.1) as run:
        run.log(step=1)
    assert run.history == history.History({"lr": 0.1}, [{"step": 1}])
