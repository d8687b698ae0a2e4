"""Finding the data of a task by its name: in a file or folder, among the starter tasks, or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aerogel.errors import DataError, expect, first_line, unknown_name
from aerogel.registry import names
from aerogel.tasks.files import FORMATS, read_file
from aerogel.tasks.rows import Rows
from aerogel.tasks.starter import digits, movie_reviews, python_reference
from aerogel.tasks.table import TASKS
from aerogel.tasks.tables import TABLES, VALIDATION, chosen_splits, saved_splits, split_note, table_splits

STARTER: dict[str, Callable[[], dict[str, Rows]]] = {
    "movie-reviews": movie_reviews,
    "python-reference": python_reference,
    "digits": digits,
}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Location:
    """Where the data of a task is.

    Attributes:
        name: of the task or data set, without the kind before it.
        kind: of task, if the name says it.
        path: a file or folder, `None` for a starter task and for the hub.
    """

    name: str
    kind: str | None
    path: Path | None


def check_task(source: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Location:
    """Where `load_task` looks for a task of this name. Reads and fetches no data.

    Raises `DataError` if neither a file or folder nor a task of that name exists.
    """
    expect(source, str | os.PathLike, DataError, f"the name of a task, a file or folder, {TABLES}")
    if data is not None:
        expect(data, str | os.PathLike, DataError, "the name of a folder of tasks")
    folder = data or os.environ.get("AEROGEL_DATA")
    if folder and not Path(folder).is_dir():
        raise DataError(f"{folder}: no such data folder")
    name, kind = _split_kind(os.fspath(source))
    if folder and (Path(folder) / name).is_dir() and Path(name).suffix not in FORMATS:
        return Location(name, kind, Path(folder) / name)
    if name in TASKS:
        return Location(name, kind, None)
    path = Path(name)
    if path.is_file() and path.suffix not in FORMATS:
        raise DataError(f"{name}: expected a file {_either(FORMATS)}")
    before, colon, _ = name.partition(":")
    if colon and "/" not in before and not path.exists():
        raise DataError(unknown_name("kind of task", before, names("aerogel.tasks.kinds")))
    if path.suffix in FORMATS and not path.is_file():
        raise DataError(f"{name}: no such file")
    if path.exists():
        return Location(path.resolve().name if path.is_dir() else path.stem, kind, path)
    if HUB_NAME.fullmatch(name):
        return Location(name, kind, None)
    if "/" in name:
        raise DataError(f"{name}: no such file or folder")
    known = [*TASKS, *(entry.name for entry in Path(folder).iterdir() if entry.is_dir())] if folder else TASKS
    raise DataError(
        f"{unknown_name('task', name, known)}; a user's own data is a file {_either(FORMATS)}, a folder, or user/name "
        "on the hub"
    )


def named_splits(location: Location) -> tuple[str, dict[str, Rows]]:
    """The splits of a task in files, among the starter tasks or on the hub, and where they are from."""
    path = location.path
    if path is None and location.name in STARTER:
        return "starter task", STARTER[location.name]()
    if path is None:
        return _hub_splits(location.name)
    if path.is_file():
        return str(path), {"train": read_file(path)}
    if (saved := saved_splits(path)) is not None:
        return saved
    usual = [path / f"{split}{suffix}" for split in ("train", *VALIDATION) for suffix in FORMATS]
    usual = [file for file in usual if file.is_file()]
    if not usual:
        raise DataError(f"{path}: expected a file train or validation, {_either(FORMATS)}, found none")
    chosen = chosen_splits([file.stem for file in usual], str(path))
    files = [file for file in usual if file.stem in chosen.values()]
    if len({file.suffix for file in files}) > 1 or len(files) > len(chosen):
        raise DataError(f"{path}: expected train and validation files of one type, {_either(FORMATS)}, found several")
    by_name = {file.stem: file for file in files}
    return str(path) + split_note(chosen), {split: read_file(by_name[name]) for split, name in chosen.items()}


def _hub_splits(name: str) -> tuple[str, dict[str, Rows]]:
    """The splits of a data set on the hub: that of a task in the table, or `user/name:configuration`."""
    import datasets

    from aerogel.hub import look_up

    task = TASKS.get(name)
    repository, configuration = task.hub if task and task.hub else name.split(":") if ":" in name else (name, None)
    cached = Path(datasets.config.HF_DATASETS_CACHE, repository.replace("/", "___")).is_dir()
    datasets.disable_progress_bars()
    try:
        if not cached:
            look_up(repository, "dataset")
        loaded = datasets.load_dataset(repository, configuration)
    except Exception as error:
        raise DataError(
            f"{f'task {name}: ' if task else ''}{repository} can't be loaded from the Hugging Face hub "
            f"({first_line(error)}); {_without_hub(name)}"
        ) from error
    finally:
        datasets.enable_progress_bars()
    place = f"hub {repository}"
    if task is None:
        return table_splits(loaded, place)
    names = {"train": task.hub_train, "validation": task.hub_validation}
    chosen = {split: loaded[name] for split, name in names.items() if name}
    return table_splits(datasets.DatasetDict(chosen), place)


def _without_hub(name: str) -> str:
    if name not in TASKS:
        return "name a configuration as user/name:CONFIGURATION, or give a file or folder by its path"
    return (
        f"give a folder with {name}/train and {name}/validation by --data or AEROGEL_DATA, or choose a task that needs "
        f"no hub: {', '.join(STARTER)}"
    )


def _either(suffixes: Iterable[str]) -> str:
    *others, last = suffixes
    return f"{', '.join(others)} or {last}"


def _split_kind(name: str) -> tuple[str, str | None]:
    """A name without the kind of task before it, and the kind."""
    before, colon, rest = name.partition(":")
    if colon and before.replace("-", "_") in names("aerogel.tasks.kinds"):
        return rest, before.replace("-", "_")
    return name, None
