"""The data files are what README.md says, damage is noticed, and a learner's own text loads."""

import codecs
import functools
import gzip
import hashlib
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from aigc_utils import data

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data"
FILES = ("fashion_mnist.npz", "pride_and_prejudice.txt.gz")
LONG_ENOUGH = "It is a truth universally acknowledged. " * 300

# runpy leaves no __pycache__ in data/, which the wheel carries.
build = runpy.run_path(str(FOLDER / "build.py"))


def checksums() -> dict[str, str]:
    lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def readme_sections() -> dict[str, str]:
    parts = re.split(r"^## `(.+)`$", (FOLDER / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of data/ that a test may damage, with nothing verified yet."""
    for name in ("SHA256SUMS", *FILES):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    monkeypatch.setattr(data, "_FOLDER", tmp_path)
    data.path.cache_clear()
    yield tmp_path
    data.path.cache_clear()


# --- what is committed ---------------------------------------------------------------------------


def test_every_data_file_has_its_checksum_and_the_checksums_hold():
    known = checksums()
    scripts = {file.name for file in FOLDER.glob("*.py")}
    described = {"README.md", "SHA256SUMS", ".gitattributes"} | scripts
    there = {
        file.relative_to(FOLDER).as_posix()
        for file in FOLDER.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert there - described == set(known)
    for name, digest in known.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_readme_agrees_with_checksums_and_sizes():
    known, sections = checksums(), readme_sections()
    assert set(sections) == set(known)
    for name, section in sections.items():
        rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, flags=re.MULTILINE))
        assert {"What", "Rows", "Size", "sha256", "Source", "Licence", "Rebuild"} <= set(rows), name
        assert rows["Size"] == f"{(FOLDER / name).stat().st_size:,} bytes", name
        assert rows["sha256"] == f"`{known[name]}`", name


def test_readme_tells_the_truth_about_the_novel():
    text = data.load_text("pride_and_prejudice")
    section = readme_sections()["pride_and_prejudice.txt.gz"]
    facts = (
        f"{len(text):,} characters",
        f"{len(set(text))} of them distinct",
        f"{text.count(chr(10)) + 1:,} lines",
        f"{len(text.split()):,} words",
        f"{len(re.findall(r'^Chapter [0-9]+$', text, flags=re.MULTILINE))} chapters",
    )
    for fact in facts:
        assert fact in section, fact
    assert text.isascii()
    head, tail = re.findall(r"^```\n(.+?)\n```$", section, flags=re.MULTILINE | re.DOTALL)
    assert text.startswith(head + "\n")
    assert text.endswith("\n" + tail)
    chapters = re.findall(r"^Chapter ([0-9]+)$", text, flags=re.MULTILINE)
    assert chapters == [str(number) for number in range(1, 62)]
    rows_of_asterisks = re.findall(r"^ *\*[ *]*$", text, flags=re.MULTILINE)
    assert len(rows_of_asterisks) == 6
    assert "six lines are rows of asterisks" in section


def test_fashion_mnist_is_balanced_and_whole():
    (train_images, train_labels), (test_images, test_labels) = data.load_fashion_mnist()
    assert train_images.shape == (20_000, 28, 28)
    assert test_images.shape == (4_000, 28, 28)
    for array in (train_images, train_labels, test_images, test_labels):
        assert array.dtype == np.uint8
    assert np.bincount(train_labels).tolist() == [2_000] * 10
    assert np.bincount(test_labels).tolist() == [400] * 10
    assert len(data.CLASS_NAMES) == 10
    assert ", ".join(data.CLASS_NAMES) in " ".join((FOLDER / "README.md").read_text().split())
    # Pictures, not padding: each uses the whole range of grey and differs from all others.
    assert train_images.min() == 0
    assert train_images.max() == 255
    both = np.concatenate([train_images, test_images]).reshape(24_000, -1)
    assert len(np.unique(both, axis=0)) >= 23_990
    # The caveat in the README: the order is mixed, its end is not.
    assert np.bincount(train_labels[:1_000]).min() >= 80
    assert set(train_labels[-23:].tolist()) == {0}
    assert train_labels[-24] != 0


def test_labels_fit_their_pictures():
    """Nearest class mean gets about two thirds right; shuffled labels would get a tenth."""
    (train_images, train_labels), (test_images, test_labels) = data.load_fashion_mnist()
    train = train_images.reshape(20_000, -1) / 255.0
    test = test_images.reshape(4_000, -1) / 255.0
    means = np.stack([train[train_labels == label].mean(axis=0) for label in range(10)])
    distances = (means**2).sum(axis=1) - 2 * test @ means.T
    assert (distances.argmin(axis=1) == test_labels).mean() > 0.6


def test_loaded_arrays_are_fresh():
    (first, _), _ = data.load_fashion_mnist()
    first[:] = 0
    (second, _), _ = data.load_fashion_mnist()
    assert second.any()


def test_importing_data_needs_numpy_only():
    code = (
        "import sys; import numpy; before = set(sys.modules)\n"
        "from aigc_utils import data\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'aigc_utils', 'numpy'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr


# --- damage --------------------------------------------------------------------------------------


def load(name: str) -> object:
    return (
        data.load_fashion_mnist()
        if name.endswith(".npz")
        else data.load_text("pride_and_prejudice")
    )


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message, which must be one paragraph and name no folder of this machine."""
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_its_mend(folder, name):
    (folder / name).unlink()
    with pytest.raises(data.DataError) as error:
        load(name)
    message = sentence(error)
    assert message.startswith(f"data/{name} is missing.")
    assert f"git checkout -- data/{name}" in message
    assert "data/README.md" in message
    assert str(folder) not in message


def truncate(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip_a_bit(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda raw: b"", lambda raw: raw + b"\n"])
def test_a_damaged_file_is_named_with_its_mend(folder, name, damage):
    raw = damage((folder / name).read_bytes())
    (folder / name).write_bytes(raw)
    with pytest.raises(data.DataError) as error:
        load(name)
    message = sentence(error)
    assert message.startswith(f"data/{name} is truncated or altered: its {len(raw):,} bytes")
    assert f"git checkout -- data/{name}" in message


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda sums: sums.unlink(), "data/SHA256SUMS is missing."),
        (lambda sums: sums.write_text(sums.read_text()[:50]), "data/SHA256SUMS is damaged."),
        (lambda sums: sums.write_bytes(b"\xff\xfe\x00"), "data/SHA256SUMS is damaged."),
        (lambda sums: sums.write_text(""), "data/SHA256SUMS is damaged."),
    ],
)
def test_damaged_checksums_are_one_clear_error(folder, damage, words):
    damage(folder / "SHA256SUMS")
    with pytest.raises(data.DataError) as error:
        data.load_fashion_mnist()
    assert sentence(error).startswith(words)
    assert "git checkout -- data/SHA256SUMS" in sentence(error)


