"""Reading a user's files into rows, with errors that name the file and the line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aerogel.errors import DataError, excerpt, first_line
from aerogel.tables import counted
from aerogel.tasks.rows import Rows, check_memory, table_rows
from aerogel.tasks.tables import parquet_rows


def read_file(path: Path) -> Rows:
    """The rows of a file of one of the `FORMATS`.

    Raises `DataError` for a file that can't be read, needs more memory than is free, or has no rows.
    """
    try:
        check_memory(str(path), path.stat().st_size)
        rows = FORMATS[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or first_line(error)}") from error
    if not len(rows):
        raise DataError(f"{path}: the file has no rows")
    return rows


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file. Raises `DataError` for bad UTF-8 (with its line) or an empty file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x})") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text


def _text_rows(path: Path) -> Rows:
    """The whole text as one row, with the column text."""
    return Rows(("text",), [{"text": read_text(path)}], str(path))


def _tab_separated_rows(path: Path) -> Rows:
    """Only tabs separate fields; quotation marks are plain characters."""
    lines = (line.removesuffix("\r").split("\t") for line in read_text(path).split("\n"))
    return _rows_under_header(path, enumerate(lines, start=1), "tabs")


def _comma_separated_rows(path: Path) -> Rows:
    """Fields may be in double quotes, and then have commas and line ends."""
    with _long_fields():
        return _rows_under_header(path, _csv_records(path), "commas")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records with the lines on which they begin."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: wrong quotation marks or commas in the row: {error}") from error
        if fields is None:
            return
        yield line, fields or [""]


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module takes fields of any length inside the block."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows_under_header(path: Path, records: Iterator[tuple[int, list[str]]], separators: str) -> Rows:
    """Rows of fields; empty lines are left out. Raises `DataError` for a row with more or fewer fields than columns."""
    line, header = next((record for record in records if record[1] != [""]), (1, [""]))
    if repeated := [name for index, name in enumerate(header) if name in header[:index]]:
        raise DataError(f"{path}, line {line}: two columns have the name {excerpt(repeated[0])}")
    values, numbers = [], []
    for number, fields in records:
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {number}: {counted(len(fields), 'field')} between {separators}, expected {len(header)}"
            )
        values.append(dict(zip(header, fields, strict=True)))
        numbers.append(number)
    return Rows(tuple(header), values, str(path), numbers)


def _json_line_rows(path: Path) -> Rows:
    """One JSON object a line."""
    values, numbers = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {excerpt(line)}") from error
        numbers.append(number)
    return table_rows(values, str(path), numbers)


def _json_rows(path: Path) -> Rows:
    """An array of objects, or, as some tools write, one object a line."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return _json_line_rows(path)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise DataError(f"{path}: not JSON: {first_line(error)}") from error
    return table_rows(values, str(path))


FORMATS: dict[str, Callable[[Path], Rows]] = {
    ".csv": _comma_separated_rows,
    ".tsv": _tab_separated_rows,
    ".jsonl": _json_line_rows,
    ".json": _json_rows,
    ".parquet": parquet_rows,
    ".txt": _text_rows,
}
"""How files are read, by suffix."""
