"""Outputs appear complete or not at all."""

import os
import stat
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import AerogelError
from aerogel.files import cache_home, check_new, new_folder, resumable_folder, unfinished_folder, write_text


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with new_folder(path) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("b")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "a"
    assert (path / "inner" / "b.txt").read_text() == "b"
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_output_is_readable_by_others(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir(mode=0o700)
        for path in (folder, folder / "inner"):
            (path / "private").touch(mode=0o600)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_the_umask_is_applied(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with new_folder(tmp_path / "out") as folder:
            (folder / "private").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "private").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_leaves_no_files(tmp_path: Path, error: BaseException) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a.txt").write_text("a")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert not list(tmp_path.iterdir())


def test_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    out, old = tmp_path / "out", time.time() - 60
    with new_folder(out) as live:
        os.utime(live, (old, old))
        os.rename(live, kept := tmp_path / ".out-abcdefgh.unfinished")  # which its handle still holds locked
        dead = tmp_path / ".out-12345678.unfinished"
        for folder in (dead, others := tmp_path / ".other-12345678.unfinished", mine := tmp_path / ".out-12345678"):
            folder.mkdir()
            (folder / "weights").write_text("half of them")
            os.utime(folder, (old, old))
        with new_folder(out):
            pass
        assert not dead.exists()
        assert kept.exists()
        assert others.exists()
        assert mine.exists()
        out.rmdir()
        os.rename(kept, live)


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_new(tmp_path / "out")
    with new_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


def test_a_link_to_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
    assert (tmp_path / "real" / "a.txt").read_text() == (tmp_path / "out" / "a.txt").read_text() == "a"


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AerogelError, match="current folder"):
        check_new(".")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_folder_that_cannot_be_created_is_an_error_before_any_work() -> None:
    with pytest.raises(AerogelError, match=r"(out|text|x|deeper).*: "):
        check_new("/proc/out/deeper")


@pytest.mark.parametrize("name", ["circle", "circle/deeper", "nul\0"])
def test_an_invalid_path_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "circle")
    with pytest.raises(AerogelError, match=r"(circle|nul)"):
        check_new(tmp_path / name)
    with pytest.raises(AerogelError, match=r"(circle|nul)"), new_folder(tmp_path / name):
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == {"circle", "other"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_existing_output_is_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    kept = path / "kept" if kind == "folder" else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")
    with pytest.raises(AerogelError, match="out "):
        check_new(path)
    with pytest.raises(AerogelError, match="out "), new_folder(path):
        pass
    assert kept.read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_created_meanwhile_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def fill() -> None:
        with new_folder(path) as folder:
            (folder / "a.txt").write_text("mine")
            path.mkdir()
            (path / "a.txt").write_text("theirs")

    with pytest.raises(AerogelError, match="out: "):
        fill()
    assert (path / "a.txt").read_text() == "theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["file/out", "file/deeper/out", "x" * 254, "x" * 300])
def test_a_path_that_cannot_exist_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(AerogelError, match=r"(out|text|x|deeper).*: "):
        check_new(tmp_path / name)
    with pytest.raises(AerogelError, match=r"(out|text|x|deeper).*: "), new_folder(tmp_path / name):
        pass
    with pytest.raises(AerogelError, match=r"(out|text|x|deeper).*: "):
        write_text(tmp_path / name, "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_text_is_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("texts") / "deep" / "text"
    write_text(path, "an older text, longer than most of the new ones")
    write_text(path, text)
    assert path.read_text(encoding="utf-8") == text
    assert [entry.name for entry in path.parent.iterdir()] == ["text"]


def test_text_that_cannot_be_encoded_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "text", "new \ud800")
    assert (tmp_path / "text").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(AerogelError, match=r"(out|text|x|deeper).*: "):
        write_text(tmp_path / "text", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home"
    monkeypatch.setenv("AEROGEL_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "aerogel"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_home() == Path.home() / ".cache" / "aerogel"


def test_a_resumable_folder_stays_until_it_is_finished(tmp_path: Path) -> None:
    output = tmp_path / "output"

    def interrupted() -> None:
        with resumable_folder(output) as (new, state):
            (new / "shard").write_text("first")
            (state / "progress").write_text("1")
            with pytest.raises(AerogelError, match="output"), resumable_folder(output):
                pass
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not output.exists()
    assert unfinished_folder(output).exists()
    with resumable_folder(output) as (new, state):
        assert (new / "shard").read_text() == "first"
        assert (state / "progress").read_text() == "1"
    assert (output / "shard").read_text() == "first"
    assert sorted(tmp_path.iterdir()) == [output]