def test_checksums_survive_windows_line_ends(folder):
    sums = folder / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes().replace(b"\n", b"\r\n"))
    assert data.path("fashion_mnist.npz") == folder / "fashion_mnist.npz"


def test_path_verifies_once_and_serves_later_files_in_folders(folder, monkeypatch):
    (folder / "models").mkdir()
    (folder / "models" / "tiny.npz").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{digest}  models/tiny.npz\n")
    assert data.path("models/tiny.npz").read_bytes() == b"weights"

    def no_second_reading(_self: Path) -> bytes:
        raise AssertionError("verified twice")

    monkeypatch.setattr(Path, "read_bytes", no_second_reading)
    assert data.path("models/tiny.npz") == folder / "models" / "tiny.npz"


def test_a_folder_is_checked_file_by_file(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / "models" / "tiny").mkdir(parents=True, exist_ok=True)
        (folder / "models" / "tiny" / name).write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        with (folder / "SHA256SUMS").open("a") as sums:
            sums.write(f"{digest}  models/tiny/{name}\n")
    for name in ("config.json", "model.safetensors"):
        (folder / "models" / "tiny" / name).write_bytes(b"altered")
        with pytest.raises(data.DataError, match=rf"data/models/tiny/{name} is truncated or"):
            data.folder("models/tiny")
        data.path.cache_clear()
        (folder / "models" / "tiny" / name).write_bytes(name.encode())
    assert data.folder("models/tiny") == folder / "models" / "tiny"


@pytest.mark.parametrize("name", ["models/tin", "", "..", "models/novel_gpt/"])
def test_an_unknown_folder_says_what_there_is(name):
    with pytest.raises(data.DataError, match=r"There is no data folder .* models/novel_gpt,"):
        data.folder(name)


