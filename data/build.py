"""Rebuild the data files of the course, byte for byte, from two Debian packages.

    python data/build.py text   [--deb r-cran-janeaustenr_1.0.0-1_all.deb]
    python data/build.py images [--deb dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb]

Without --deb the package is fetched with `apt-get download`. `text` needs the PyPI package `rdata`
(`pip install rdata`). Each command writes one file beside this script, or into --out, and its
line in SHA256SUMS. What the files hold, and their licences, is in README.md.
"""

import argparse
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aigc_utils import files
from aigc_utils.data import read_idx

HERE = Path(__file__).resolve().parent
PER_CLASS = {"train": 2_000, "t10k": 400}
# The sha256 of what goes in, before compression. It tells a package that holds something else
# (an error) from a zlib that compresses the same contents to other bytes (harmless).
CONTENTS = {
    "text": "2e44edaa4946d64ad541c68e0224f5d672f43bf3ce2a8a0b0637ad5e02fc6eb3",
    "images": "54f6c12b247d15852444ef97714fc2fadb4b9e8fd71e3c1c173177555db65fa0",
}


class BuildError(Exception):
    """The file cannot be built; the message says why and what to do."""


# --- from a Debian package to arrays and text ------------------------------------------------


def unpack(deb: Path, members: list[str]) -> list[bytes]:
    """Return the contents of the named files inside a Debian package."""
    if not deb.is_file():
        raise BuildError(f"There is no package {deb}: give --deb the path of the downloaded file.")
    if shutil.which("dpkg-deb") is None:
        raise BuildError("dpkg-deb is not installed: run this on Debian or Ubuntu.")
    run = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=False)
    if run.returncode:
        raise BuildError(f"{deb} is not a whole Debian package: download it again.")
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as tar:
        inside = {name.removeprefix("./"): name for name in tar.getnames()}
        if missing := [member for member in members if member not in inside]:
            raise BuildError(f"{deb} does not hold {missing[0]}: is it the right package?")
        return [tar.extractfile(inside[member]).read() for member in members]


def download(package: str, folder: Path) -> Path:
    """Fetch a Debian package into a folder with `apt-get download`."""
    by_hand = f"download the package {package} from packages.debian.org and name it with --deb."
    if shutil.which("apt-get") is None:
        raise BuildError(f"There is no apt-get here: {by_hand}")
    subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, check=False)
    if not (found := sorted(folder.glob("*.deb"))):
        raise BuildError(f"`apt-get download {package}` failed: run apt-get update, or {by_hand}")
    return found[0]


def novel(deb: Path) -> str:
    """Read *Pride and Prejudice* as the R package has it, its lines joined with line feeds."""
    try:
        import rdata
    except ImportError:
        raise BuildError("The text needs one more package: pip install rdata") from None
    folder = "usr/lib/R/site-library/janeaustenr/data"
    index, database = unpack(deb, [f"{folder}/Rdata.rdx", f"{folder}/Rdata.rdb"])
    # The index (.rdx) gives each variable's place in the database (.rdb): an offset and a length.
    # A record is its inflated length, four bytes, and then a zlib stream of an R object.
    offset, length = rdata.read_rds(io.BytesIO(index))["variables"]["prideprejudice"]
    record = database[offset : offset + length]
    parsed = rdata.parser.parse_data(zlib.decompress(record[4:]), extension=".rds")
    return "\n".join(rdata.conversion.convert(parsed))


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the first `count` examples of every class, in file order."""
    chosen = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def pictures(deb: Path) -> dict[str, np.ndarray]:
    """Read the balanced part of Fashion-MNIST that the course uses."""
    arrays = {}
    for part, name in (("train", "train"), ("t10k", "test")):
        stem = f"usr/share/datasets/fashion-mnist/{part}"
        members = [f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"]
        images, labels = (read_idx(raw) for raw in unpack(deb, members))
        keep = first_of_each_class(labels, PER_CLASS[part])
        arrays |= {f"{name}_images": images[keep], f"{name}_labels": labels[keep]}
    return arrays


# --- from arrays and text to bytes that are the same every time --------------------------------


def pack_text(text: str) -> bytes:
    """Compress a text with gzip, without the time stamp and file name that gzip would store."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode("utf-8"))
    return buffer.getvalue()


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """Write what `numpy.savez_compressed` writes, with fixed dates and the densest deflate."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix: the default differs on Windows
            block = io.BytesIO()
            np.lib.format.write_array(block, np.ascontiguousarray(array), version=(1, 0))
            archive.writestr(entry, block.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def build_text(deb: Path) -> tuple[bytes, str]:
    """Return the compressed novel and the sha256 of its UTF-8 bytes."""
    text = novel(deb)
    return pack_text(text), hashlib.sha256(text.encode("utf-8")).hexdigest()


def build_images(deb: Path) -> tuple[bytes, str]:
    """Return the compressed pictures and the sha256 of the arrays' bytes, one after the other."""
    arrays = pictures(deb)
    contents = b"".join(array.tobytes() for array in arrays.values())
    return pack_arrays(arrays), hashlib.sha256(contents).hexdigest()


TARGETS: dict[str, tuple[str, str, Callable[[Path], tuple[bytes, str]]]] = {
    "text": ("pride_and_prejudice.txt.gz", "r-cran-janeaustenr", build_text),
    "images": ("fashion_mnist.npz", "dataset-fashion-mnist", build_images),
}


# --- the command ---------------------------------------------------------------------------------


def record(folder: Path, name: str, digest: str) -> str | None:
    """Write a file's line in SHA256SUMS; return the checksum that stood there, if any."""
    sums = folder / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    entries = {entry: old for old, entry in (line.split(maxsplit=1) for line in lines)}
    before = entries.get(name)
    entries[name] = digest
    text = "".join(f"{entries[entry]}  {entry}\n" for entry in sorted(entries))
    files.write_whole(sums, text)
    return before


def write(folder: Path, name: str, raw: bytes) -> None:
    """Write a file and its line in SHA256SUMS, and say whether its bytes are those of before."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(folder / name, raw)
    digest = hashlib.sha256(raw).hexdigest()
    before = record(folder, name, digest)
    print(f"{name}: {len(raw):,} bytes, {'as' if before == digest else 'not as'} in SHA256SUMS.")


def out_folder(doc: str) -> Path:
    """Return where a script that takes no other option writes: --out, or beside the script."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    return parser.parse_args().out


def build(target: str, deb: Path | None, out: Path) -> str:
    """Build one file and its line in SHA256SUMS; return a sentence that says what happened."""
    name, package, make = TARGETS[target]
    with tempfile.TemporaryDirectory() as folder:
        data, contents = make(deb or download(package, Path(folder)))
    if contents != CONTENTS[target]:
        raise BuildError(
            f"This version of {package} holds other {target} than the course was built from: "
            "README.md names the right one."
        )
    out.mkdir(parents=True, exist_ok=True)
    files.write_whole(out / name, data)
    digest = hashlib.sha256(data).hexdigest()
    before = record(out, name, digest)
    if before is None:
        verdict = "added to SHA256SUMS"
    elif before == digest:
        verdict = "the bytes that SHA256SUMS names"
    else:
        verdict = (
            f"the right contents, but zlib {zlib.ZLIB_RUNTIME_VERSION} compresses them to other "
            "bytes than before; SHA256SUMS now names the new ones"
        )
    return f"{name}: {len(data):,} bytes, {verdict}."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--deb", type=Path, metavar="FILE", help="the downloaded Debian package")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    chosen = parser.parse_args(arguments)
    try:
        print(build(chosen.target, chosen.deb, chosen.out))
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
