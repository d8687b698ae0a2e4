"""What can go wrong, said in one sentence that lets the reader act."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


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


FULL = ("No space left on device", "database or disk is full")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not among the known ones: the nearest, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?"
    return f"unknown {kind} {name!r}: known are {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error text, or the name of its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the failures of writing to `path` (a full disk, no permission) into an `AerogelError`."""
    try:
        yield
    except Exception as error:
        # safetensors and sqlite report a full disk through exceptions of their own, with the cause in the text
        if getattr(error, "errno", None) == errno.ENOSPC or any(text in str(error) for text in FULL):
            raise AerogelError(f"{path}: no space is left on the device; nothing was kept of this output") from error
        if isinstance(error, OSError):
            raise AerogelError(f"{path}: can't be written: {error.strerror or first_line(error)}") from error
        raise
