"""Reading a user's files into rows, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aerogel.errors import DataError, excerpt
from aerogel.tasks.rows import Rows


def read_file(path: Path) -> Rows:
    """The rows of a file of one of the `FORMATS`. Raises `DataError` for a file that can't be read, or has none."""
    rows = FORMATS[path.suffix](path)
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
    """Rows under a header. Only tabs separate fields; quotation marks are plain characters."""
    lines = read_text(path).split("\n")
    header = lines[0].removesuffix("\r").split("\t")
    values, numbers = [], []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, expected {len(header)}")
        values.append(dict(zip(header, fields, strict=True)))
        numbers.append(number)
    return Rows(tuple(header), values, str(path), numbers)


def _json_line_rows(path: Path) -> Rows:
    """One JSON object a line; all have the keys of the first."""
    values: list[dict[str, Any]] = []
    numbers = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {excerpt(line)}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, found {excerpt(line)}")
        if values and (missing := values[0].keys() - value.keys()):
            raise DataError(f"{path}, line {number}: the object has no {min(missing)}, which the first one has")
        values.append(value)
        numbers.append(number)
    return Rows(tuple(values[0]) if values else (), values, str(path), numbers)


FORMATS: dict[str, Callable[[Path], Rows]] = {
    ".tsv": _tab_separated_rows,
    ".jsonl": _json_line_rows,
    ".txt": _text_rows,
}
"""How files are read, by suffix."""
