"""The texts and pictures of the course, checked before use (lessons 02, 04, 07 and after).

``data/README.md`` says where each file comes from, under which licence, and how to rebuild it;
``data/SHA256SUMS`` holds the checksums that this module compares with. A learner's own text loads
by its path.
"""

import codecs
import functools
import gzip
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Names of the ten Fashion-MNIST classes; the index is the label."""

MIN_CHARACTERS = 10_000
"""The least a learner's own text may have.

Lessons hold out a tenth for validation. These 1,000 characters, about 256 tokens of four
characters, are what it takes to fill one window of a language model.
"""

Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

# An installed wheel carries the data inside the package; a clone has the folder beside it.
_INSTALLED = Path(__file__).resolve().parent / "_data"
_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "data"

# First bytes of files that learners take for text: PDF, RTF, Word and e-book (zip), old Word, gzip.
_NOT_TEXT = (b"%PDF", b"{\\rtf", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")

# Marks of encodings that are not UTF-8. The first begins like the third: the order counts.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class DataError(RuntimeError):
    """A file is missing, damaged or not what the course can read; the message says the mend."""


def _mend(name: str) -> str:
    if _FOLDER == _INSTALLED:
        return "Install the package again: `python -m pip install --force-reinstall aigc-utils`."
    return (
        f"Restore it in the course's folder with `git checkout -- data/{name}`, "
        "or rebuild it with the command in data/README.md."
    )


def _checksums() -> dict[str, str]:
    sums = _FOLDER / "SHA256SUMS"
    if not sums.is_file():
        raise DataError(f"data/SHA256SUMS is missing. {_mend('SHA256SUMS')}")
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise DataError(f"data/SHA256SUMS is damaged. {_mend('SHA256SUMS')}")
    return {name: digest for digest, name in pairs}


def names() -> list[str]:
    """Return the name of every data file of the course, as ``path`` takes it."""
    return list(_checksums())


@functools.cache
def path(name: str) -> Path:
    """Return the path of a data file, after checking its sha256 (once in a process).

    ``name`` is relative to ``data/``, with forward slashes, as SHA256SUMS lists it. Raises
    DataError when the file is not listed, missing, truncated or altered.
    """
    checksums = _checksums()
    if name not in checksums:
        raise DataError(f"There is no data file {name!r}: choose one of {', '.join(checksums)}.")
    file = _FOLDER / name
    if not file.is_file():
        raise DataError(f"data/{name} is missing. {_mend(name)}")
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"data/{name} cannot be read ({error.strerror}). {_mend(name)}") from None
    digest = hashlib.sha256(raw).hexdigest()
    if digest != checksums[name]:
        raise DataError(
            f"data/{name} is truncated or altered: its {len(raw):,} bytes have the sha256 "
            f"{digest[:12]}…, not {checksums[name][:12]}…. {_mend(name)}"
        )
    return file


def folder(name: str) -> Path:
    """Return the path of a folder of data files, such as a model's, after checking each of them.

    ``name`` is relative to ``data/``, with no slash at its end. Raises DataError as ``path`` does.
    """
    inside = [file for file in _checksums() if file.startswith(f"{name}/")]
    if not inside:
        known = sorted({file.rpartition("/")[0] for file in _checksums() if "/" in file})
        raise DataError(f"There is no data folder {name!r}: choose one of {', '.join(known)}.")
    for file in inside:
        path(file)
    return _FOLDER / name


def load_text(name_or_path: str | os.PathLike[str]) -> str:
    """Return a text of the course by name, or a learner's own UTF-8 text file by path.

    The one name so far is ``"pride_and_prejudice"``. Line ends become ``"\\n"`` and a byte order
    mark is dropped. Raises DataError when the file is missing, empty, binary, not UTF-8, or
    shorter than ``MIN_CHARACTERS``.
    """
    own = [file.removesuffix(".txt.gz") for file in _checksums() if file.endswith(".txt.gz")]
    if name_or_path in own:
        return gzip.decompress(path(f"{name_or_path}.txt.gz").read_bytes()).decode("utf-8")
    try:
        file = Path(name_or_path).expanduser()
        there = file.is_file()
    except (RuntimeError, OSError, ValueError):  # an unknown ~user, a name that no disk can hold
        there = False
    if not there:
        raise DataError(
            f"There is no text file {str(name_or_path)!r}: give the path of a file, seen from "
            f"this notebook's folder, or a name of the course: {', '.join(own)}."
        )
    text = _decoded(file)
    # One after the other, so that at most two copies of a large text are held at once.
    text = text.replace("\r\n", "\n")
    text = text.replace("\r", "\n")
    if not text or text.isspace():
        raise DataError(f"{file.name} is empty: choose a file with text in it.")
    if len(text) < MIN_CHARACTERS:
        raise DataError(
            f"{file.name} has {len(text):,} characters and needs at least {MIN_CHARACTERS:,}: "
            "a tenth of it is held out for validation and must fill a window of the model."
        )
    return text


@dataclass(frozen=True)
class TextParts:
    """A text cut in order: `train`, the first eight tenths, `val`, the ninth, and a closed last.

    The rule of the course: validation chooses, and the last tenth only judges what is chosen. So
    that tenth is no attribute: `open_test` gives it, for a reason, once.
    """

    train: str = field(repr=False)
    val: str = field(repr=False)
    _test: str = field(repr=False)
    opened: list[str]  # the reasons for which the last tenth was opened in this process

    def open_test(self, reason: str) -> str:
        """Return the last tenth and note `reason`, which says what has been chosen and is judged.

        A cell that runs again, with its reason unchanged, gets it again. Raises DataError for an
        empty reason, and for a second one: whoever looks twice has chosen in between.
        """
        reason = reason.strip()
        if not reason:
            raise DataError(
                "The test text opens for a reason only: say in words which choice it judges, "
                "such as open_test('the recipe of section 5')."
            )
        if self.opened and reason not in self.opened:
            raise DataError(
                f"The test text was opened before, for {self.opened[0]!r}: what is chosen after "
                "that look cannot be judged by it, so use the validation text."
            )
        if not self.opened:
            self.opened.append(reason)
        return self._test


@functools.cache
def _reasons(digest: str) -> list[str]:
    """One list for each text, so that cutting it anew does not close it again."""
    return []


def split_text(name_or_path: str | os.PathLike[str]) -> TextParts:
    """Load a text as `load_text` does and cut it in order: 80 % to learn from, 10 % and 10 %."""
    text = load_text(name_or_path)
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return TextParts(text[:first], text[first:second], text[second:], _reasons(digest))


def _decoded(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be read ({error.strerror}): copy it to a place where you may read."
        ) from None
    for mark, encoding in _OTHER_MARKS.items():
        if raw.startswith(mark):
            name = encoding.upper()
            raise DataError(f"{file.name} is {name}, not UTF-8. {_convert(file, encoding)}")
    if raw.startswith(_NOT_TEXT) or b"\0" in raw:
        raise DataError(
            f"{file.name} is not plain text: open it in the program that made it and "
            "save it as plain text in UTF-8."
        )
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        which = " (cp1252 is Western European; take 'gb18030' for Chinese)"
        raise DataError(
            f"{file.name} is not UTF-8: the byte 0x{raw[error.start]:02x} at offset "
            f"{error.start:,} does not fit. {_convert(file, 'cp1252', which)}"
        ) from None


def _convert(file: Path, encoding: str, which: str = "") -> str:
    copy = file.with_name(f"{file.stem}-utf8.txt")
    return (
        f"Convert it with `Path({str(copy)!r}).write_text(Path({str(file)!r})"
        f".read_text({encoding!r}), 'utf-8')`{which}, and load the copy."
    )


def load_fashion_mnist() -> tuple[Split, Split]:
    """Return ``(train_images, train_labels), (test_images, test_labels)``, all uint8.

    Images have the shapes (20000, 28, 28) and (4000, 28, 28), 0 is black and 255 white; labels
    index ``CLASS_NAMES``. Every class has 2,000 training and 400 test pictures. The arrays are
    fresh at each call. Raises DataError when the file is missing or damaged.
    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.
    """
    with np.load(path("fashion_mnist.npz")) as file:
        train = (file["train_images"], file["train_labels"])
        test = (file["test_images"], file["test_labels"])
    return train, test


def read_idx(packed: bytes) -> npt.NDArray[np.uint8]:
    """Return the array in a gzipped file of MNIST's IDX format, shaped as its header says.

    Two zero bytes, type 8 (bytes), the rank, the sizes as big-endian numbers of 4 bytes, the data.
    """
    raw = gzip.decompress(packed)
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
