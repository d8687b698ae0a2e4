"""Finding the data of a task: in a folder, a file, on the hub, or among the starter tasks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aerogel.errors import DataError, expect, first_line, unknown_name
from aerogel.tasks.files import FORMATS, read_file
from aerogel.tasks.kind import Split, Task, all_kinds
from aerogel.tasks.rows import Rows, match_columns
from aerogel.tasks.starter import movie_reviews, python_reference
from aerogel.tasks.table import GUESSED_KINDS, TASKS

STARTER: dict[str, Callable[[], Any]] = {"movie-reviews": movie_reviews, "python-reference": python_reference}
WHOLE = " (all of it, also the part that training on it uses)"  # after the source of a single split


@dataclass(frozen=True)
class TaskData:
    """A task with its data.

    Attributes:
        splits: "train" and "validation", or only one of them, which then serves as either, whole, until `divided`
            holds out a part of it. Each is of the type that the task's kind reads.
        source: where the data came from, and of a single split which part is used.
        columns: the column of each role in a user's own data, see `TaskKind.roles`.
    """

    task: Task
    splits: Mapping[str, Any]
    source: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def divided(self) -> TaskData:
        """The data with both splits, as training needs it: a fifth of a single one is for validation.

        The same part is held out each time. Raises `DataError` for too little data.
        """
        if len(self.splits) > 1:
            return self
        [(name, content)] = self.splits.items()
        source = self.source.removesuffix(WHOLE)
        splits = self.task.kind.divide(content, source)
        return TaskData(self.task, splits, f"{source} ({name} alone, a fifth of it held out)", self.columns)

    @cached_property
    def digest(self) -> str:
        """A short hash of the content, whatever folder it came from."""
        digest = hashlib.sha256()
        for split, content in sorted(self.splits.items()):
            values = tuple(vars(content).values()) if is_dataclass(content) else content
            digest.update(f"{split}{values!r}".encode())
        return digest.hexdigest()[:12]

    def split(self, name: Split) -> Any:
        """The content of a split, or of the single one."""
        return next(iter(self.splits.values())) if len(self.splits) == 1 else self.splits[name]


def load_task(name: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> TaskData:
    """Load a task by name, or a user's own TSV or text file.

    Looks in the folder `data` (by default `AEROGEL_DATA`), which holds `<task>/<split>.tsv` or `.txt`; then among the
    starter tasks; then on the Hugging Face hub. A file, or a folder with one split, gives data with a single split, see
    `TaskData`. Raises `DataError`.

    >>> data = load_task("python-reference")
    >>> data.task.kind.name, sorted(data.splits)
    ('language_modelling', ['train', 'validation'])
    """
    path, name = check_task(name, data), os.fspath(name)
    if path is None:
        return TaskData(TASKS[name], STARTER[name](), "starter task") if name in STARTER else _from_hub(TASKS[name])
    if path.is_file():
        return _from_rows(path.stem, {"train": read_file(path)}, name)
    return _from_rows(name, {split: read_file(file) for split, file in _split_files(path).items()}, str(path))


def check_task(name: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Path | None:
    """The file or folder that `load_task` would read, or `None` for a starter task and one on the hub.

    Raises `DataError` where it would find none, without reading or fetching any.
    """
    expect(name, str | os.PathLike, DataError, "the name of a task, or of a .tsv or .txt file")
    if data is not None:
        expect(data, str | os.PathLike, DataError, "the name of a folder of tasks")
    name = os.fspath(name)
    folder = data or os.environ.get("AEROGEL_DATA")
    if folder and not Path(folder).is_dir():
        raise DataError(f"{folder}: no such data folder")
    if Path(name).suffix in FORMATS:
        if not Path(name).is_file():
            raise DataError(f"{name}: no such file")
        return Path(name)
    if folder and (path := Path(folder) / name).is_dir():
        return path
    if name not in TASKS:
        known = [*TASKS, *(entry.name for entry in Path(folder).iterdir() if entry.is_dir())] if folder else TASKS
        raise DataError(unknown_name("task", name, known) + "; a user's own task is a .tsv or .txt file")
    return None


def _split_files(folder: Path) -> dict[str, Path]:
    paths = [folder / f"{split}{suffix}" for split in ("train", "validation") for suffix in FORMATS]
    paths = [path for path in paths if path.is_file()]
    suffixes = " or ".join(FORMATS)
    if not paths:
        raise DataError(f"{folder}: expected a file train or validation, {suffixes}, found none")
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"{folder}: expected train and validation files of one type, {suffixes}, found several")
    return {path.stem: path for path in paths}


def _from_rows(name: str, splits: Mapping[str, Rows], source: str, given: Mapping[str, str] | None = None) -> TaskData:
    """The data of a task in the table, or of a user's own, whose kind is guessed."""
    first = next(iter(splits.values()))
    task = TASKS.get(name) or Task(name, _guessed_kind(first, given))
    columns = {split: _columns(task, rows, given) for split, rows in splits.items()}
    renamed = {split: rows.renamed(columns[split]) for split, rows in splits.items()}
    task, contents = task.kind.read(task, renamed)
    return TaskData(task, contents, source + WHOLE if len(splits) == 1 else source, next(iter(columns.values())))


def _columns(task: Task, rows: Rows, given: Mapping[str, str] | None) -> dict[str, str]:
    usual = {role: column for role, column in task.columns.items() if column in rows.columns}
    return match_columns(task.kind.roles, rows.columns, usual | dict(given or {}), rows.source)


def _guessed_kind(rows: Rows, given: Mapping[str, str] | None) -> str:
    problems = []
    for name in GUESSED_KINDS:
        kind = all_kinds()[name]
        try:
            columns = match_columns(kind.roles, rows.columns, given, rows.source)
        except DataError as error:
            problems.append(error)
            continue
        if kind.fits(rows.renamed(columns)):
            return name
    raise problems[0]


def _from_hub(task: Task) -> TaskData:
    import datasets

    from aerogel.hub import look_up

    assert task.hub
    repository, configuration = task.hub
    names = {"train": "train", "validation": task.hub_validation}
    cached = Path(datasets.config.HF_DATASETS_CACHE, repository.replace("/", "___")).is_dir()
    datasets.disable_progress_bars()
    try:
        if not cached:
            look_up(repository, "dataset")
        loaded = {split: datasets.load_dataset(repository, configuration, split=name) for split, name in names.items()}
    except Exception as error:
        raise DataError(
            f"task {task.name}: {repository} can't be loaded from the Hugging Face hub ({first_line(error)}); "
            f"give a folder with {task.name}/train and {task.name}/validation by --data or AEROGEL_DATA, "
            f"or choose a task that needs no hub: {', '.join(STARTER)}"
        ) from error
    finally:
        datasets.enable_progress_bars()
    splits = {split: Rows(tuple(rows.column_names), rows, repository) for split, rows in loaded.items()}
    return _from_rows(task.name, splits, f"hub {repository}")
