"""One process at a time works on a study's folder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aerogel.errors import StudyError, writing

FILE = "study.lock"


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Locks the study in `folder` for this process while the block runs.

    The system releases the lock when this process ends, however it ends. Raises `StudyError`, naming the process that
    holds the lock, where another one runs the study.
    """
    path = folder / FILE
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            raise StudyError(f"{folder}: {holder} runs this study: wait, or give another --output") from error
        with writing(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')},".encode(), 0)
        yield
    finally:
        os.close(handle)
