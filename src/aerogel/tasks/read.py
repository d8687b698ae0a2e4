"""Reading a user's TSV and text files, with errors that name the file and the line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aerogel.errors import DataError, excerpt, expect

HELD_OUT_SHARE = 0.2  # of a split that has to serve for training and validation


def check_limit(limit: int | None, of: str) -> None:
    """Raises `DataError` for a limit that is not a whole number above 0."""
    if limit is not None:
        expect(limit, int, DataError, f"a whole number as the limit of {of}")
        if limit < 1:
            raise DataError(f"limit {limit} leaves no {of}, expected at least 1")


@dataclass(frozen=True)
class Examples:
    """Labelled sentences or pairs.

    Attributes:
        texts: one tuple an example, with one string a column.
        labels: whole numbers for classes, floats for values.
    """

    texts: list[tuple[str, ...]]
    labels: list[int | float]

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

    The header has `label`, and `columns` or one of `sentence` and `sentence1`, `sentence2`. Only tabs separate
    fields; quotation marks are plain characters.
    """
    lines = read_text(path).split("\n")
    header = lines[0].removesuffix("\r").split("\t")
    accepted = [columns] if columns else []
    accepted += [names for names in (("sentence",), ("sentence1", "sentence2")) if len(names) == len(columns or names)]
    names = next((names for names in accepted if set(names) <= set(header)), None)
    if names is None or "label" not in header:
        expected = " or ".join(", ".join(names) for names in dict.fromkeys(accepted))
        raise DataError(f"{path}, line 1: the header has {', '.join(header)}; expected columns {expected}, and label")
    rows = []
    indices = [header.index(name) for name in names]
    for number, line in enumerate(lines[1:], start=2):
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, expected {len(header)}")
        rows.append((tuple(fields[index] for index in indices), fields[header.index("label")].strip(), number))
    if not rows:
        raise DataError(f"{path}: the file has a header but no rows")
    return names, rows


def read_examples(path: Path, columns: tuple[str, ...], label: Callable[[str], int | float]) -> Examples:
    """The rows of a TSV file as examples; `label` reads a label or raises `ValueError` with what is wrong."""
    examples = Examples([], [])
    for texts, text, line in read_rows(path, columns)[1]:
        try:
            examples.labels.append(label(text))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}") from error
        examples.texts.append(texts)
    return examples


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
        raise DataError(f"{path}: {len(labels)} different labels, such as {excerpt(labels[0])}; expected at most 100")
    return columns, tuple(labels)


def class_number(text: str, labels: tuple[str, ...]) -> int:
    """The number of a class that a file has by name or by number. Raises `ValueError`."""
    if text in labels:
        return labels.index(text)
    if any(map(_is_whole, labels)):  # a number could be a name as well
        expected = " or ".join(labels)
    elif _is_whole(text) and 0 <= int(text) < len(labels):
        return int(text)
    else:
        expected = " or ".join(f"{number} ({name})" for number, name in enumerate(labels))
    raise ValueError(f"wrong label {excerpt(text)}; expected {expected}")


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", text) is not None  # Python does not convert thousands of digits
