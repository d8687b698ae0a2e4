"""A table: short numbers on the page, whole ones in the CSV that it can be taken as."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from aerogel.report.estimate import Estimate

NOTHING = "\N{EN DASH}"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # in ASCII and full width


@dataclass(frozen=True)
class Column:
    """`name` heads it in the CSV and `head` on the page, where `show` writes a value that is not `None`."""

    name: str
    head: str
    show: Callable[[Any], str] = str


@dataclass(frozen=True)
class Table:
    """Rows of plain values and estimates; `title` is unique in the page."""

    title: str
    columns: tuple[Column, ...]
    rows: list[tuple[Any, ...]]

    def cells(self) -> list[list[str]]:
        """The page's texts."""
        return [
            [NOTHING if value is None else column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def is_text(self, place: int) -> bool:
        return all(isinstance(row[place], str | None) for row in self.rows)

    def csv(self) -> str:
        """All digits; an estimate takes three columns: mean, and the interval's ends where it has one.

        A text that a spreadsheet would take for a formula gets an apostrophe before it, which makes it text there.
        """
        estimates = [any(isinstance(row[place], Estimate) for row in self.rows) for place in range(len(self.columns))]
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
        """The name that the CSV is saved by."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split()
        return "-".join(words) + ".csv"


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) else value
