"""Shared options and their types, which refuse wrong values before torch is imported."""

import math
from pathlib import Path
from typing import Any

import click

from aerogel import bounds
from aerogel.errors import DataError, PruningError, read_sparsity
from aerogel.models.targets import TARGETS
from aerogel.pruning.choices import check_one_shot

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


class _Sparsity(click.ParamType):
    name = "float"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        try:
            return read_sparsity(str(value), PruningError)
        except ValueError:
            self.fail(f"{str(value)!r} is not a number.", param, ctx)


class _Method(click.ParamType):
    name = "text"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        check_one_shot(str(value))
        return str(value)


class _DataFolder(click.ParamType):
    name = "path"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Path:
        if not Path(value).is_dir():
            raise DataError(f"{value}: no such data folder")
        return Path(value)


COUNT = click.IntRange(1, bounds.COUNT)
SIZE = click.IntRange(1, bounds.SIZE)
THREADS = click.IntRange(1, bounds.THREADS)
EPOCHS = _Positive(bounds.EPOCHS)
LEARNING_RATE = _Positive(bounds.LEARNING_RATE)
SPARSITY = _Sparsity()
METHOD = _Method()

include = click.option("--include", multiple=True, type=click.Choice(TARGETS[1:]), help="Include these weights too.")
data = click.option("--data", type=_DataFolder(), help="Folder with <task>/<split>.tsv or .txt.")
limit = click.option("--limit", type=COUNT, help="Number of examples or windows to use, from the start.")
output = click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new model.")
seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(bounds.SEEDS[0], bounds.SEEDS[-1]))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
