"""Error messages: nearest names, and failed writes."""

import errno
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import AerogelError, DataError, ModelError, first_line, unknown_name, writing

WORDS = st.text("abcdefghij", min_size=5, max_size=12)


@given(WORDS, st.integers(0, 100))
def test_a_name_without_one_letter_suggests_the_name(word: str, index: int) -> None:
    index %= len(word)
    misspelt = word[:index] + word[index + 1 :]
    sentence = unknown_name("model", misspelt, ["zzz", word, "yyy"])
    assert repr(misspelt) in sentence
    assert word in sentence
    assert "zzz" not in sentence


def test_a_dissimilar_name_lists_all() -> None:
    sentence = unknown_name("task", "qqqq", iter(["sst2", "mrpc"]))
    assert all(name in sentence for name in ("'qqqq'", "sst2", "mrpc"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one.\ntwo"), "one"),
        (ValueError("\n  spaced  \n"), "spaced"),
        (ValueError("in field a:\n    expected int\nmore"), "in field a: expected int"),
        (ValueError("in field a:"), "in field a:"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (KeyError(), "KeyError"),
        (KeyError("added_tokens"), "KeyError 'added_tokens'"),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(AerogelError, match=r"^out: .*space"), writing(Path("out")):
        full.write_text("x" * 10_000)


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute("create table words (word text)")
        database.execute("pragma max_page_count = 2")
        with pytest.raises(AerogelError, match="space"), writing(Path("out")):
            database.execute("insert into words values (?)", ["x" * 100_000])
    database.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "too large"),
        (errno.EROFS, "Read-only"),
    ],
)
def test_errors_of_rust_libraries_are_read_by_their_number(code: int, reason: str) -> None:
    with pytest.raises(AerogelError, match=f"^out: .*(?i:{reason})"), writing(Path("out")):
        raise RuntimeError(f"Error while serializing: I/O error: something (os error {code})")


def test_a_refused_path_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AerogelError, match=r"^out: .*Not a directory"), writing(Path("out")):
        (tmp_path / "file" / "inner").write_text("x")


def test_a_failure_without_a_number_keeps_its_message() -> None:
    with pytest.raises(AerogelError, match=r"^out: .*the library's words$"), writing(Path("out")):
        raise OSError("the library's words.")


@pytest.mark.parametrize("error", [KeyError("a"), ModelError("m"), DataError("d"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, writing(Path("out")):
        raise error
    assert raised.value is error


def test_a_name_that_is_known_twice_is_suggested_once() -> None:
    assert unknown_name("task", "sst-2", ["sst2", "mrpc", "sst2"]).count("sst2") == 1
    assert unknown_name("task", "zzz", ["sst2", "mrpc", "sst2"]).count("sst2") == 1
