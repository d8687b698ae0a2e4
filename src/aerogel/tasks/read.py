"""What several kinds of task read from rows: labelled texts, and numbers of classes."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from aerogel.errors import DataError, excerpt, expect
from aerogel.tables import counted
from aerogel.tasks.rows import Rows

Label = int | float | tuple[float, ...]
HELD_OUT_SHARE = 0.2  # of a split that has to serve for training and validation
MOST_LABELS = 100


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
        labels: whole numbers for classes, floats for values; for several labels, 1.0 or 0.0 for each label of the task.
    """

    texts: list[tuple[str, ...]]
    labels: list[Label]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Sequence[int]) -> Examples:
        return Examples([self.texts[row] for row in rows], [self.labels[row] for row in rows])

    def first(self, limit: int | None) -> Examples:
        check_limit(limit, "examples")
        return self if limit is None else Examples(self.texts[:limit], self.labels[:limit])


def divided_rows(keys: Sequence[bytes], source: str) -> dict[str, list[int]]:
    """The rows of a "train" and a "validation" part, by the key of each row.

    A fifth is held out by a hash of the key, so that the same row is always on the same side. Raises `DataError` if a
    part is empty.
    """
    splits: dict[str, list[int]] = {"train": [], "validation": []}
    for row, key in enumerate(keys):
        splits["validation" if zlib.crc32(key) % 1000 < 1000 * HELD_OUT_SHARE else "train"].append(row)
    if not all(splits.values()):
        different = f"different ones: {len(set(keys))}; equal ones stay together"
        raise DataError(
            f"{source} has {counted(len(keys), 'row')}, too few to hold out a part for validation ({different})"
        )
    return splits


def text_of(rows: Rows, row: int, column: str) -> str:
    """A value that has to be a text. Raises `DataError`."""
    value = rows[row][column]
    if not isinstance(value, str):
        raise rows.error(row, f"expected text, found {excerpt(value)}", column)
    return value


def from_json(value: Any) -> Any:
    """A list or a mapping, which a file of texts holds as JSON, and an array as a list; other values as they are.

    Raises `ValueError` for a text that begins like one and is not JSON.

    >>> from_json('["O", "B-person"]'), from_json("O B-person")
    (['O', 'B-person'], 'O B-person')
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {excerpt(value)}") from error
    return value.tolist() if hasattr(value, "tolist") else value


def read_examples(rows: Rows, columns: tuple[str, ...], label: Callable[[Any], Label]) -> Examples:
    """The rows as examples; `label` reads a label or raises `ValueError` with what is wrong."""
    examples = Examples([], [])
    for number, row in enumerate(rows):
        try:
            examples.labels.append(label(row["label"]))
        except ValueError as error:
            raise rows.error(number, error, "label") from error
        examples.texts.append(tuple(text_of(rows, number, column) for column in columns))
    return examples


def labels_of(rows: Rows) -> tuple[str, ...]:
    """The names of the labels in a user's own data. Raises `DataError` for a row without one, and as `in_order`."""
    names = set()
    for number, row in enumerate(rows):
        if not isinstance(row["label"], str | Real | None):
            raise rows.error(number, f"expected one label, found {excerpt(row['label'])}", "label")
        name = label_name(row["label"])
        if not name:
            raise rows.error(number, "the row has no label", "label")
        names.add(name)
    return in_order(names, rows)


def in_order(names: set[str], rows: Rows) -> tuple[str, ...]:
    """The labels as the data declares them, else their names, whole numbers first.

    Raises `DataError` for fewer than two and for more than a hundred labels.
    """
    labels = rows.class_names.get("label") or sorted(
        names, key=lambda name: (not _is_whole(name), int(name) if _is_whole(name) else 0, name)
    )
    if len(names) < 2:
        label = f"all rows have the label {excerpt(min(names))}" if names else "no row has a label"
        raise DataError(f"{rows.source}: {label}; expected at least two labels")
    if len(labels) > MOST_LABELS:
        shown = excerpt(labels[0])
        raise DataError(
            f"{rows.source}: {len(labels)} different labels, such as {shown}; expected at most {MOST_LABELS}"
        )
    return tuple(labels)


def check_classes(numbers: Sequence[Label], labels: Sequence[str], source: str) -> None:
    """Raises `DataError` for a split to train on with a single class."""
    first, *others = set(numbers)
    if not others and isinstance(first, int):
        label = excerpt(labels[first])
        raise DataError(f"{source}: all rows have the label {label}; expected at least two labels to train on")


def check_values(values: Sequence[Any], source: str) -> None:
    """Raises `DataError` if all values to predict are the same: no correlation with them is defined."""
    first, *others = set(map(number_of, values))
    if not others and math.isfinite(first):
        raise DataError(f"{source}: all rows have the value {excerpt(values[0])}; expected at least two different ones")


def label_name(value: Any) -> str:
    """The name of a class, from a text, a number, or nothing: ``."""
    if value is None or value != value:  # pandas has NaN for nothing
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def class_number(value: Any, labels: tuple[str, ...]) -> int:
    """The number of a class that data has by name or by number. Raises `ValueError`."""
    text = label_name(value)
    if text in labels:
        return labels.index(text)
    if any(map(_is_whole, labels)):  # a number could be a name as well
        expected = " or ".join(labels)
    elif _is_whole(text) and 0 <= int(text) < len(labels):
        return int(text)
    else:
        expected = " or ".join(f"{number} ({name})" for number, name in enumerate(labels))
    raise ValueError(f"wrong label {excerpt(text)}; expected {expected}")


def number_of(value: Any) -> float:
    """The number that data has as a number or as a text, or NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}", text) is not None  # Python does not convert thousands of digits
