"""Reading a user's TSV and text files, with errors that name the file and the line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from aerogel.errors import DataError, excerpt, expect
from aerogel.tasks.table import Task


def check_limit(limit: int | None, of: str) -> None:
    """Raises `DataError` for a limit that is no whole number above 0."""
    if limit is not None:
        expect(limit, int, DataError, f"a whole number as the limit of {of}")
        if limit < 1:
            raise DataError(f"limit {limit} leaves no {of}, expected at least 1")


@dataclass(frozen=True)
class Examples:
    """Labelled sentences or pairs: `texts[i]` has one string a column, `labels[i]` its number."""

    texts: list[tuple[str, ...]]
    labels: list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None) -> Examples:
        check_limit(limit, "examples")
        return self if limit is None else Examples(self.texts[:limit], self.labels[:limit])


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


def read_rows(
    path: Path, columns: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], list[tuple[tuple[str, ...], str, int]]]:
    """The text columns of a TSV file, and its rows as (texts, label, line number).

    The header names `columns`, or any of `sentence` or `sentence1` and `sentence2`, and `label`. Fields are
    split at tabs alone, so quotation marks are plain characters.
    """
    lines = read_text(path).split("\n")
    header = lines[0].removesuffix("\r").split("\t")
    accepted = [columns] if columns else []
    accepted += [names for names in (("sentence",), ("sentence1", "sentence2")) if len(names) == len(columns or names)]
    found = next((names for names in accepted if set(names) <= set(header)), None)
    if found is None or "label" not in header:
        wanted = " or ".join(", ".join(names) for names in dict.fromkeys(accepted))
        raise DataError(f"{path}, line 1: the header has {', '.join(header)}; expected columns {wanted}, and label")
    rows = []
    places = [header.index(name) for name in found]
    for number, line in enumerate(lines[1:], start=2):
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, expected {len(header)}")
        rows.append((tuple(fields[place] for place in places), fields[header.index("label")].strip(), number))
    if not rows:
        raise DataError(f"{path}: the file has a header and no rows")
    return found, rows


def read_examples(path: Path, task: Task) -> Examples:
    """The rows of a TSV file as examples of a task whose labels are known, given as numbers or as names."""
    _, rows = read_rows(path, task.columns)
    return Examples([texts for texts, _, _ in rows], [_label(task, text, path, line) for _, text, line in rows])


def labels_of(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The text columns and the sorted label names of a user's own TSV file."""
    columns, rows = read_rows(path)
    for _, label, line in rows:
        if not label:
            raise DataError(f"{path}, line {line}: the row has no label")
    names = {label for _, label, _ in rows}
    labels = sorted(names, key=lambda name: (not _is_whole(name), int(name) if _is_whole(name) else 0, name))
    if len(labels) < 2:
        raise DataError(f"{path}: all rows have the label {excerpt(labels[0])}; expected at least two labels")
    if len(labels) > 100:
        raise DataError(
            f"{path}: {len(labels)} different labels, the first of them {excerpt(labels[0])}; "
            "expected at most 100 classes"
        )
    return columns, tuple(labels)


def _label(task: Task, text: str, path: Path, line: int) -> float:
    if task.is_regression:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
        raise DataError(f"{path}, line {line}: label {excerpt(text)} is not a number")
    if text in task.labels:
        return task.labels.index(text)
    if any(map(_is_whole, task.labels)):  # names that are numbers themselves leave no room for counting places
        expected = " or ".join(task.labels)
    elif _is_whole(text) and 0 <= int(text) < len(task.labels):
        return int(text)
    else:
        expected = " or ".join(f"{place} ({name})" for place, name in enumerate(task.labels))
    raise DataError(f"{path}, line {line}: wrong label {excerpt(text)}; expected {expected}")


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", text) is not None  # longer ones are names: Python refuses to read them
