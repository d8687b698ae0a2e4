"""A table: rounded numbers on the page, all digits in its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aerogel.report.estimate import Estimate

NOTHING = "\N{EN DASH}"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # in ASCII and full width


@dataclass(frozen=True)
class Column:
    """A `value` of each row. `name` is the column of the CSV, `head` that of the page, where `show` formats it."""

    name: str
    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] = str


@dataclass(frozen=True)
class Table:
    """Rows of plain values and estimates; `None` is an empty cell. `title` is unique in the page."""

    title: str
    columns: tuple[Column, ...]
    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, title: str, columns: Iterable[Column], items: Iterable[Any]) -> Table:
        """Leaves out the columns that are empty in every row."""
        items = list(items)
        values = {column: [column.value(item) for item in items] for column in columns}
        kept = {column: cells for column, cells in values.items() if any(cell is not None for cell in cells)}
        return cls(title, tuple(kept), list(zip(*kept.values(), strict=True)))

    def cells(self) -> list[list[str]]:
        """The texts on the page."""
        return [
            [NOTHING if value is None else column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def is_text(self, index: int) -> bool:
        return all(isinstance(row[index], str | None) for row in self.rows)

    def csv(self) -> str:
        """All digits. An estimate has three columns: its mean and the ends of its interval.

        A text that a spreadsheet would read as a formula gets an apostrophe in front, so that it stays text.
        """
        estimates = [any(isinstance(row[index], Estimate) for row in self.rows) for index in range(len(self.columns))]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        header: list[str] = []
        for column, is_estimate in zip(self.columns, estimates, strict=True):
            header += [column.name, f"{column.name}_low", f"{column.name}_high"] if is_estimate else [column.name]
        writer.writerow(map(_as_text, header))
        for row in self.rows:
            fields: list[Any] = []
            for value, is_estimate in zip(row, estimates, strict=True):
                if is_estimate:
                    fields += [value.mean, value.low, value.high] if value else [None] * 3
                else:
                    fields.append(value)
            writer.writerow(map(_as_text, fields))
        return text.getvalue()

    def link(self) -> str:
        return "data:text/csv;charset=utf-8," + quote(self.csv(), safe=" ,.:;()|<>-+*/'")

    def file(self) -> str:
        """The file name of the CSV."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split()
        return "-".join(words) + ".csv"


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) else value
