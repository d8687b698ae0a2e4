"""Rows of data in memory, of data sets of the `datasets` library, and of Parquet files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aerogel.errors import DataError, excerpt, first_line
from aerogel.tasks.rows import Rows, check_memory, table_rows

VALIDATION = ("validation", "dev", "val", "valid", "test")
"""Names of the validation split; the first that there is serves."""
TABLES = "a datasets.Dataset or DatasetDict, a pandas DataFrame or a list of dictionaries"


def is_table(value: object) -> bool:
    """Whether a value is data in memory: one of the `TABLES`, or a dictionary of them by split."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(is_table, value.values()))
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(row, Mapping) and not is_table(row) for row in value)
    return _is_a("datasets", "Dataset", value) or _is_a("pandas", "DataFrame", value)


def table_splits(table: Any, source: str) -> tuple[str, dict[str, Rows]]:
    """The splits of a table: "train" alone, or those of a dictionary of tables; before them the source, with a note.

    Raises `DataError`.
    """
    if not isinstance(table, Mapping):
        return source, {"train": _rows(table, source)}
    names = chosen_splits(list(table), source)
    splits = {split: _rows(table[name], f"{source}, split {name}") for split, name in names.items()}
    return source + split_note(names), splits


def chosen_splits(names: Sequence[str], source: str) -> dict[str, str]:
    """Which of the `names` serve for training and validation; a single one serves for both.

    Raises `DataError` if it is none of the usual ones.
    """
    validation = next((name for name in VALIDATION if name in names), None)
    chosen = {"train": "train" if "train" in names else None, "validation": validation}
    found = {split: name for split, name in chosen.items() if name is not None}
    if not found and len(names) == 1:
        found = {"train": names[0]}
    if not found:
        known = ", ".join(("train", *VALIDATION))
        raise DataError(f"{source}: expected a split {known}, found {', '.join(names) or 'none'}")
    return found


def split_note(chosen: Mapping[str, str]) -> str:
    """Says which split serves for validation, if it has another name."""
    name = chosen.get("validation", "validation")
    return "" if name == "validation" else f" ({name} as validation)"


def saved_splits(folder: Path) -> tuple[str, dict[str, Rows]] | None:
    """As `table_splits`, of a folder that `save_to_disk` of `datasets` wrote; `None` for any other folder."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    import datasets

    try:
        return table_splits(datasets.load_from_disk(str(folder)), str(folder))
    except DataError:
        raise
    except Exception as error:  # pyarrow's, json's and KeyError, depending on the damage
        raise DataError(f"{folder}: the data set can't be read: {first_line(error)}") from error


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file. Raises `DataError` for a damaged one, and for one larger than the free memory."""
    import datasets
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = (metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
            check_memory(str(path), sum(sizes))
            table = file.read()
            table.validate(full=True)
        return _rows(datasets.Dataset(table), str(path))
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {first_line(error)}") from error


def _rows(table: Any, source: str) -> Rows:
    if _is_a("datasets", "Dataset", table):
        rows = _dataset_rows(table, source)
    elif isinstance(table, list | tuple):
        rows = table_rows([dict(row) for row in table], source)
    else:
        rows = _frame_rows(table, source)
    if not len(rows):
        raise DataError(f"{source}: there are no rows")
    return rows


def _dataset_rows(dataset: Any, source: str) -> Rows:
    """Its rows, with the names of classes in place of their numbers."""
    check_memory(source, dataset.data.nbytes * len(dataset) // max(1, dataset.data.num_rows))
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):  # pixels of all images need too much memory
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    declared = {name: _class_names(feature) for name, feature in dataset.features.items()}
    class_names = {name: names for name, names in declared.items() if names}
    plain = dataset.with_format(None)
    has_media = any(hasattr(feature, "decode_example") for feature in dataset.features.values())
    values = [dict(row) for row in plain] if has_media else plain.to_list()  # which is faster, and decodes no images
    for row in values:
        for name, names in class_names.items():
            row[name] = _named(row[name], names)
    return Rows(tuple(dataset.column_names), values, source, class_names=class_names)


def _frame_rows(frame: Any, source: str) -> Rows:
    names = list(map(str, frame.columns))
    if repeated := [name for index, name in enumerate(names) if name in names[:index]]:
        raise DataError(f"{source}: two columns have the name {excerpt(repeated[0])}")
    check_memory(source, int(frame.memory_usage(deep=False).sum()))
    plain = frame.astype(object).where(frame.notna(), None)
    values = [dict(zip(names, row, strict=True)) for row in plain.itertuples(index=False, name=None)]
    return Rows(tuple(names), values, source)


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names that a feature declares, for a class or for each of a list."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(part, names) for part in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1: no label


def _is_a(library: str, name: str, value: object) -> bool:
    """Whether a value is of a class of a library, which is imported if it is."""
    kind = getattr(sys.modules.get(library), name, None)
    return isinstance(kind, type) and isinstance(value, kind)
