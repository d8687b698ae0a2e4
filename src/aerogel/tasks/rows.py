"""Rows with named columns, from any source, and which column serves for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aerogel.errors import DataError, excerpt, nearest, unknown_name
from aerogel.memory import free_memory

MEMORY_PER_BYTE = 8  # of a file, for its rows as Python objects; of short rows twice that
TYPES = {bool: "a boolean", int: "a number", float: "a number", str: "text", dict: "a mapping", list: "a list"}


@dataclass(frozen=True)
class Rows:
    """The rows of a split.

    Attributes:
        columns: their names.
        values: one mapping of column to value a row.
        source: the file or data set that they come from, for error messages.
        lines: the line of each row in that file.
        original: the names in the source of columns that were renamed.
        class_names: of columns whose classes the source declares, in the order of their numbers.
    """

    columns: tuple[str, ...]
    values: Sequence[Mapping[str, Any]]
    source: str
    lines: Sequence[int] | None = None
    original: Mapping[str, str] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.values)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return self.values[row]

    def renamed(self, columns: Mapping[str, str]) -> Rows:
        """These columns alone, under new names: `columns` has the present name of each new one."""
        values = [{new: row[old] for new, old in columns.items()} for row in self.values]
        class_names = {new: self.class_names[old] for new, old in columns.items() if old in self.class_names}
        return replace(self, columns=tuple(columns), values=values, original=columns, class_names=class_names)

    def flattened(self) -> Rows:
        """With a column for each key of a column of dictionaries of texts: `translation.de` and `translation.en`.

        So are translations on the hub. Dictionaries of other values, as of an answer and its position, stay.
        """
        keys = {column: self._text_keys(column) for column in self.columns}
        if not any(keys.values()):
            return self

        def parts(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
            for column, inner in keys.items():
                if not inner:
                    yield column, row[column]
                for key in inner:
                    yield f"{column}.{key}", row[column] and row[column][key]

        values = [dict(parts(row)) for row in self.values]
        return replace(self, columns=tuple(values[0]), values=values)

    def _text_keys(self, column: str) -> tuple[str, ...]:
        """The keys of a column of dictionaries that all have the same ones, with texts; none of any other column."""
        found = (value for row in self.values if (value := row[column]) is not None)
        first = next(found, None)
        if not isinstance(first, Mapping):
            return ()

        def has_texts(value: Any) -> bool:
            is_like_first = isinstance(value, Mapping) and value.keys() == first.keys()
            return is_like_first and all(isinstance(part, str) for part in value.values())

        return tuple(first) if has_texts(first) and all(map(has_texts, found)) else ()

    def check_types(self) -> None:
        """Raises `DataError` for a column with values of several types, at the first that differs from those above."""
        for column in self.columns:
            first = None
            for number, row in enumerate(self.values):
                found = _type_name(row[column])
                first = first or found
                if found and found != first:
                    raise self.error(
                        number, f"expected {first} as in the rows above, found {found} {excerpt(row[column])}", column
                    )

    def error(self, row: int, problem: object, column: str | None = None) -> DataError:
        """An error that names the source, the line and the column (by its name in the source)."""
        where = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        where += f", column {self.original.get(column, column)}" if column else ""
        return DataError(f"{self.source}, {where}: {problem}")


@dataclass(frozen=True)
class Role:
    """What a kind of task needs from a column.

    Attributes:
        names: of columns that are taken for it, the most usual first, in lower case.
        optional: whether data may be without it.
    """

    name: str
    names: tuple[str, ...]
    optional: bool = False


def check_given(given: Mapping[str, str], roles: Sequence[str], columns: Sequence[str], source: str) -> None:
    """Raises `DataError` for a role or a column that does not exist, and for two roles with one column."""
    for role, column in given.items():
        if role not in roles:
            raise DataError(unknown_name("column role", role, roles))
        if column not in columns:
            raise DataError(f"{source}: {unknown_name('column', column, columns)}")
        if len(same := [name for name in given if given[name] == column]) > 1:
            raise DataError(f"{source}: expected a column for each role, found {column!r} for {' and '.join(same)}")


def match_columns(
    roles: Sequence[Role], columns: Sequence[str], given: Mapping[str, str] | None = None, source: str = "the data"
) -> dict[str, str]:
    """The column of each role: the one `given` for it, else the first whose name, or its part after a dot, is usual.

    Raises `DataError` as `check_given`, and for a required role without a column.

    >>> match_columns([Role("text", ("text", "sentence")), Role("label", ("label",))], ["id", "Sentence", "label"])
    {'text': 'Sentence', 'label': 'label'}
    """
    given = given or {}
    check_given(given, [role.name for role in roles], columns, source)
    found = dict(given)
    for role in roles:
        left = {column.strip().lower(): column for column in reversed(columns) if column not in found.values()}
        free = {name.rpartition(".")[2]: column for name, column in left.items()} | left
        usual = next((free[name] for name in (role.name, *role.names) if name in free), None)
        if role.name not in found and usual is not None:
            found[role.name] = usual
    if missing := [role for role in roles if role.name not in found and not role.optional]:
        expected = "; ".join(f"{role.name} ({', '.join(role.names)})" for role in missing)
        free_names = [column for column in columns if column not in found.values()]
        similar = (nearest(name, free_names) for name in (missing[0].name, *missing[0].names))
        hint = next(filter(None, similar), "")
        raise DataError(
            f"{source} has the columns {', '.join(columns)}, and none for {expected}: {hint + ' ' if hint else ''}"
            f"rename one, or name it by --columns {missing[0].name}=NAME"
        )
    return {role.name: found[role.name] for role in roles if role.name in found}


def _type_name(value: Any) -> str:
    """Text, a number, ...; nothing for a value that is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return TYPES.get(type(value), type(value).__name__)


def table_rows(values: Sequence[Any], source: str, lines: Sequence[int] | None = None) -> Rows:
    """Rows from dictionaries; the columns are the keys of all, and a key that a row lacks has the value `None`.

    Raises `DataError` for a row that is not a dictionary with names as keys.
    """
    columns: dict[str, None] = {}
    for number, row in enumerate(values):
        if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
            problem = f"expected a dictionary of column names and values, found {excerpt(row)}"
            raise Rows((), values, source, lines).error(number, problem)
        columns |= dict.fromkeys(row)
    complete = [row if len(row) == len(columns) else dict.fromkeys(columns) | row for row in values]
    return Rows(tuple(columns), complete, source, lines)


def check_memory(source: str, size: int) -> None:
    """Raise `DataError` for data of `size` bytes whose rows need more memory than is free."""
    needed, free = MEMORY_PER_BYTE * size, free_memory()
    if needed > free:
        raise DataError(
            f"{source}: its {size / 1e9:.1f} GB need about {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB "
            "are free: use a part of the data"
        )
