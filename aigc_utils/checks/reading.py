"""How checkers read an answer, compare it and speak of it: one way for all lessons.

A number may come as a Python or NumPy scalar or as an array or tensor that holds one; an array as
a tensor of any library or as nested lists; two things as a tuple, a list or an array.
"""

import copy
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class CheckFailed(AssertionError):
    """A property that the learner's answer does not have yet; Jupyter shows just its sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


def demand(condition: object, sentence: str) -> None:
    """Raise CheckFailed with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(sentence)


# --- Reading --------------------------------------------------------------------------------------


def read_number(value: Any, name: str) -> float:
    """Return the number in a Python or NumPy scalar, or in an array or tensor that holds one."""
    array = _numeric(value)
    if array is None or array.size != 1 or array.dtype == np.bool_:
        raise CheckFailed(f"`{name}` must be one number, and yours is {seen(value)}.")
    return float(array.reshape(()))


def read_whole(value: Any, name: str) -> int:
    """Return a whole number; 3.0 is one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = read_number(value, name)
    if not number.is_integer():  # nan and inf are not
        raise CheckFailed(f"`{name}` must be a whole number, and yours is {number!r}.")
    return int(number)


def read_array(value: Any, name: str, shape: tuple[int, ...] | None = None) -> Array:
    """Return an array, tensor or nested list as a NumPy array, of ``shape`` if one is given."""
    array = _numeric(value)
    if array is None or (array.ndim == 0 and shape):
        raise CheckFailed(f"`{name}` must be an array of numbers, and yours is {seen(value)}.")
    if shape is not None and array.shape != tuple(shape):
        raise CheckFailed(
            f"`{name}` must have shape {tuple(shape)}, and yours has shape {array.shape}."
        )
    return array


def read_several(value: Any, name: str, parts: Sequence[str]) -> list[Any]:
    """Return as many things as ``parts`` names, from a tuple, a list or an array of that length."""
    array = value if isinstance(value, np.ndarray) else None  # of objects, perhaps
    if array is None and not isinstance(value, tuple | list):
        array = _numeric(value)
    if array is not None and array.ndim:
        value = list(array)
    if not isinstance(value, tuple | list) or len(value) != len(parts):
        raise CheckFailed(
            f"`{name}` must return {len(parts)} things ({', '.join(parts)}), and yours returns "
            f"{seen(value)}."
        )
    return list(value)


def read_like(value: Any, expected: Any, name: str) -> Any:
    """Read ``value`` in the form that ``expected`` has: a number, an array, or as it is."""
    if isinstance(expected, np.ndarray) or hasattr(expected, "detach"):
        return read_array(value, name, tuple(expected.shape))
    if isinstance(expected, int | float | np.number) and not isinstance(expected, bool):
        return read_number(value, name)
    if isinstance(expected, list) and isinstance(value, np.ndarray):
        return value.tolist()
    return value


def _numeric(value: Any) -> Array | None:
    """Return a NumPy array of booleans or real numbers, or None when it is something else."""
    try:
        array = np.asarray(_plain(value))
    except (TypeError, ValueError, RuntimeError):  # ragged lists, mixed tensors, strange objects
        return None
    return array if array.dtype.kind in "biuf" else None


def _plain(value: Any) -> Any:
    """Return tensors of any library as NumPy arrays, inside lists as well."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Fraction | Decimal):
        return float(value)
    if hasattr(value, "detach"):  # torch; NumPy has no bfloat16
        value = value.detach().cpu()
        return (value.half() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return value.numpy() if hasattr(value, "numpy") else value


# --- Comparing ------------------------------------------------------------------------------------


def alike(got: Any, expected: Any, rtol: float = 1e-5) -> bool:
    """Say whether an answer equals what is right, up to rounding in the coarser precision.

    The default ``rtol`` forgives float32 and half precision widens it to one per cent; a tenth of
    it counts relative to the largest expected number. Tuples and lists are alike when their parts
    are; text, dicts and sets when they are equal.
    """
    a, b = _numeric(got), _numeric(expected)
    if a is not None and b is not None:
        return a.shape == b.shape and not _unlike(a, b, rtol).any()
    if isinstance(expected, tuple | list):
        return (
            isinstance(got, tuple | list)
            and len(got) == len(expected)
            and all(alike(x, y, rtol) for x, y in zip(got, expected, strict=True))
        )
    return isinstance(got, type(expected)) and bool(got == expected)


def _unlike(a: Array, b: Array, rtol: float = 1e-5) -> NDArray[np.bool_]:
    if a.dtype.kind != "f" and b.dtype.kind != "f":
        return np.asarray(a != b)
    if np.float16 in (a.dtype, b.dtype):
        rtol = max(rtol, 0.01)
    largest = np.abs(b[np.isfinite(b)]).max(initial=1e-9)  # zeros may be off by rounding, too
    return ~np.isclose(a, b, rtol=rtol, atol=rtol / 10 * largest, equal_nan=True)


def difference(got: Any, expected: Any) -> str:
    """Return "must be …, and is …", with the place of the first difference where there is one."""
    a, b = _numeric(got), _numeric(expected)
    if a is not None and b is not None and a.shape == b.shape and b.ndim:
        wrong = np.flatnonzero(_unlike(a, b))
        place = [int(i) for i in np.unravel_index(wrong[0], b.shape)]
        want, have = show_pair(b.flat[wrong[0]], a.flat[wrong[0]])
        some = f" ({len(wrong)} of {b.size} numbers differ)" if len(wrong) > 1 else ""
        return f"must have {want} at {place}, and has {have}{some}"
    both = isinstance(got, list | tuple) and isinstance(expected, list | tuple)
    if both and len(got) == len(expected) > 1:
        i = next(i for i, (x, y) in enumerate(zip(got, expected, strict=True)) if not alike(x, y))
        want, have = show_pair(expected[i], got[i])
        return f"must have {want} at place {i}, and has {have}"
    if isinstance(got, dict) and isinstance(expected, dict):
        for key in [*expected, *got]:
            if key not in got or key not in expected:
                return f"{'lacks' if key in expected else 'must not have'} the key {short(key)}"
            if not alike(got[key], expected[key]):
                want, have = show_pair(expected[key], got[key])
                return f"must have {want} for {short(key)}, and has {have}"
    want, have = show_pair(expected, got)
    return f"must be {want}, and is {have}"


def show_pair(expected: Any, got: Any) -> tuple[str, str]:
    """Return both as text, with as many digits as it takes until the two texts differ."""
    numbers = [_numeric(value) for value in (expected, got)]
    if all(number is not None and number.ndim == 0 for number in numbers):
        if all(_is_whole(number) for number in numbers):
            want, have = (str(int(number)) for number in numbers)  # type: ignore[arg-type]
            if want != have:
                return want, have
        for digits in range(3, 18):
            want, have = (_digits(number, digits) for number in numbers)
            if want != have:
                return want, have
    want, have = short(expected), short(got)
    if want == have:  # both were cut before they differ
        texts = repr(expected), repr(got)
        ends = (i for i, (x, y) in enumerate(zip(*texts, strict=False)) if x != y)
        start = max(0, next(ends, len(min(texts, key=len))) - 20)
        want, have = (f"…{_window(text[start:])}" for text in texts)
    return (want, have) if want != have else (seen(expected), seen(got))


def _is_whole(number: Any) -> bool:
    return number.dtype.kind != "b" and abs(number) < 1e15 and float(number).is_integer()


def _window(text: str) -> str:
    """Return the beginning on one line, with every space: two texts may differ in just those."""
    text = text.replace("\n", " ")
    return text if len(text) < 60 else text[:58] + "…"


def _digits(number: Any, digits: int) -> str:
    value = number.item()
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def short(value: Any) -> str:
    """Return a value as short text: small things as they are, large ones by type and shape."""
    array = None if isinstance(value, str | list | tuple) else _numeric(value)
    if array is not None and array.ndim and len(str(array.tolist())) > 40:
        return f"array {array.shape}"
    if array is not None and type(value) not in (bool, int, float):
        value = array.tolist()
    if isinstance(value, dict) and any(np.ndim(_numeric(part)) for part in value.values()):  # type: ignore[arg-type]
        return f"dict of {len(value)}"
    plain = isinstance(value, str | bytes | int | float | list | tuple | dict | set | None)
    return cut(repr(value), 80) if plain else type(value).__name__


def seen(value: Any) -> str:
    """Return what an unexpected answer is: its value or shape, and its type."""
    array = None if isinstance(value, str | list | tuple) else _numeric(value)
    if array is not None and array.ndim:
        return f"a value of type {type(value).__name__} and shape {array.shape}"
    text = short(value)
    kind = type(value).__name__
    return f"a value of type {kind}" if text == kind else f"{text}, of type {kind}"


def cut(text: str, most: int) -> str:
    """Return text on one line, of at most ``most`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- Inputs, before and after a call --------------------------------------------------------------


def copied(value: Any) -> Any:
    """Return a copy of plain data (arrays, tensors, lists, tuples, dicts, sets); others as is."""
    if type(value) in (list, tuple, set):
        return type(value)(copied(part) for part in value)
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    if hasattr(value, "detach") and hasattr(value, "clone"):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return copy.copy(value) if isinstance(value, np.ndarray | bytearray) else value


def same(given: Any, kept: Any) -> bool:
    """Say whether data are exactly what they were, types, order and every bit included."""
    if type(given) is not type(kept):
        return False
    if isinstance(kept, list | tuple):
        return len(given) == len(kept) and all(map(same, given, kept))
    if type(kept) is dict:
        return list(given) == list(kept) and all(same(given[key], kept[key]) for key in kept)
    if isinstance(kept, np.ndarray) or hasattr(kept, "detach"):
        a, b = _numeric(given), _numeric(kept)
        if a is None or b is None:
            return bool(np.array_equal(given, kept))
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    plain = isinstance(kept, str | bytes | int | float | set | bytearray | None)
    return not plain or given == kept or given != given
