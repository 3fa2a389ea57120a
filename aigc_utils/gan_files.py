"""The file of a GAN: its configuration, its arrays and a checksum, in one .npz (lesson 09).

Not Keras's own format: a .keras file brings back weights and both Adams, but not the states of the
``SeedGenerator`` objects (noise, dropout), so a run that goes on would draw the numbers of its
beginning once more. Nothing in a file is run as code.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aigc_utils import files


class SavedModelError(RuntimeError):
    """A saved GAN cannot be read."""


def checked_name(path: str | Path) -> Path:
    """Return the path of a file that may be written; raise ValueError unless it ends in .npz."""
    if Path(path).suffix != ".npz":
        raise ValueError(
            f"A GAN is saved in a file of its own kind, so let its name end in .npz, not "
            f"{Path(path).name!r}; fit(…, checkpoint='gan.npz') saves every epoch."
        )
    return Path(path)


def write(path: Path, config: Any, arrays: Sequence[np.ndarray]) -> None:
    """Write a configuration that JSON can hold, and arrays, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config)
    entries: dict[str, Any] = {f"{i:03d}": array for i, array in enumerate(arrays)}
    entries |= {"config": np.array(text), "sha256": np.array(_digest(text, arrays))}
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez(file, **entries)


def read(path: Path) -> tuple[Any, list[np.ndarray]]:
    """Return the configuration and the arrays of a saved GAN, as they were written.

    Raises FileNotFoundError, and SavedModelError when the file is damaged or something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no saved GAN at {path}: train one, or check the name.")
    try:
        with np.load(path, allow_pickle=False) as file:
            text = str(file["config"])
            sha256 = str(file["sha256"]) if "sha256" in file else None  # older files have none
            arrays = [file[name] for name in sorted(set(file.files) - {"config", "sha256"})]
        if sha256 not in (None, _digest(text, arrays)):
            raise ValueError("its checksum is another")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("it holds NaN or infinity")
        return json.loads(text), arrays
    except Exception as error:  # by where a wrong byte hits, it is one of a dozen kinds
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> SavedModelError:
    """Return what to raise for a file that holds something else than a GAN."""
    return SavedModelError(
        f"{path.name} is damaged or no saved GAN ({type(error).__name__}): delete it and train "
        "again."
    )


def _digest(config: str, arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(config.encode())
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
