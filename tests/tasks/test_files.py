"""Every file format gives the rows that were written, and errors name the file and the line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from hypothesis import given, strategies as st
from pyarrow import parquet

from aerogel.errors import DataError
from aerogel.memory import free_memory
from aerogel.tasks import rows as rows_module
from aerogel.tasks.files import FORMATS, read_file, read_text
from aerogel.tasks.rows import check_memory

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FIELD = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1)
ROW = {"text": "a", "label": "b"}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], Any]] = {
    ".csv": write_csv,
    ".jsonl": lambda path, rows: write(path, "\n".join(map(json.dumps, rows))),
    ".json": lambda path, rows: write(path, json.dumps(rows, indent=1)),
    ".parquet": lambda path, rows: parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}


@pytest.mark.parametrize("suffix", WRITERS)
@given(texts=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=9))
def test_any_text_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, texts: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    written = [{"a text": first, "label": second} for first, second in texts]
    WRITERS[suffix](path, written)
    rows = read_file(path)
    assert rows.columns == ("a text", "label")
    assert list(rows) == written
    assert rows.source == str(path)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_fields_between_tabs_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, str]], end: str, closing: bool
) -> None:
    lines = ["id\ttext", *("\t".join(row) for row in fields)]
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    write(path, end.join(lines) + end * closing)
    assert [(row["id"], row["text"]) for row in read_file(path)] == fields


def test_lines_are_those_on_which_a_row_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,label\r\n"two\r\nlines",a\r\n\r\nlast,b\r\n')
    rows = read_file(path)
    assert [row["text"] for row in rows] == ["two\r\nlines", "last"]
    assert rows.lines == [2, 5]
    assert read_file(write(tmp_path / "rows.tsv", "a\n\nx\n\ny\n")).lines == [3, 5]
    assert read_file(write(tmp_path / "rows.jsonl", '{"a": 1}\n\n{"a": 2}\n')).lines == [1, 3]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, suffix: str) -> None:
    text = {".jsonl": '{"a": "x"}', ".json": '[{"a": "x"}]'}.get(suffix, "a\nx\n")
    plain = read_file(write(tmp_path / f"plain{suffix}", text))
    marked = read_file(write(tmp_path / f"marked{suffix}", "\ufeff" + text))
    assert (plain.columns, list(plain)) == (marked.columns, list(marked) if suffix != ".txt" else list(plain))


def test_long_and_quoted_fields_of_a_csv(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "x" * 300_000
    assert read_file(write(tmp_path / "a.csv", f'text,label\n{text},"say ""hi"""\n'))[0] == {
        "text": text,
        "label": 'say "hi"',
    }
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("separator", [",", "\t"])
def test_empty_lines_are_left_out(tmp_path: Path, separator: str) -> None:
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    path.write_text("\n\ntext,label\n\na,b\n\n".replace(",", separator))
    rows = read_file(path)
    assert list(rows) == [{"text": "a", "label": "b"}]
    assert "line 5" in str(rows.error(0, "odd"))


def test_quotation_marks_of_a_tsv_are_plain_characters(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path / "a.tsv", 'text\tlabel\n"open\t1\n"closed"\t0\n'))
    assert [row["text"] for row in rows] == ['"open', '"closed"']


def test_keys_that_some_objects_lack_have_no_value(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path / "a.jsonl", '{"a": 1}\n{"b": [2], "a": null}\n'))
    assert rows.columns == ("a", "b")
    assert list(rows) == [{"a": 1, "b": None}, {"a": None, "b": [2]}]


def test_a_json_file_may_have_an_object_a_line(tmp_path: Path) -> None:
    assert list(read_file(write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n'))) == [{"a": 1}, {"a": 2}]


def test_classes_of_a_parquet_file_have_their_names(tmp_path: Path) -> None:
    names = ClassLabel(names=["sad", "glad"])
    features = Features({"text": Value("string"), "label": names, "tags": Sequence(names)})
    rows = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    read = read_file(tmp_path / "a.parquet")
    assert [row["label"] for row in read] == ["glad", None]
    assert [row["tags"] for row in read] == [["sad", "glad"], []]
    assert read.class_names == {"label": ("sad", "glad"), "tags": ("sad", "glad")}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.csv", "text,label\na,b\nc\n", "line 3: 1 .* 2"),
        ("a.csv", "text,label\n\na,b,c\n", "line 3: 3 .* 2"),
        ("a.csv", 'text,label\na,b\n"open,c\nd,e\n', "line 3: .*quot"),
        ("a.csv", 'text,label\na,b\n"closed" too early,c\n', "line 3: .*quot"),
        ("a.csv", "text,text\na,b\n", "line 1: .*'text'"),
        ("a.tsv", "text\tlabel\na\tb\nc\n", "line 3: 1 .* 2"),
        ("a.tsv", "text\tlabel\n", "no rows"),
        ("a.tsv", "text\ttext\na\tb\n", "line 1: .*'text'"),
        ("a.tsv", " \n\n", "empty"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: .*JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', r"line 3: .*\[1\]"),
        ("a.jsonl", '{"a": ' + "[" * 100_000, "line 1: .*JSON"),
        ("a.jsonl", '{"a": ' + "1" * 9000 + "}", "line 1: .*JSON"),
        ("a.json", '[{"a": 1},\n {"a": }]', "line 2, column 8"),
        ("a.json", '[{"a": 1}, 2]', "row 2: .*2"),
        ("a.json", "[]", "no rows"),
        ("a.json", '{"data": [1]\n}', "line 1: .*JSON"),
        ("a.parquet", b"PAR1 but no more", "Parquet"),
        ("a.parquet", b"", "Parquet"),
        ("a.csv", b"text,label\na,b\ncaf\xe9,c\n", r"line 3: .*0xe9"),
        ("a.jsonl", b'{"a": "\xff"}', r"line 1: .*0xff"),
        ("a.txt", b"\xef\xbb\xbf", "empty"),
    ],
)
def test_damaged_files_are_refused_with_the_line(tmp_path: Path, name: str, content: str | bytes, named: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)a\.\w+.*{named}") as raised:
        read_file(write(tmp_path / name, content))
    assert "\n" not in str(raised.value)


@given(place=st.integers(4, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_parquet_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    table = pyarrow.table({"text": [f"row {number}" for number in range(50)], "label": list(range(50))})
    parquet.write_table(table, path)
    raw = bytearray(path.read_bytes())
    place = place % len(raw)
    raw[place:] = b"" if cut else bytes([byte]) + raw[place + 1 :]
    path.write_bytes(raw)
    try:
        rows = read_file(path)
    except DataError as error:
        assert "a.parquet" in str(error)  # noqa: PT017 - a changed byte may also be another text
    else:
        assert len(rows) == 50


def test_files_larger_than_the_free_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with open(path, "wb") as file:
        file.truncate(10**13)  # takes no space
    with pytest.raises(DataError, match=r"a.csv: its 10000\.0 GB"):
        read_file(path)
    check_memory("small", 1000)


def test_a_parquet_file_is_measured_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x" * 1000 + str(number) for number in range(2000)]}), path)
    assert path.stat().st_size < 500_000
    assert len(read_file(path)) == 2000
    monkeypatch.setattr(rows_module, "MEMORY_PER_BYTE", free_memory() // 1_000_000)
    with pytest.raises(DataError, match=r"a.parquet: its 0\.0 GB"):
        read_file(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt"):
        read_text(tmp_path / "nothing.txt")
    for suffix in FORMATS:
        with pytest.raises(DataError, match=f"nothing{suffix}"):
            read_file(tmp_path / f"nothing{suffix}")
