"""aerogel's errors: each message is one sentence that says what to do."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import UnionType


class AerogelError(Exception):
    """Base class of all errors that aerogel raises on purpose.

    >>> import aerogel
    >>> try:
    ...     aerogel.load("./nowhere")
    ... except AerogelError as error:
    ...     print(error)
    ./nowhere: no such folder
    """


class ModelError(AerogelError):
    """A model or tokenizer that can't be found, loaded or used for the task."""


class DataError(AerogelError):
    """A task or text that can't be found or read, or has unexpected content."""


class PruningError(AerogelError):
    """A pattern, sparsity or method that is invalid or does not fit the weights."""


class StudyError(AerogelError):
    """An invalid study specification, store or trial."""


class AerogelWarning(UserWarning):
    """Base class of aerogel's warnings: a result is right, but slower, larger or of another kind than expected."""


TRANSFORMERS_MODEL = (
    "a transformers model (aerogel.load returns one; for a model with an adapter, pass model.get_base_model())"
)


def expect(value: object, types: type | UnionType, error: type[AerogelError], expected: str) -> None:
    """Raise `error` if `value` is not of these types. `expected` describes the right argument."""
    if not isinstance(value, types):
        raise error(f"expected {expected}, found {shown(value)}")


def shown(value: object) -> str:
    """The type of an argument and the beginning of its repr, for a message: `str 'tiny-bert'`."""
    return f"{type(value).__name__} {' '.join(excerpt(value).split())}"


def check_sparsity(sparsity: float, error: type[AerogelError]) -> None:
    """Raise `error` unless the sparsity is a number in [0, 1). The message suggests 0.9 for 90."""
    expect(sparsity, Real, error, "a sparsity, a number in [0, 1)")
    if not 0 <= sparsity < 1:
        hint = f": did you mean {sparsity / 100:g}?" if 2 <= sparsity < 100 else ""
        raise error(f"sparsity {sparsity:g} is outside [0, 1){hint}")


def read_sparsity(text: str, error: type[AerogelError]) -> float:
    """Parse a sparsity. Raises as `check_sparsity`, `error` for a percentage, and `ValueError` for other text."""
    sparsity = float(text.removesuffix("%"))
    if text.endswith("%"):
        raise error(f"sparsity {text}: expected a number in [0, 1): did you mean {sparsity / 100:g}?")
    check_sparsity(sparsity, error)
    return sparsity


def excerpt(value: object) -> str:
    """The repr of a value, cut to one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deeply nested list
        return f"a value of type {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean a or b?` with the known names most similar to this one; empty if none is similar."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name: suggests the most similar known names, or lists all of them."""
    known = list(dict.fromkeys(known))
    return f"unknown {kind} {name!r}: {nearest(str(name), known) or 'expected one of ' + ', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    name = type(error).__name__
    if not lines:
        return name
    if isinstance(error, KeyError):  # whose message is only the key
        return f"{name} {lines[0]}"
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn failures to write `path` (disk full, permission denied) into an `AerogelError`.

    The message for a full disk ends with `remedy`.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code is None and not isinstance(error, OSError):
            raise
        if code == errno.ENOSPC:
            raise AerogelError(f"{path}: no space left on the device{remedy}") from error
        raise AerogelError(f"{path}: can't be written: {os.strerror(code) if code else first_line(error)}") from error


def _code(error: Exception) -> int | None:
    """The errno of a failed write; safetensors and sqlite give it only in the message."""
    if isinstance(error, OSError):
        return error.errno
    if "database or disk is full" in str(error):
        return errno.ENOSPC
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match.group(1)) if match else None
