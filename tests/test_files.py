"""Files replaced whole: whatever stops the writer, a reader finds the old content or the new."""

import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aigc_utils import files

STEPS = [(os, "fsync"), (Path, "replace"), (Path, "write_bytes"), (Path, "open")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["häuser\n\r\n", b"\0\xff"])
def test_content_arrives_as_it_is(tmp_path: Path, content: str | bytes) -> None:
    target = tmp_path / ("n" * 250)  # the temporary name must not be longer than the name itself
    for _ in range(2):
        files.write_whole(target, content)
    raw = content.encode() if isinstance(content, str) else content
    assert target.read_bytes() == raw
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_an_error_at_any_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], error: BaseException
) -> None:
    target = tmp_path / "kept"
    target.write_text("old")

    def fail(*args: object, **named: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*step, fail)
        with pytest.raises(type(error)):
            files.write_whole(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["kept"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(UnicodeEncodeError):
        files.write_whole(target, "\ud800")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["kept"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("old")
    code = (
        "import resource, signal, sys; from aigc_utils import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: files.write_whole(sys.argv[1], 'new' * 10_000)\n"
        "except OSError as error: print(error.strerror)"
    )
    ran = subprocess.run([sys.executable, "-c", code, target], capture_output=True, text=True)
    assert ran.stdout == "File too large\n", ran.stderr
    assert target.read_text() == "old"
    assert names(tmp_path) == ["kept"]


def test_the_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/notes") as caught:
        files.write_whole(tmp_path / "nowhere" / "notes", "x")
    assert ".part" not in str(caught.value)
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder") as caught:
        files.write_whole(tmp_path / "folder", "x")
    assert ".part" not in str(caught.value)


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "known")
    (tmp_path / ".known.part").symlink_to(other)
    with pytest.raises(FileExistsError):
        files.write_whole(tmp_path / "target", "x")
    assert other.read_text() == "mine"
    assert (tmp_path / ".known.part").is_symlink()


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "notes").symlink_to(tmp_path / "disk" / "notes")
    files.write_whole(tmp_path / "notes", "new")
    assert (tmp_path / "disk" / "notes").read_text() == "new"
    assert (tmp_path / "notes").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_permissions_are_those_of_the_old_file_or_of_a_new_one(tmp_path: Path) -> None:
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    plain.touch()
    kept.touch(mode=0o600)
    files.write_whole(kept, "x")
    files.write_whole(tmp_path / "new", "x")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode


def test_threads_and_readers_see_whole_contents_only(tmp_path: Path) -> None:
    target = tmp_path / "shared"
    contents = {letter * 50_000 for letter in "abc"}
    files.write_whole(target, "a" * 50_000)

    def write(content: str) -> None:
        for _ in range(20):
            files.write_whole(target, content)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, content) for content in contents]
        while not all(writer.done() for writer in writers):
            assert target.read_text() in contents
    assert [writer.result() for writer in writers] == [None] * 3
    assert names(tmp_path) == ["shared"]


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    code = (
        "import sys; from aigc_utils import files\n"
        "while True:\n"
        "    for letter in 'ab': files.write_whole(sys.argv[1], letter * 300_000); print(letter)"
    )
    seen = set()
    for i in range(5):
        child = subprocess.Popen([sys.executable, "-uc", code, target], stdout=subprocess.PIPE)
        child.stdout.readline()  # it is writing now
        time.sleep(0.003 * i)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        text = target.read_text()
        assert text in ("a" * 300_000, "b" * 300_000)
        seen.add(text[0])
    assert seen


@pytest.mark.parametrize("kind", ["file", "folder", "dead link"])
def test_a_new_file_never_replaces(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    before = os.lstat(target)
    assert not files.write_new(target, b"other")
    assert os.lstat(target) == before
    assert names(tmp_path) == ["mine"]
    assert files.write_new(tmp_path / "other", b"new")
    assert (tmp_path / "other").read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_of_several_new_files_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # what FAT says

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(4) as pool:
        for i in range(20):
            target = tmp_path / str(i)
            contents = [str(n).encode() * 1_000 for n in range(4)]
            wrote = list(pool.map(files.write_new, [target] * 4, contents))
            assert sum(wrote) == 1
            assert target.read_bytes() == contents[wrote.index(True)]
    assert len(names(tmp_path)) == 20
