"""Outputs are written aside and renamed, so that what stands under a name is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aerogel.errors import AerogelError, writing


def check_new(path: str | os.PathLike[str]) -> None:
    """Raises `AerogelError` where `path` is there already with something in it, before any work is done for it."""
    path = Path(path)
    with writing(path):
        taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken:
        raise AerogelError(f"{path} exists already: name another output, or remove it first")


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` when the block ends without an error.

    Raises `AerogelError` as `check_new` does.
    """
    path = Path(path)
    check_new(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with writing(path):
            yield aside
            for entry in (aside, *aside.rglob("*")):  # mkdtemp and safetensors hide what they write from other users
                entry.chmod(0o755 if entry.is_dir() else 0o644)
            if path.is_dir():
                path.rmdir()
            aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file whole or not at all."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
