"""Shared options and their types, which refuse wrong values before torch is imported."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from aerogel import bounds
from aerogel.benchmark.runtimes import check_runtime
from aerogel.errors import DataError, PruningError, read_sparsity
from aerogel.models.targets import TARGETS
from aerogel.pruning.choices import check_one_shot
from aerogel.runtime.values import HEAD_CHOICES, INT8_PATTERN, INT8_SPEED, VALUE_CHOICES
from aerogel.tasks.files import FORMATS

Parameter = click.Parameter | None
Context = click.Context | None


class _Positive(click.FloatRange):
    """A number above 0 and at most `most`."""

    def __init__(self, most: float) -> None:
        super().__init__(min=0, max=most, min_open=True)

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # NaN passes every range check
            self.fail(f"{value} is not a number above 0.", param, ctx)
        return number


class _Read(click.ParamType):
    """What `read` returns for the text of an option."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        try:
            return self.read(str(value))
        except ValueError:
            self.fail(f"{str(value)!r} is not a number.", param, ctx)


def _data_folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise DataError(f"{name}: no such data folder")
    return Path(name)


def _columns(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if wrong := [role + equals for role, equals, column in pairs if not (role and column)]:
        raise DataError(f"columns {text!r}: expected ROLE=NAME after each comma, found {wrong[0]!r}")
    return {role.strip(): column.strip() for role, _, column in pairs}


FILES = ", ".join(FORMATS)  # of data
TASK = f"a task, a file ({FILES}), a folder of them or of datasets.save_to_disk, or user/name on the hub"
COUNT = click.IntRange(1, bounds.COUNT)
SIZE = click.IntRange(1, bounds.SIZE)
THREADS = click.IntRange(1, bounds.THREADS)
EPOCHS = _Positive(bounds.EPOCHS)
LEARNING_RATE = _Positive(bounds.LEARNING_RATE)
SPARSITY = _Read("float", lambda text: read_sparsity(text, PruningError))
METHOD = _Read("text", check_one_shot)
RUNTIME = _Read("text", check_runtime)

include = click.option("--include", multiple=True, type=click.Choice(TARGETS[1:]), help="Include these weights too.")
data = click.option(
    "--data", type=_Read("path", _data_folder), help=f"Folder with <task>/train and <task>/validation, {FILES}."
)
columns = click.option(
    "--columns",
    type=_Read("text", _columns),
    help="Columns of your own data whose names are not usual, for example text=review,label=stars.",
)
max_length = click.option(
    "--max-length", default=128, show_default=True, type=click.IntRange(8, bounds.SIZE), help="Tokens of a sentence."
)
limit = click.option("--limit", type=COUNT, help="Number of examples or windows to use, from the start.")
output = click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new model.")
values = click.option(
    "--values",
    type=click.Choice(VALUE_CHOICES),
    help=f"Round the packed weights. int8 runs fastest, with --pattern {INT8_PATTERN}: {INT8_SPEED} "
    "[default: as they are].",
)
head_values = click.option(
    "--head-values",
    type=click.Choice(HEAD_CHOICES),
    help="Compute the language-model head in int8 too, with --values int8: less time for each generated token.",
)
seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(bounds.SEEDS[0], bounds.SEEDS[-1]))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
