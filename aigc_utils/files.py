"""Files replaced whole: a reader sees the old content or the new, whatever stops the writer.

A full disk, a kill or a second writer costs the new content at most, never the old (lesson 04 keeps
its checkpoints this way). What is written first has a name of its own in the same folder, so that
the last step is one renaming, which a file system does at once or not at all.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new, empty file; when the block ends well, it takes the place of ``path``.

    For writers that want a path or a stream of their own. The new file is on the disk before it is
    renamed, keeps the old one's permissions, and goes when the block raises; ``path`` is then as it
    was. A link is followed, so that it stays a link. Raises OSError, with the name of ``path``.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.open("xb").close()  # "x": neither through a link nor onto anything that is there
        try:
            yield part
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(target, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            with contextlib.suppress(OSError):  # after a renaming there is nothing left
                part.unlink()
    except OSError as error:
        if str(part) in (str(error.filename), str(error.filename2)):
            error.filename, error.filename2 = str(path), None
        raise
    with contextlib.suppress(OSError):  # Windows cannot open a folder, nor needs to
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8, line ends as they are) to ``path``, whole or not at all.

    Raises OSError as ``replacing`` does, and UnicodeEncodeError for text that UTF-8 cannot hold.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as part:
        part.write_bytes(raw)


def write_new(path: str | os.PathLike[str], content: bytes) -> bool:
    """Write ``content`` to ``path`` unless something, a dead link too, is there; say if it was.

    The file appears whole. Where a disk knows no hard links (FAT), a kill may leave it cut.
    """
    target = Path(path)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
        try:
            os.link(part, target)  # unlike a renaming it never replaces
        except FileExistsError:
            return False
        except OSError:
            with target.open("xb") as file:
                file.write(content)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
