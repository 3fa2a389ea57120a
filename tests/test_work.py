"""Nothing of the learner's in work/ is ever lost: any order of commands, crashes, two at once."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ("01_a.ipynb", "02_b.ipynb", "exercises/01_a.ipynb", "solutions/01_a.ipynb")


def make_course(folder: Path) -> Path:
    for name in LESSONS:
        path = folder / "notebooks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"original {name}")
    return folder


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(work, "ROOT", tmp_path)
    return make_course(tmp_path)


def run(*arguments: str) -> int:
    """Run the command in this process; give its exit code."""
    kept, sys.argv = sys.argv, ["work.py", *arguments]
    try:
        return work.main()
    except SystemExit as ended:  # argparse
        return ended.code
    finally:
        sys.argv = kept


def crash(step: int, *arguments: str) -> None:
    """Run the command in a child that dies, as if killed, before its system call number `step`."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = [step]

    def die(event: str, _: object) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    sys.addaudithook(die)
    run(*arguments)
    os._exit(0)


def texts(folder: Path) -> list[str]:
    """The contents of all that lies in a folder, links not followed."""
    found = []
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            found.append(str(path.readlink()) if path.is_symlink() else path.read_text())
    return found + [str(p.readlink()) for p in folder.rglob("*") if p.is_symlink() and p.is_dir()]


# The learner's hands -----------------------------------------------------------------------------

PLACES = [
    *("01_a.ipynb", "02_b.ipynb", "exercises/01_a.ipynb", "01_a.tmp", "exercises/01_a.tmp"),
    *("01_mine.ipynb", "my-01_a.ipynb", "notes/01_a.ipynb", "01_c.ipynb"),
]


def remove(path: Path) -> set[str]:
    """What the learner deletes is gone by their own wish: return what it held."""
    if path.is_symlink():
        gone = {str(path.readlink())}
    elif path.is_dir():
        gone = set().union(*(remove(inside) for inside in path.iterdir()))
        path.rmdir()
        return gone
    elif path.exists():
        gone = {path.read_text()}
    else:
        return set()
    path.unlink()
    return gone


