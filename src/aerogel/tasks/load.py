"""Finding the data of a task: in a folder, a file, on the hub, or among the starter tasks."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aerogel.errors import DataError, expect, first_line, unknown_name
from aerogel.tasks.read import Examples, labels_of, read_examples, read_text
from aerogel.tasks.starter import movie_reviews, python_reference
from aerogel.tasks.table import TASKS, Split, Task

STARTER: dict[str, Callable[[], Mapping[str, Examples | str]]] = {
    "movie-reviews": movie_reviews,
    "python-reference": python_reference,
}
HELD_OUT_SHARE = 0.2  # of a text or file that comes without a validation split
WHOLE = " (all of it, also the part that training on it learns from)"  # after the source of a lone split


@dataclass(frozen=True)
class TaskData:
    """A task with its data: `splits` holds `Examples`, or plain text for language modelling.

    There is a "train" and a "validation" split, or one of them alone: then it is given for either, whole, until
    `divided` holds a part of it out for validation. `source` says where the data came from, and of a lone split which
    part is trained on or scored.
    """

    task: Task
    splits: Mapping[str, Examples | str]
    source: str

    def divided(self) -> TaskData:
        """The data as training needs it, with both splits: a lone one gives a fifth for validation.

        The same rows are held out each time, and of a text the end. Raises `DataError` for too little data.
        """
        if len(self.splits) > 1:
            return self
        [(name, content)] = self.splits.items()
        source = self.source.removesuffix(WHOLE)
        splits = _divided_examples(content, source) if isinstance(content, Examples) else _divided_text(content, source)
        return TaskData(self.task, splits, f"{source} ({name} alone, a fifth of it held out)")

    @cached_property
    def digest(self) -> str:
        """A short hash of the content, whatever folder it came from."""
        content = hashlib.sha256()
        for split, part in sorted(self.splits.items()):
            content.update(split.encode())
            content.update(repr((part.texts, part.labels) if isinstance(part, Examples) else part).encode())
        return content.hexdigest()[:12]

    def examples(self, split: Split) -> Examples:
        found = self._split(split)
        assert isinstance(found, Examples)
        return found

    def text(self, split: Split) -> str:
        found = self._split(split)
        assert isinstance(found, str)
        return found

    def _split(self, split: Split) -> Examples | str:
        return next(iter(self.splits.values())) if len(self.splits) == 1 else self.splits[split]


def load_task(name: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> TaskData:
    """Finds a task by name, or reads a user's own TSV or text file.

    Looks in the folder `data` (else that of `AEROGEL_DATA`), laid out as `<task>/<split>.tsv` or `.txt`;
    then on the Hugging Face hub; then among the starter tasks. A file, or a folder with one split, gives data with that
    split alone, see `TaskData`. Raises `DataError`.
    """
    check_task(name, data)
    name = os.fspath(name)
    folder = data or os.environ.get("AEROGEL_DATA")
    if Path(name).suffix in (".tsv", ".txt"):
        return _from_files(Task(Path(name).stem), {"train": Path(name)}, name)
    task = TASKS.get(name)
    if folder and (place := Path(folder) / name).is_dir():
        files = _split_files(place)
        if not files:
            raise DataError(f"{place}: no train or validation file, .tsv or .txt")
        suffix = next(iter(files.values())).suffix
        if task and task.is_language_modelling != (suffix == ".txt"):
            raise DataError(f"{place}: task {name} is read from {'.tsv' if suffix == '.txt' else '.txt'} files")
        return _from_files(task or Task(name), files, str(place))
    assert task, "known, or found in the folder"
    if task.name in STARTER:
        return TaskData(task, STARTER[task.name](), "starter task")
    return _from_hub(task)


def check_task(name: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> None:
    """Raises `DataError` for a name, file or folder that `load_task` can't find, without reading or fetching any."""
    expect(name, str | os.PathLike, DataError, "the name of a task, or of a .tsv or .txt file")
    if data is not None:
        expect(data, str | os.PathLike, DataError, "the name of a folder of tasks")
    name = os.fspath(name)
    folder = data or os.environ.get("AEROGEL_DATA")
    if folder and not Path(folder).is_dir():
        raise DataError(f"{folder}: no such data folder")
    if Path(name).suffix in (".tsv", ".txt"):
        if not Path(name).is_file():
            raise DataError(f"{name}: no such file")
    elif name not in TASKS and not (folder and (Path(folder) / name).is_dir()):
        known = [*TASKS, *(entry.name for entry in Path(folder).iterdir() if entry.is_dir())] if folder else TASKS
        raise DataError(unknown_name("task", name, known) + "; a user's own task is a .tsv or .txt file")


def _split_files(folder: Path) -> dict[str, Path]:
    found = [folder / f"{split}{suffix}" for split in ("train", "validation") for suffix in (".tsv", ".txt")]
    found = [path for path in found if path.is_file()]
    if len({path.suffix for path in found}) > 1:
        raise DataError(f"{folder}: has .tsv and .txt files for train and validation, expected one kind")
    return {path.stem: path for path in found}


def _from_files(task: Task, files: dict[str, Path], source: str) -> TaskData:
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    source += WHOLE if len(files) == 1 else ""
    if next(iter(files.values())).suffix == ".txt":
        return TaskData(task, {split: read_text(path) for split, path in files.items()}, source)
    if not task.labels:
        columns, labels = labels_of(next(iter(files.values())))
        task = Task(task.name, columns, labels, ("accuracy", "f1") if len(labels) == 2 else ("accuracy",))
    return TaskData(task, {split: read_examples(path, task) for split, path in files.items()}, source)


def _divided_text(text: str, source: str) -> dict[str, str]:
    """The beginning for training, the end for validation, cut at a line."""
    cut = text.find("\n", int(len(text) * (1 - HELD_OUT_SHARE))) + 1
    if not text[:cut].strip() or not text[cut:].strip():
        raise DataError(
            f"{source}: the text has {len(text)} characters, too few or too few lines to hold a part out for validation"
        )
    return {"train": text[:cut], "validation": text[cut:]}


def _divided_examples(examples: Examples, source: str) -> dict[str, Examples]:
    """Rows held out by a hash of their text, so that the same row always falls on the same side."""
    splits = {"train": Examples([], []), "validation": Examples([], [])}
    for texts, label in zip(examples.texts, examples.labels, strict=True):
        held_out = zlib.crc32("\t".join(texts).encode()) % 1000 < 1000 * HELD_OUT_SHARE
        chosen = splits["validation" if held_out else "train"]
        chosen.texts.append(texts)
        chosen.labels.append(label)
    if not all(len(part) for part in splits.values()):
        raise DataError(f"{source}: {len(examples)} rows are too few to hold a part out for validation")
    return splits


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
            f"task {task.name}: {repository} could not be had from the Hugging Face hub ({first_line(error)}); "
            f"give a folder with {task.name}/train and {task.name}/validation by --data or AEROGEL_DATA, "
            f"or take a task that needs no hub: {', '.join(STARTER)}"
        ) from error
    finally:
        datasets.enable_progress_bars()
    if task.is_language_modelling:
        return TaskData(task, {split: "".join(rows["text"]) for split, rows in loaded.items()}, f"hub {repository}")
    splits = {
        split: Examples(
            list(zip(*(rows[column] for column in task.columns), strict=True)), list(map(float, rows["label"]))
        )
        for split, rows in loaded.items()
    }
    return TaskData(task, splits, f"hub {repository}")