def test_an_unreadable_file_says_so(folder, monkeypatch):
    def refuse(_self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(data.DataError, match=r"cannot be read \(Permission denied\). Restore it"):
        data.load_fashion_mnist()


def test_a_mended_file_loads_without_a_restart(folder):
    kept = (folder / "fashion_mnist.npz").read_bytes()
    (folder / "fashion_mnist.npz").write_bytes(b"")
    with pytest.raises(data.DataError):
        data.load_fashion_mnist()
    (folder / "fashion_mnist.npz").write_bytes(kept)
    data.load_fashion_mnist()


@pytest.mark.parametrize("name", ["gpt.npz", "../README.md", "README.md", ""])
def test_path_knows_only_listed_files(name):
    with pytest.raises(data.DataError, match="There is no data file"):
        data.path(name)


def test_an_installed_package_finds_its_data_and_its_mend(tmp_path):
    """The wheel has no data/ beside it, but aigc_utils/_data."""
    package = tmp_path / "aigc_utils"
    shutil.copytree(ROOT / "aigc_utils", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FOLDER, package / "_data")
    (package / "_data" / "fashion_mnist.npz").unlink()
    code = (
        "from aigc_utils import data\n"
        "print(len(data.load_text('pride_and_prejudice')))\n"
        "try: data.load_fashion_mnist()\n"
        "except data.DataError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    length, message = run.stdout.splitlines()
    assert length == "684767", run.stderr
    assert "pip install --force-reinstall" in message
    assert "git" not in message


# --- the three parts, and the closed one ---------------------------------------------------------


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(data, "_reasons", functools.cache(data._reasons.__wrapped__))
    return data.split_text("pride_and_prejudice")


def test_the_parts_are_the_text_in_order(parts):
    assert parts.opened == []
    whole = (parts.train, parts.val, parts.open_test("the end"))
    assert "".join(whole) == data.load_text("pride_and_prejudice")
    assert [round(len(part) / 684_767, 3) for part in whole] == [0.8, 0.1, 0.1]


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_the_test_text_stays_closed_without_a_reason(parts, reason):
    with pytest.raises(data.DataError, match="say in words which choice it judges"):
        parts.open_test(reason)
    assert parts.opened == []


def test_the_test_text_opens_once(parts):
    first = parts.open_test("the recipe is fixed")
    assert parts.open_test(" the recipe is fixed ") == first  # the same cell, run again
    with pytest.raises(data.DataError, match="opened before, for 'the recipe is fixed'"):
        parts.open_test("another rate")
    assert parts.opened == ["the recipe is fixed"]


def test_cutting_anew_does_not_close_it_again(parts, tmp_path):
    parts.open_test("the recipe is fixed")
    with pytest.raises(data.DataError, match="use the validation text"):
        data.split_text("pride_and_prejudice").open_test("another rate")
    mine = data.split_text(own(tmp_path, LONG_ENOUGH.encode()))
    assert mine.open_test("another rate") == LONG_ENOUGH[len(LONG_ENOUGH) * 9 // 10 :]


def test_no_text_shows_in_the_parts_own_words(parts):
    assert repr(parts) == "TextParts(opened=[])"


# --- a learner's own text ------------------------------------------------------------------------


def own(tmp_path: Path, raw: bytes) -> Path:
    file = tmp_path / "mine.txt"
    file.write_bytes(raw)
    return file


@pytest.mark.parametrize("text", [LONG_ENOUGH, "凡是过往，皆为序章。" * 1_000, "né 🙂 " * 2_500])
def test_own_text_loads_by_path(tmp_path, text):
    file = own(tmp_path, text.encode("utf-8"))
    assert data.load_text(file) == text
    assert data.load_text(str(file)) == text


def test_relative_paths_and_home_work(tmp_path, monkeypatch):
    own(tmp_path, LONG_ENOUGH.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert data.load_text("mine.txt") == data.load_text("~/mine.txt") == LONG_ENOUGH


def test_byte_order_mark_and_line_ends_are_normalised(tmp_path):
    lines = ["Ärger"] * 2_500
    wanted = "\n".join(lines)
    for end in ("\r\n", "\r", "\n"):
        raw = codecs.BOM_UTF8 + end.join(lines).encode("utf-8")
        assert data.load_text(own(tmp_path, raw)) == wanted


def offset_in(message: str) -> int:
    found = re.search(r"the byte 0x[0-9a-f]{2} at offset ([\d,]+)", message)
    assert found, message
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_latin_1_is_refused_with_the_byte_offset(tmp_path, mark):
    start = mark + LONG_ENOUGH.encode()
    with pytest.raises(data.DataError) as error:
        data.load_text(own(tmp_path, start + "café noir".encode("latin-1")))
    message = sentence(error)
    assert message.startswith("mine.txt is not UTF-8: the byte 0xe9")
    assert offset_in(message) == len(start) + 3


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "“Café”, said Zoë. " * 1_000),
        ("gb18030", "凡是过往，皆为序章。" * 1_000),
        ("utf-16", LONG_ENOUGH),
    ],
)
def test_the_suggested_conversion_works(tmp_path, encoding, text):
    with pytest.raises(data.DataError) as error:
        data.load_text(own(tmp_path, text.encode(encoding)))
    message = sentence(error)
    assert "not UTF-8" in message
    assert f"{encoding}" in message
    code = re.search(r"`(.+)`", message)[1].replace("'cp1252'", repr(encoding))
    eval(code, {"Path": Path})
    assert data.load_text(tmp_path / "mine-utf8.txt") == text
    assert (tmp_path / "mine.txt").read_bytes() == text.encode(encoding)


def test_a_character_cut_at_the_end_is_refused(tmp_path):
    raw = LONG_ENOUGH.encode() + "é".encode()[:1]
    with pytest.raises(data.DataError) as error:
        data.load_text(own(tmp_path, raw))
    assert offset_in(sentence(error)) == len(raw) - 1


@pytest.mark.parametrize("raw", [b"", codecs.BOM_UTF8, b" \n\r\n" * 5_000])
def test_an_empty_file_is_refused(tmp_path, raw):
    with pytest.raises(data.DataError, match=r"mine\.txt is empty"):
        data.load_text(own(tmp_path, raw))


def test_a_short_file_is_refused_with_the_minimum_and_why(tmp_path):
    text = "é" * (data.MIN_CHARACTERS - 1)  # characters count, not bytes
    with pytest.raises(data.DataError) as error:
        data.load_text(own(tmp_path, text.encode()))
    message = sentence(error)
    assert "has 9,999 characters and needs at least 10,000" in message
    assert "validation" in message
    assert data.load_text(own(tmp_path, (text + "x").encode())) == text + "x"


@pytest.mark.parametrize(
    "raw",
    [
        b"text with a zero \0 inside" * 1_000,
        b"%PDF-1.7\n" + b"x" * 20_000,
        b"{\\rtf1\\ansi " + b"x" * 20_000,
        b"PK\x03\x04" + b"x" * 20_000,
        gzip.compress(LONG_ENOUGH.encode()),
        np.random.default_rng(1).bytes(20_000),
    ],
)
def test_binary_files_are_refused(tmp_path, raw):
    with pytest.raises(data.DataError, match="is not plain text"):
        data.load_text(own(tmp_path, raw))


@pytest.mark.parametrize(
    "encoding", ["utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"], ids=lambda name: name
)
def test_a_marked_encoding_is_named_and_its_conversion_works(tmp_path, encoding):
    mark = "\ufeff".encode(encoding)
    with pytest.raises(data.DataError) as error:
        data.load_text(own(tmp_path, mark + LONG_ENOUGH.encode(encoding)))
    message = sentence(error)
    assert message.startswith(f"mine.txt is {encoding[:6].upper()}, not UTF-8.")
    eval(re.search(r"`(.+)`", message)[1], {"Path": Path})
    assert data.load_text(tmp_path / "mine-utf8.txt") == LONG_ENOUGH


def test_an_unreadable_file_is_one_sentence(tmp_path, monkeypatch):
    def refuse(_self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    file = own(tmp_path, LONG_ENOUGH.encode())
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read every file
    with pytest.raises(data.DataError) as error:
        data.load_text(file)
    assert sentence(error).startswith("mine.txt cannot be read (Permission denied): copy it")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_large_text_is_held_twice_at_most(tmp_path, end):
    file = own(tmp_path, (("x" * 98 + end) * 40_000).encode())
    tracemalloc.start()
    try:
        text = data.load_text(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * len(text), f"{peak / len(text):.1f} times the text"


@pytest.mark.parametrize(
    "name", ["emma", "no/such/file.txt", ".", "~nobody-here/text", "a\0b", "n" * 5_000]
)
def test_an_unknown_name_says_what_there_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError) as error:
        data.load_text(name)
    assert sentence(error).startswith(f"There is no text file {name!r}")
    assert "pride_and_prejudice" in sentence(error)


# --- the build -----------------------------------------------------------------------------------


def test_first_of_each_class_takes_the_first_in_order():
    labels = np.array([2, 0, 2, 1, 0, 2, 1, 0, 1])
    assert build["first_of_each_class"](labels, 2).tolist() == [0, 1, 2, 3, 4, 6]


def test_idx_is_read_by_its_header():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
    read = data.read_idx(gzip.compress(header + images.tobytes()))
    np.testing.assert_array_equal(read, images)


@pytest.mark.slow
def test_packing_the_contents_again_gives_the_committed_bytes():
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("zlib-ng compresses the same contents to other bytes")
    with np.load(FOLDER / "fashion_mnist.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert build["pack_arrays"](arrays) == (FOLDER / "fashion_mnist.npz").read_bytes()
    text = data.load_text("pride_and_prejudice")
    assert build["pack_text"](text) == (FOLDER / "pride_and_prejudice.txt.gz").read_bytes()


def package(name: str) -> Path:
    """A downloaded Debian package, from the folder AIGC_DEBS or from apt's own cache."""
    for folder in (os.environ.get("AIGC_DEBS"), "/var/cache/apt/archives"):
        if folder and (found := sorted(Path(folder).glob(f"{name}_*.deb"))):
            return found[0]
    pytest.skip(f"no package {name}: `apt-get download` it into a folder and set AIGC_DEBS to it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "debian", "name"),
    [
        ("text", "r-cran-janeaustenr", "pride_and_prejudice.txt.gz"),
        ("images", "dataset-fashion-mnist", "fashion_mnist.npz"),
    ],
)
def test_rebuild_is_byte_identical(tmp_path, target, debian, name):
    deb = package(debian)
    if target == "text":
        pytest.importorskip("rdata", reason="rebuilding the text needs `pip install rdata`")
    shutil.copyfile(FOLDER / "SHA256SUMS", tmp_path / "SHA256SUMS")
    command = [sys.executable, "data/build.py", target, "--deb", str(deb), "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    assert (tmp_path / "SHA256SUMS").read_bytes() == (FOLDER / "SHA256SUMS").read_bytes()
    assert run.stdout.endswith("the bytes that SHA256SUMS names.\n")


def failing_build(tmp_path: Path, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        build["main"]([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    message = stop.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


def test_the_build_names_a_missing_package(tmp_path):
    message = failing_build(tmp_path, "images", "--deb", str(tmp_path / "no.deb"))
    assert "There is no package" in message


def test_the_build_without_apt_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = failing_build(tmp_path, "images")
    assert "There is no apt-get here" in message
    assert "--deb" in message


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_the_build_refuses_what_is_no_package(tmp_path):
    (tmp_path / "bad.deb").write_bytes(b"!<arch>\nnot really")
    message = failing_build(tmp_path, "images", "--deb", str(tmp_path / "bad.deb"))
    assert "is not a whole Debian package" in message


def test_the_build_refuses_other_contents(tmp_path, monkeypatch):
    deb = tmp_path / "other.deb"
    made = (build["pack_text"]("Emma"), hashlib.sha256(b"Emma").hexdigest())
    monkeypatch.setitem(build["TARGETS"], "text", ("a.txt.gz", "some-package", lambda _: made))
    message = failing_build(tmp_path, "text", "--deb", str(deb))
    assert "holds other text than the course was built from" in message


def test_record_keeps_other_lines_and_replaces_its_own(tmp_path):
    record = build["record"]
    assert record(tmp_path, "models/b.npz", "22") is None
    assert record(tmp_path, "a.npz", "11") is None
    assert record(tmp_path, "models/b.npz", "33") == "22"
    assert (tmp_path / "SHA256SUMS").read_bytes() == b"11  a.npz\n33  models/b.npz\n"


def test_checksums_are_in_the_format_of_sha256sum():
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    run = subprocess.run([tool, "--check", "SHA256SUMS"], cwd=FOLDER, capture_output=True)
    assert run.returncode == 0, run.stdout


def test_archives_carry_no_time_or_machine():
    arrays = {"a": np.arange(3, dtype=np.uint8)}
    packed = build["pack_arrays"](arrays)
    with np.load(io.BytesIO(packed)) as archive:
        np.testing.assert_array_equal(archive["a"], arrays["a"])
    raw = (FOLDER / "pride_and_prejudice.txt.gz").read_bytes()
    assert raw[3:9] == b"\0\0\0\0\0\x02"  # no name, no time; the densest level