def put(path: Path, kind: str, token: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text(token)
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_text(token)
    else:
        path.symlink_to(token)  # leads nowhere; its text is what must stay


learner = st.tuples(
    st.just("learner"),
    st.one_of(st.just("01_a.ipynb"), st.sampled_from(PLACES)),
    st.sampled_from(["file", "file", "folder", "link", "gone"]),
)
command = st.tuples(
    st.just("command"),
    st.sampled_from([("--reset", "01"), ("--reset", "01"), (), ("--reset", "*")]),
    st.one_of(st.none(), st.none(), st.integers(0, 30)),  # the call before which it dies
)
update = st.tuples(
    st.just("update"), st.sampled_from(["01_a.ipynb", "01_c.ipynb", "exercises/01_a.ipynb"])
)
work_step = st.tuples(learner, command).map(list)
any_step = st.one_of(work_step, work_step, st.tuples(st.one_of(learner, command, update)).map(list))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@given(st.lists(any_step, min_size=3, max_size=8))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_was_ever_in_work_is_found_again(steps: list[list[tuple]]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        course = make_course(Path(name))
        patch.setattr(work, "ROOT", course)
        mine: set[str] = set()
        for number, (who, what, *how) in enumerate(itertools.chain(*steps)):
            if who == "learner":
                mine -= remove(course / "work" / what)
                if how != ["gone"]:
                    mine.add(f"mine {number}")
                    put(course / "work" / what, *how, f"mine {number}")
            elif who == "update":  # an update brings, changes or takes away a notebook
                source = course / "notebooks" / what
                if source.exists() and number % 2:
                    source.unlink()
                else:
                    source.write_text(f"version {number}")
            elif how == [None]:
                run(*what)
            else:
                crash(*how, *what)
            lost = mine - set(texts(course / "work"))
            assert not lost, f"lost by step {number}, {what}"


def test_two_resets_within_a_second_keep_both(course: Path) -> None:
    run()
    for text in ("first", "second"):
        (course / "work" / "01_a.ipynb").write_text(text)
        assert run("--reset", "01") == 0
        assert (course / "work" / "01_a.ipynb").read_text() == "original 01_a.ipynb"
    assert {"first", "second"} <= set(texts(course / "work"))


def test_what_is_as_the_course_has_it_is_not_copied_again(course: Path) -> None:
    run()
    before = sorted(course.rglob("*"))
    assert run("--reset", "01") == 0
    assert sorted(course.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("arguments", [(), ("--reset", "01")], ids=["fill", "reset"])
def test_killed_before_any_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    for step in range(40):
        course = make_course(tmp_path / str(step))
        monkeypatch.setattr(work, "ROOT", course)
        (course / "work").mkdir()
        (course / "work" / "01_a.ipynb").write_text("mine")
        crash(step, *arguments)
        assert "mine" in texts(course / "work"), step
        # What a dead command leaves is no notebook: whatever is there under its name is whole.
        for name in ("01_a.ipynb", "02_b.ipynb", "exercises/01_a.ipynb"):
            copy = course / "work" / name
            assert not copy.exists() or copy.read_text() in (f"original {name}", "mine"), step
        assert run() == 0
        for name in ("01_a.ipynb", "02_b.ipynb", "exercises/01_a.ipynb"):
            assert (course / "work" / name).read_text() in (f"original {name}", "mine")


def together(course: Path, n: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Start the command n times at once, in processes of their own."""
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv.pop(1))\n"
        "import work; work.ROOT = Path(sys.argv.pop(1)); start = float(sys.argv.pop(1))\n"
        "time.sleep(max(0, start - time.time())); sys.exit(work.main())"
    )
    start = str(time.time() + 0.4)
    command = [sys.executable, "-c", code, str(ROOT / "tools"), str(course), start, *arguments]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(n)
    ]
    return [
        subprocess.CompletedProcess(command, process.wait(), *process.communicate())
        for process in running
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_a_disk_that_fills_up_leaves_no_cut_notebook(course: Path) -> None:
    (course / "notebooks" / "02_b.ipynb").write_text("long" * 5_000)
    code = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import work; work.ROOT = Path(sys.argv[2]); sys.argv[1:] = []\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.exit(work.main())"
    )
    command = [sys.executable, "-c", code, ROOT / "tools", course]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("work/ could not be filled (File too large)")
    assert [path.name for path in (course / "work").iterdir()] == ["01_a.ipynb"]


@pytest.mark.parametrize("arguments", [(), ("--reset", "01")], ids=["fill", "reset"])
def test_several_at_once_lose_nothing_and_do_not_fail(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for attempt in range(2):
        course = make_course(tmp_path / str(attempt))
        (course / "work").mkdir()
        (course / "work" / "01_a.ipynb").write_text("mine")
        (course / "work" / "02_b.tmp").write_text("mine too")
        for ran in together(course, 4, *arguments):
            assert ran.returncode == 0, ran.stderr
        assert {"mine", "mine too"} <= set(texts(course / "work"))
        assert {"01_a.ipynb", "02_b.ipynb"} <= {p.name for p in (course / "work").iterdir()}


@pytest.mark.parametrize(
    "number", ["*", "0?", "[0-9][0-9]", "../notebooks/01", "1", "001", "99", "", "01_a", "٠١"]
)
def test_only_a_lessons_number_is_taken(
    course: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    run()
    (course / "work" / "01_a.ipynb").write_text("mine")
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert run("--reset", number) == 2
    assert {path: path.read_bytes() for path in course.rglob("*") if path.is_file()} == before
    told = capsys.readouterr().err
    assert told == f"There is no lesson {number!r}; choose one of 01, 02.\n"


def test_fill_copies_what_is_missing_and_overwrites_nothing(course: Path) -> None:
    source, target = course / "notebooks", course / "work"
    assert len(work.fill(source, target)) == 3
    assert not (target / "solutions").exists()
    (target / "01_a.ipynb").write_text("mine")
    (target / "02_b.ipynb").unlink()
    assert work.fill(source, target) == [target / "02_b.ipynb"]
    assert (target / "01_a.ipynb").read_text() == "mine"


def test_reset_keeps_the_copy_beside_the_new_one(course: Path) -> None:
    run()
    for name in ("01_a.ipynb", "exercises/01_a.ipynb"):
        (course / "work" / name).write_text("mine")
    assert run("--reset", "01") == 0
    for folder in ("work", "work/exercises"):
        (kept,) = (course / folder).glob("my-01_a-*.ipynb")
        assert kept.read_text() == "mine"
        assert (course / folder / "01_a.ipynb").read_text().startswith("original")


@pytest.mark.parametrize("place", ["work", "work/exercises"])
def test_a_file_in_the_way_is_one_sentence(
    course: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (course / place).parent.mkdir(exist_ok=True)
    (course / place).write_text("mine")
    assert run() == 1
    assert capsys.readouterr().err == (
        f"{place} is in the way: there must be a folder of this name. Rename yours, then go on.\n"
    )
    assert (course / place).read_text() == "mine"


def test_a_disk_that_refuses_is_one_sentence(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "work/x")

    for function in ("link", "replace", "rename", "mkdir", "unlink"):
        (course / "work" / "01_a.ipynb").write_text("mine")
        with monkeypatch.context() as patch:
            patch.setattr(os, function, refuse)
            ended = run("--reset", "01")
        assert "mine" in texts(course / "work")
        told = capsys.readouterr().err
        assert ended == (1 if function == "replace" else 0), function
        assert ("No space left on device" in told) == (ended == 1)
        for name in (course / "work").glob("my-*"):
            name.unlink()


def test_without_hard_links_a_copy_is_still_exclusive(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # what FAT says

    monkeypatch.setattr(os, "link", refuse)
    assert run() == 0
    assert (course / "work" / "01_a.ipynb").read_text() == "original 01_a.ipynb"
    (course / "work" / "02_b.ipynb").write_text("mine")
    assert run() == 0
    assert (course / "work" / "02_b.ipynb").read_text() == "mine"
    assert len(texts(course / "work")) == 3


def test_work_folder_is_ignored_by_git() -> None:
    ran = subprocess.run(["git", "check-ignore", "work/01_attention.ipynb"], cwd=ROOT)
    assert ran.returncode == 0
