"""Packages are downloaded once and checked. Needs the package index (a few kilobytes)."""

import hashlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from aerogel import progress
from aerogel.errors import AerogelError, ModelError
from aerogel.models.wheel import Package, fetch

# the wheel of a small old package
SIX = Package("six", "1.16.0", "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254", 1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keep(archive: Path, folder: Path) -> None:
    shutil.copy(archive, folder / "kept")


def left_in(home: Path) -> list[Path]:
    return list(home.rglob("*"))


def test_a_package_is_downloaded_once(home: Path) -> None:
    descriptions: list[str] = []
    with progress.listening(lambda description, *_: descriptions.append(description)):
        folder = fetch(SIX, keep)
        assert fetch(SIX, keep) == folder
    assert folder == home / "six-1.16.0"
    assert hashlib.sha256((folder / "kept").read_bytes()).hexdigest() == SIX.sha256
    assert left_in(home) == [folder, folder / "kept"]
    assert any("six" in description for description in descriptions)


def test_another_revision_is_unpacked_anew(home: Path) -> None:
    first, second = fetch(SIX, keep), fetch(replace(SIX, revision=2), keep)
    assert first != second
    assert set(home.iterdir()) == {first, second}
    assert (second / "kept").read_bytes() == (first / "kept").read_bytes()


def test_another_sha256_is_refused(home: Path) -> None:
    with pytest.raises(ModelError, match=r"six==1\.16\.0: .*0000"):
        fetch(Package("six", "1.16.0", "0" * 64, 1), keep)
    assert not left_in(home)


@pytest.mark.parametrize("package", [Package("six", "0.0.77", "0" * 64, 1), Package("not a name!", "1", "0" * 64, 1)])
def test_a_failed_download_has_the_message_of_pip(home: Path, package: Package) -> None:
    with pytest.raises(ModelError, match=f"{package.name}=={package.version}: ") as raised:
        fetch(package, keep)
    assert "\n" not in str(raised.value)
    assert not left_in(home)


@pytest.mark.parametrize("error", [KeyError("model.safetensors"), ValueError("bad"), RuntimeError("x"), OSError("y")])
def test_an_archive_that_cannot_be_read_leaves_nothing(home: Path, error: Exception) -> None:
    def unpack(archive: Path, folder: Path) -> None:
        keep(archive, folder)
        raise error

    with pytest.raises((AerogelError, type(error))):
        fetch(SIX, unpack)
    assert not left_in(home)
    assert fetch(SIX, keep).is_dir()


def test_two_at_once_get_the_same_folder(home: Path) -> None:
    both_are_unpacking = threading.Barrier(2, timeout=60)
    folders: list[Path] = []

    def unpack(archive: Path, folder: Path) -> None:
        both_are_unpacking.wait()
        keep(archive, folder)

    threads = [threading.Thread(target=lambda: folders.append(fetch(SIX, unpack))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [home / "six-1.16.0"] * 2
    assert left_in(home) == [folders[0], folders[0] / "kept"]


def test_a_cache_that_cannot_be_written_is_named(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(AerogelError, match="home"):
        fetch(SIX, keep)
