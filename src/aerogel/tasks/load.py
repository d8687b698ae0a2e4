"""Loading the data of a task: by its name, from a user's own files, or from memory."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aerogel.errors import AerogelWarning
from aerogel.tasks.guess import Columns, checked_kind, fitted_to_head, guessed_kind, role_columns
from aerogel.tasks.kind import Split, Task
from aerogel.tasks.rows import Rows
from aerogel.tasks.sources import check_task, named_splits
from aerogel.tasks.table import TASKS
from aerogel.tasks.tables import is_table, table_splits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aerogel.tasks.metrics import Metric

WHOLE = " (all rows, including those that training on it uses)"  # after the source of a single split
TaskSource = Any
"""What is taken as a task: a name, a file or folder, `TaskData`, or data in memory, see `load_task`."""


@dataclass(frozen=True)
class TaskData:
    """A task with its data.

    Attributes:
        splits: "train" and "validation", or only one of them, which then serves as either, whole, until `divided`
            holds out a part of it. Each is of the type that the task's kind reads.
        source: where the data came from, and of a single split which part is used.
        columns: the column of each role in a user's own data, see `TaskKind.roles`; empty for a task of the table.
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

    @property
    def description(self) -> str:
        """One line on how a user's own data is read, empty for a task of the table."""
        pairs = ", ".join(f"{role} = {column}" for role, column in self.columns.items())
        return f"columns: {pairs}; kind: {self.task.kind_name}" if pairs else ""

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


def load_task(
    source: TaskSource,
    data: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    metrics: Iterable[str | Metric | Callable[..., float]] = (),
) -> TaskData:
    """Load a task by name, or a user's own data.

    `source` is one of
      - the name of a task, see `aerogel.tasks.TASKS`; it is looked for in the folder `data` (by default
        `AEROGEL_DATA`), which holds `<task>/train` and `<task>/validation` in any of the file formats, then among the
        starter tasks, then on the Hugging Face hub;
      - a .csv, .tsv, .jsonl, .json, .parquet or .txt file, a folder of such files named train and validation (or dev,
        val, valid, test), or a folder that `save_to_disk` of `datasets` wrote;
      - a data set on the hub, `user/name` or `user/name:configuration`;
      - a `datasets.Dataset` or `DatasetDict`, a pandas data frame, a list of dictionaries, or a dictionary of these by
        split.

    The kind of task of a user's own data is guessed from its columns; `kind`, or a name like
    "sentence_regression:pairs.csv", chooses it. `columns` has the column of a role, {"text": "review"}, where its name
    is not a usual one. `metrics` are computed before those of the kind; the first one selects the best epoch. Each is a
    name in `METRICS`, a function of predictions and references that returns a number of which higher is better, or a
    `Metric`. Both arguments of a function are arrays with one entry an example; classes are numbered as in
    `task.labels`.

    Data with one split gives `TaskData` with that split, which `divided` divides. `TaskData` is returned as it is.
    Raises `DataError`.

    >>> data = load_task([{"review": "fine", "stars": 5}, {"review": "poor", "stars": 1}])
    >>> data.description, data.task.labels
    ('columns: text = review, label = stars; kind: sentence_classification', ('1', '5'))
    """
    if isinstance(source, TaskData):
        return source
    place, splits, task = _found(source, data, checked_kind(kind) if kind is not None else None, columns or {})
    if metrics:
        from aerogel.tasks.metrics import as_metric

        task = replace(task, own_metrics=tuple(map(as_metric, metrics)))
    return _read(task, splits, place, columns or {})


def load_for(model: PreTrainedModel, source: TaskSource, data: str | os.PathLike[str] | None = None) -> TaskData:
    """Load a task for a model; `TaskData` is returned as it is.

    Where the head of the model is not that of the task, the data is read as another kind of task that the head fits, if
    it has the columns of one, with an `AerogelWarning`: texts with labels are plain text to a language model.
    """
    if isinstance(source, TaskData):
        return source
    from aerogel.models import head_kind

    place, splits, task = _found(source, data, None, {})
    fitted = fitted_to_head(task, head_kind(model), next(iter(splits.values())), {})
    if fitted is not task:
        first, other = (kind.replace("_", " ") for kind in (task.kind_name, fitted.kind_name))
        warnings.warn(
            f"task {task.name} is {first}, and {type(model).__name__} has no head for that: its data is used for "
            f"{other} (load a model with the head by aerogel.load(name, aerogel.load_task(...).task.head))",
            AerogelWarning,
            stacklevel=3,
        )
    return _read(fitted, splits, place, {})


def _found(
    source: TaskSource, data: str | os.PathLike[str] | None, kind: str | None, given: Columns
) -> tuple[str, dict[str, Rows], Task]:
    """Where the data is from, its splits, and its task: that of the table, or one whose kind is given or guessed."""
    if is_table(source):
        name, (place, splits), task = "data", table_splits(source, "data in memory"), None
    else:
        location = check_task(source, data)
        name, kind, task = location.name, kind or location.kind, TASKS.get(location.name)
        place, splits = named_splits(location)
    splits = {split: rows.flattened() for split, rows in splits.items()}
    if task is None or kind not in (None, task.kind_name):
        task = Task(name.rpartition("/")[2].replace(":", "-"), kind or guessed_kind(next(iter(splits.values())), given))
    return place, splits, task


def _read(task: Task, splits: Mapping[str, Rows], place: str, given: Columns) -> TaskData:
    """The data of a task, by its kind, from the columns that the kind needs."""
    columns = {split: role_columns(task, rows, given) for split, rows in splits.items()}
    renamed = {split: rows.renamed(columns[split]) for split, rows in splits.items()}
    for rows in renamed.values():
        rows.check_types()
    is_own = task.name not in TASKS
    task, contents = task.kind.read(task, renamed)
    source = place + WHOLE if len(splits) == 1 else place
    return TaskData(task, contents, source, next(iter(columns.values())) if is_own else {})
