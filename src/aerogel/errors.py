"""What can go wrong, said in one sentence that lets the reader act."""

from __future__ import annotations

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
    """Base of every error that aerogel raises on purpose; its text is fit to show to a person."""


class ModelError(AerogelError):
    """A model or tokenizer that can't be found, loaded, or used for what was asked."""


class DataError(AerogelError):
    """A task or text that can't be found or read, or whose content is not as expected."""


class PruningError(AerogelError):
    """A pattern, sparsity or method that contradicts itself or the weights it is asked to prune."""


class StudyError(AerogelError):
    """A study's specification, store or trial that is not as expected."""


class AerogelWarning(UserWarning):
    """Base of every warning of aerogel's own: results are right, but slower or larger than one would expect."""


TRANSFORMERS_MODEL = "a model of transformers (aerogel.load gives one; of one with an adapter, model.get_base_model())"


def expect(value: object, types: type | UnionType, kind: type[AerogelError], expected: str) -> None:
    """Raises an error of this kind for an argument of another type, with the words for what was `expected`."""
    if not isinstance(value, types):
        raise kind(f"expected {expected}, found {shown(value)}")


def shown(value: object) -> str:
    """The type of an argument and how it begins, for a sentence: `str 'tiny-bert'`."""
    return f"{type(value).__name__} {' '.join(excerpt(value).split())}"


def check_sparsity(sparsity: float, kind: type[AerogelError]) -> None:
    """Raises an error of this kind for a sparsity that is no number in [0, 1); it asks if a percentage was meant."""
    expect(sparsity, Real, kind, "a sparsity, a number in [0, 1)")
    if not 0 <= sparsity < 1:
        meant = f": did you mean {sparsity / 100:g}?" if 2 <= sparsity < 100 else ""
        raise kind(f"sparsity {sparsity:g} is outside [0, 1){meant}")


def read_sparsity(text: str, kind: type[AerogelError]) -> float:
    """The sparsity in a text. Raises as `check_sparsity`, also for a percentage; `ValueError` where it is no number."""
    sparsity = float(text.removesuffix("%"))
    if text.endswith("%"):
        raise kind(f"sparsity {text}: expected a share in [0, 1): did you mean {sparsity / 100:g}?")
    check_sparsity(sparsity, kind)
    return sparsity


def excerpt(value: object) -> str:
    """A value as an error shows it: its beginning, where it is longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list of lists of lists
        return f"one too long to show, of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean a or b?` with the known names that are like this one; empty where none is."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that is not among the known ones: the nearest, else all of them."""
    known = list(known)
    return f"unknown {kind} {name!r}: {nearest(str(name), known) or 'known are ' + ', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error text, or the name of its class where it has none."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    name = type(error).__name__
    if not lines:
        return name
    if isinstance(error, KeyError):  # its text is the key alone
        return f"{name} {lines[0]}"
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the failures of writing to `path` (a full disk, no permission) into an `AerogelError`."""
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code is None and not isinstance(error, OSError):
            raise
        if code == errno.ENOSPC:
            raise AerogelError(f"{path}: no space is left on the device") from error
        raise AerogelError(f"{path}: can't be written: {os.strerror(code) if code else first_line(error)}") from error


def _code(error: Exception) -> int | None:
    """The system's number of a failure to write; safetensors and sqlite have it in their texts alone."""
    if isinstance(error, OSError):
        return error.errno
    if "database or disk is full" in str(error):
        return errno.ENOSPC
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found.group(1)) if found else None
