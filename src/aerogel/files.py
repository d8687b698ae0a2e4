"""Writes outputs under a temporary name and renames them when they are complete."""

import contextlib
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from platformdirs import user_cache_path

from aerogel.errors import AerogelError, first_line, writing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

UNFINISHED = ".unfinished"  # suffix of a temporary folder
SETTLED = 10.0  # seconds after which a live process has locked the temporary folder it created


def cache_home() -> Path:
    """`AEROGEL_HOME`, else `aerogel` in the user's cache folder."""
    home = os.environ.get("AEROGEL_HOME")
    return Path(home) if home else user_cache_path("aerogel", appauthor=False)


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links. Raises `AerogelError` for an invalid path or a loop of links."""
    try:
        absolute = Path(path).resolve()
    except (RuntimeError, ValueError) as error:  # Python 3.13 and later raise nothing for a loop
        raise AerogelError(f"{os.fspath(path)!r} is not a path: {first_line(error)}") from error
    if any(map(os.path.islink, (absolute, *absolute.parents))):
        raise AerogelError(f"{path} is not a path: its symbolic links form a loop")
    return absolute


def check_new(path: str | os.PathLike[str]) -> None:
    """Raise `AerogelError` if `path` can't become a new folder: it is not empty, or can't be replaced or written.

    Commands call it before they start long work.
    """
    folder = resolved(path)
    with writing(folder):
        exists = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if exists:
        raise AerogelError(f"{path} already exists: choose another output, or remove it first")
    if folder.is_dir() and (os.path.ismount(folder) or folder == Path.cwd()):
        raise AerogelError(f"{path} is a mount point or the current folder: choose a folder inside it")
    with writing(folder):
        parent = next(parent for parent in folder.parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=_prefix(folder), dir=parent):
            pass


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block ends without an error. Raises as `check_new` does."""
    check_new(path)
    path = resolved(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary = Path(tempfile.mkdtemp(UNFINISHED, _prefix(path), path.parent))
    handle = None
    with contextlib.suppress(OSError):  # Windows and network file systems can't lock folders; then abandoned ones stay
        handle = os.open(temporary, os.O_RDONLY)
        lock(handle, wait=True)
    try:
        with writing(path):
            yield temporary
            _publish(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)


def cached_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, which `fill` writes the first time. Raises as `new_folder` and `fill` do."""
    if not folder.is_dir():
        try:
            with new_folder(folder) as aside:
                fill(aside)
        except AerogelError:
            if not folder.is_dir():  # otherwise another process has just made the same
                raise
    return folder


def lock(handle: int, wait: bool = False) -> None:
    """Lock an open file or folder for this process until it is closed, or the process ends.

    Raises `OSError` if another process has locked it, unless it waits for that, or if it can't be locked.
    """
    if sys.platform == "win32":
        os.lseek(handle, 2**30, os.SEEK_SET)  # beyond the contents, which others may read
        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def resumable_folder(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """Yield a folder that becomes `path`, and one beside it for the state of the work on it.

    Unlike those of `new_folder` they stay if the block is interrupted, and the next call yields them again. Raises
    `AerogelError` as `check_new` does, and if another process works on the same `path`.
    """
    check_new(path)
    path = resolved(path)
    work = unfinished_folder(path)
    with writing(path):
        for folder in (work / "new", work / "state"):
            folder.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        with contextlib.suppress(OSError):  # Windows and network file systems can't lock folders
            handle = os.open(work, os.O_RDONLY)
            try:
                lock(handle)
            except BlockingIOError as error:
                raise AerogelError(f"{path} is being written by another process: wait, or choose another") from error
        with writing(path, remedy=": free some and rerun the command, which resumes"):
            yield work / "new", work / "state"
            shutil.rmtree(work / "state")  # first, so that it never outlives the output that it is of
            _publish(work / "new", path)
        shutil.rmtree(work, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


def unfinished_folder(path: str | os.PathLike[str]) -> Path:
    """The folder in which `resumable_folder` keeps what is not finished."""
    path = resolved(path)
    return path.with_name(f"{_prefix(path)}resumable")


def _publish(temporary: Path, path: Path) -> None:
    """Rename a finished folder."""
    # mkdtemp and safetensors deny access to other users; apply the umask instead
    mode = 0o777 & ~_umask()
    for entry in (temporary, *temporary.rglob("*")):
        entry.chmod(mode if entry.is_dir() else mode & 0o666)
    if path.is_dir():
        path.rmdir()
    temporary.rename(path)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary folders left by killed processes. A live process holds a lock on its own."""
    for temporary in path.parent.glob(f"{glob.escape(_prefix(path))}????????{UNFINISHED}"):
        with contextlib.suppress(OSError):  # locked or already removed
            handle = os.open(temporary, os.O_RDONLY)
            try:
                lock(handle)
                if time.time() - temporary.stat().st_mtime > SETTLED:
                    shutil.rmtree(temporary, ignore_errors=True)
            finally:
                os.close(handle)


def _prefix(path: Path) -> str:
    """Prefix of the temporary folder's name."""
    return f".{path.name}-"


def _umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file completely or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
