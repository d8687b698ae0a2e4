"""Shared options and their types, which refuse wrong values before torch is imported."""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from aerogel import bounds
from aerogel.benchmark.runtimes import ServedIn, check_runtime
from aerogel.errors import DataError, PruningError, read_sparsity
from aerogel.models.targets import TARGETS
from aerogel.pruning.choices import check_one_shot
from aerogel.runtime.values import HEAD_CHOICES, INT8_PATTERN, INT8_SPEED, VALUE_CHOICES
from aerogel.structure.config import StructureConfig, read_bytes
from aerogel.tasks.files import FORMATS

Parameter = click.Parameter | None
Context = click.Context | None
Command = TypeVar("Command", bound=Callable[..., Any])


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
        except (ValueError, OverflowError):
            self.fail(f"{str(value)!r} is not a number.", param, ctx)


class _TaskOption(click.Option):
    """`--task`, also taken as `--tasks`, which the help does not show."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        names = self.opts
        self.opts = names[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def task(parameter: str, **settings: Any) -> Callable[[Command], Command]:
    """An option for tasks, with the name of its parameter."""
    return click.option("--task", "--tasks", parameter, cls=_TaskOption, **settings)


def examples(*commands: str) -> str:
    """The end of a command's help. Long commands continue on the next line, as a shell reads them."""
    lines = [
        " \\\n      ".join(textwrap.wrap(command, 74, break_long_words=False, break_on_hyphens=False))
        for command in commands
    ]
    return "\b\nExamples:\n  " + "\n  ".join(lines)


def data_options(data: Path | None, columns: dict[str, str] | None) -> list[str]:
    """The options of a command that read the same data as another one."""
    pairs = ",".join(f"{role}={column}" for role, column in (columns or {}).items())
    return [*(["--data", str(data)] if data else []), *(["--columns", pairs] if pairs else [])]


def _data_folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise DataError(f"{name}: no such data folder")
    return Path(name)


def _device(text: str) -> str:
    from aerogel.models.device import checked_device  # imports torch, which knows the devices

    checked_device(text)
    return text


def _columns(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if wrong := [role + equals for role, equals, column in pairs if not (role and column)]:
        raise DataError(f"columns {text!r}: expected pairs ROLE=NAME separated by commas, found {wrong[0]!r}")
    return {role.strip(): column.strip() for role, _, column in pairs}


@dataclass(frozen=True)
class Structured:
    """The values of the options of structured pruning."""

    structure: bool
    speedup: float | None
    parameters: int | None
    size: int | None
    uniform: bool
    runtime: ServedIn | None

    def config(self, sparsity: float | None, seed: int) -> tuple[StructureConfig | None, float | None]:
        """The target, `None` without `--structure`, and the share of zeros that is left to prune.

        `--sparsity` is the share of structures unless there is another target. Raises `click.UsageError`.
        """
        targets: dict[str, Any] = {"speedup": self.speedup, "parameters": self.parameters, "size": self.size}
        given = {name: value for name, value in targets.items() if value is not None}
        if not self.structure:
            if given or self.uniform or self.runtime:
                option = next(iter(given), "uniform" if self.uniform else "runtime")
                raise click.UsageError(f"--{option} needs --structure")
            return None, sparsity
        if self.runtime and "speedup" not in given:
            raise click.UsageError("--runtime needs --speedup, which is measured in it")
        if len(given) > 1:
            raise click.UsageError(f"--{' and --'.join(given)} exclude each other: choose one")
        if not given and sparsity is None:
            raise click.UsageError("--structure needs a target: --speedup, --parameters, --size or --sparsity")
        config = StructureConfig(**(given or {"sparsity": sparsity}), uniform=self.uniform, seed=seed)
        return config, sparsity if given else None


def structured(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of structured pruning, which `command` gets as one record, `structured`."""

    @wraps(command)
    def with_record(**settings: Any) -> Any:
        own = {field.name: settings.pop(field.name) for field in fields(Structured)}
        return command(**settings, structured=Structured(**own))

    for option in reversed(_STRUCTURE):
        with_record = option(with_record)
    return with_record


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

_STRUCTURE = (
    click.option(
        "--structure",
        is_flag=True,
        help="Remove attention heads, feed-forward neurons and whole sub-layers. Without another target, --sparsity is "
        "the share to remove; with one, it is the share of zeros among the weights that are left.",
    ),
    click.option(
        "--speedup", type=_Positive(1e6), help="Target of --structure: 2 for twice as fast, measured on this machine."
    ),
    click.option(
        "--parameters",
        type=_Read("number", lambda text: int(float(text))),
        help="Target of --structure: at most this many parameters.",
    ),
    click.option(
        "--size",
        type=_Read("bytes", read_bytes),
        help="Target of --structure: weights of at most this size, such as 40MB.",
    ),
    click.option(
        "--uniform",
        is_flag=True,
        help="Remove the same number in every layer, so that the model loads without aerogel.",
    ),
    click.option(
        "--runtime",
        type=click.Choice(get_args(ServedIn)),
        help="Runtime in which --speedup is measured, on batches of 16 x 64 tokens [default: aerogel if the model is "
        "packed, else torch].",
    ),
)

include = click.option("--include", multiple=True, type=click.Choice(TARGETS[1:]), help="Include these weights too.")
data = click.option(
    "--data", type=_Read("path", _data_folder), help=f"Folder with <task>/train and <task>/validation, {FILES}."
)
columns = click.option(
    "--columns",
    type=_Read("text", _columns),
    help="Columns of your own data that are not found by their names, for example text=review,label=stars.",
)
max_length = click.option(
    "--max-length", default=128, show_default=True, type=click.IntRange(8, bounds.SIZE), help="Most tokens of an input."
)
limit = click.option(
    "--limit", type=COUNT, help="Use only the first LIMIT examples or windows of text.", metavar="LIMIT"
)
output = click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new model.")
values = click.option(
    "--values",
    type=click.Choice(VALUE_CHOICES),
    help=f"Round the packed weights to this type. int8 with zeros in {INT8_PATTERN} is the fastest: {INT8_SPEED} "
    "[default: not rounded].",
)
head_values = click.option(
    "--head-values",
    type=click.Choice(HEAD_CHOICES),
    help="Also compute the language-model head in int8, for faster generation; needs --values int8.",
)
device = click.option(
    "--device",
    type=_Read("text", _device),
    help="Where to compute: cpu, cuda or cuda:N [default: a GPU if torch sees one, else the CPU].",
)
seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(bounds.SEEDS[0], bounds.SEEDS[-1]))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
