"""Outputs are written aside and renamed, so that what stands under a name is whole."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from aerogel.errors import AerogelError, first_line, writing

UNFINISHED = ".unfinished"  # how the name of a folder ends that is being filled
SETTLED = 10.0  # seconds after which the process that made such a folder has locked it, if it is alive


def cache_home() -> Path:
    """`AEROGEL_HOME`, else `aerogel` in the user's cache folder."""
    home = os.environ.get("AEROGEL_HOME")
    return Path(home) if home else user_cache_path("aerogel", appauthor=False)


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links. Raises `AerogelError` for one that no file can have, or links in a circle."""
    try:
        place = Path(path).resolve()
    except (RuntimeError, ValueError) as error:  # Python 3.13 and later raise nothing for links in a circle
        raise AerogelError(f"{os.fspath(path)!r} is not a path: {first_line(error)}") from error
    if any(map(os.path.islink, (place, *place.parents))):
        raise AerogelError(f"{path} is not a path: its links lead in a circle")
    return place


def check_new(path: str | os.PathLike[str]) -> None:
    """Raises `AerogelError` where `path` can't become a new folder, before any work is done for it.

    That is where it is there already with something in it, or can't be replaced or written.
    """
    place = resolved(path)
    with writing(place):
        taken = place.is_file() or (place.is_dir() and any(place.iterdir()))
    if taken:
        raise AerogelError(f"{path} exists already: name another output, or remove it first")
    if place.is_dir() and (place.is_mount() or place == Path.cwd()):
        raise AerogelError(f"{path} can't be replaced, being mounted or the current folder: name a folder in it")
    with writing(place):
        above = next(parent for parent in place.parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=_aside(place), dir=above):
            pass


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` when the block ends without an error.

    Raises `AerogelError` as `check_new` does.
    """
    check_new(path)
    path = resolved(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        aside = Path(tempfile.mkdtemp(UNFINISHED, _aside(path), path.parent))
    handle = os.open(aside, os.O_RDONLY)
    with contextlib.suppress(OSError):  # network file systems lock no folders, and then none is removed
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with writing(path):
            yield aside
            # mkdtemp and safetensors hide what they write from other users, whether one wants that or not
            mode = 0o777 & ~_umask()
            for entry in (aside, *aside.rglob("*")):
                entry.chmod(mode if entry.is_dir() else mode & 0o666)
            if path.is_dir():
                path.rmdir()
            aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Removes what killed processes have left unfinished of this folder: a live one holds the lock of its own."""
    for aside in path.parent.glob(f"{glob.escape(_aside(path))}????????{UNFINISHED}"):
        with contextlib.suppress(OSError):  # locked, or gone
            handle = os.open(aside, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - aside.stat().st_mtime > SETTLED:
                    shutil.rmtree(aside, ignore_errors=True)
            finally:
                os.close(handle)


def _aside(path: Path) -> str:
    """How the name begins under which a folder is made."""
    return f".{path.name}-"


def _umask() -> int:
    """What new files of this process are kept from; there is no way to ask but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


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
