"""Which kind of task a user's own data is of, from its columns and values."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from aerogel.errors import DataError, expect, nearest, unknown_name
from aerogel.tasks.kind import Task, TaskKind, all_kinds
from aerogel.tasks.read import MOST_LABELS, label_name, number_of
from aerogel.tasks.rows import Rows, check_given, match_columns
from aerogel.tasks.table import GUESSED_KINDS

Columns = Mapping[str, str]
"""The column of each role."""
SHOWN = 12  # columns in a message
SAMPLE = 1000  # rows by which columns are suggested


def checked_kind(kind: str) -> str:
    """The name of a kind of task, also from one with hyphens. Raises `DataError`."""
    expect(kind, str, DataError, "the name of a kind of task")
    if kind.replace("-", "_") not in all_kinds():
        raise DataError(unknown_name("kind of task", kind, all_kinds()))
    return kind.replace("-", "_")


def guessed_kind(rows: Rows, given: Columns) -> str:
    """The first of the `GUESSED_KINDS` that the data fits, else the first whose columns it has. Raises `DataError`.

    Reading the data as the second says which of its values is wrong.
    """
    if kind := next(_fitting_kinds(rows, given), None) or next(_matching_kinds(rows, given), (None,))[0]:
        return kind.name
    kinds = [all_kinds()[name] for name in GUESSED_KINDS]
    roles = list(dict.fromkeys(role.name for kind in kinds for role in kind.roles))
    check_given(given, roles, rows.columns, rows.source)
    known = [name for kind in kinds for role in kind.roles for name in (role.name, *role.names)]
    hints = [
        f"{column}: {hint}"
        for column in rows.columns
        if column.lower() not in known and (hint := nearest(column, known))
    ]
    shown = ", ".join(rows.columns[:SHOWN]) + (", ..." if len(rows.columns) > SHOWN else "")
    raise DataError(
        f"{rows.source} has the columns {shown}, which are not those of a kind of task: {'; '.join([*hints, ''])}"
        f"rename them, or name them by --columns {shlex.quote(_suggestion(rows, given))} (docs/own-data.md lists the "
        "kinds of task and their columns)"
    )


def _suggestion(rows: Rows, given: Columns) -> str:
    """The most likely columns for a text and its label: `text=body,label=priority`.

    The text is the column with the longest values that are not numbers, the label that with the fewest different ones.
    """
    sample = rows.values[:SAMPLE]
    names = [column for column in rows.columns if column not in given.values()]
    values = {name: [row[name] for row in sample if isinstance(row[name], str | int | float)] for name in names}
    lengths = {
        name: sum(map(len, texts)) for name in names if (texts := [text for text in values[name] if _is_text(text)])
    }
    columns = dict(given)
    if lengths and "text" not in columns:
        columns["text"] = max(lengths, key=lambda name: lengths[name])
    classes = {name: len(set(map(label_name, values[name]))) for name in names if name != columns.get("text")}
    few = {name: count for name, count in classes.items() if 2 <= count <= min(MOST_LABELS, len(sample) / 2)}
    if few and "label" not in columns:
        columns["label"] = min(few, key=lambda name: few[name])
    return ",".join(f"{role}={column}" for role, column in columns.items()) or "ROLE=NAME"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and math.isnan(number_of(value))


def fitted_to_head(task: Task, head: str, rows: Rows, given: Columns) -> Task:
    """The task if its kind has this head, else its data as the first guessed kind that has, if it fits one."""
    if task.kind.head == head:
        return task
    kinds = (kind for kind in _fitting_kinds(rows, given) if kind.head == head)
    kind = next(kinds, None)
    return Task(task.name, kind.name) if kind else task


def role_columns(task: Task, rows: Rows, given: Columns) -> dict[str, str]:
    """The column of each role of a task. Raises `DataError`."""
    usual = {role: column for role, column in task.columns.items() if column in rows.columns}
    return match_columns(task.kind.roles, rows.columns, usual | dict(given), rows.source)


def _fitting_kinds(rows: Rows, given: Columns) -> Iterator[TaskKind]:
    """The guessed kinds whose columns the data has, and which can be of its values."""
    return (kind for kind, columns in _matching_kinds(rows, given) if kind.fits(rows.renamed(columns)))


def _matching_kinds(rows: Rows, given: Columns) -> Iterator[tuple[TaskKind, Columns]]:
    """The guessed kinds whose columns the data has, and the column of each role."""
    for name in GUESSED_KINDS:
        kind = all_kinds()[name]
        with suppress(DataError):
            yield kind, match_columns(kind.roles, rows.columns, given, rows.source)
