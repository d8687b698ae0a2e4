"""What a study is: models, methods, sparsities, tasks and seeds, read from TOML."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aerogel.data.read import read_text
from aerogel.errors import AerogelError, StudyError, unknown_name
from aerogel.pruning import Pattern, method
from aerogel.pruning.apply import Scope
from aerogel.pruning.method import Allocation
from aerogel.study.trial import RECOVERIES
from aerogel.training import SparsityConfig

BUILT_IN = ("starter", "reports", "recovery")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingPart(_Part):
    """`[training]`: see `aerogel.training.TrainingConfig`; `limit` and `text_limit` cap examples and windows."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    max_length: Annotated[int, Field(gt=8)] = 128
    limit: Annotated[int, Field(gt=0)] | None = None
    text_limit: Annotated[int, Field(gt=0)] | None = None


class EvaluationPart(_Part):
    """`[evaluation]`: caps on the examples and the windows of text that a model is scored on."""

    limit: Annotated[int, Field(gt=0)] | None = None
    text_limit: Annotated[int, Field(gt=0)] | None = None


class RecoveryPart(_Part):
    """`[recovery]`: epochs after those of the dense model, and the score by which "gradual" chooses weights."""

    epochs: Annotated[float, Field(gt=0)] = 6.0
    score: str = "best"

    @field_validator("score")
    @classmethod
    def _score(cls, name: str) -> str:
        return SparsityConfig(0.0, score=name).score


class BenchmarkPart(_Part):
    """`[benchmark]`: see `aerogel.benchmark.BenchConfig`."""

    batch_size: Annotated[int, Field(gt=0)] = 128
    sequence_length: Annotated[int, Field(gt=0)] = 64
    rounds: Annotated[int, Field(gt=0)] = 7
    training_steps: Annotated[int, Field(gt=0)] = 3


class StudySpec(_Part):
    """A study: the product of its lists. Sparsity 0 is the dense model, trained and measured alike.

    Without a `scope`, methods that look at weights alone rank them globally, and the others do as they define;
    those are calibrated on the training split of the task that they are scored on. `include` adds "embeddings" or
    "heads" to the pruned weights; `sensitivity` names one of the tasks, on whose training split each layer and kind
    of matrix is pruned alone. Without `recoveries` the given models are pruned and then trained; with them the dense
    model is trained on the task and then goes through each, see `aerogel.study.trial.Recovery`. `processes` trials run
    at a time, sharing the cores; those that measure time run alone.
    """

    name: str
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: tuple[str, ...] = ()
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("magnitude",)
    sparsities: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)] = (0, 0.5, 0.9)
    pattern: str = "unstructured"
    scope: Scope | None = None
    allocation: Allocation | None = None
    sensitivity: str | None = None
    include: tuple[Literal["embeddings", "heads"], ...] = ()
    recoveries: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    processes: Annotated[int, Field(gt=0)] = 1
    training: TrainingPart = TrainingPart()
    recovery: RecoveryPart = RecoveryPart()
    evaluation: EvaluationPart = EvaluationPart()
    benchmark: BenchmarkPart | None = BenchmarkPart()

    @field_validator("models", "tasks", "methods", "sparsities", "recoveries", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple) -> tuple:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _sensitivity_of_a_task(self) -> StudySpec:
        if self.sensitivity is not None and self.sensitivity not in self.tasks:
            raise ValueError(f"sensitivity {self.sensitivity!r} is none of the tasks")
        return self

    @model_validator(mode="after")
    def _sparsities_of_the_pattern(self) -> StudySpec:
        pattern = Pattern.parse(self.pattern)
        for sparsity in filter(None, self.sparsities):
            if not pattern.allows(sparsity):
                fixed = f"pattern {pattern} fixes the sparsity at {pattern.fixed_sparsity:g}"
                raise ValueError(f"{fixed}, and sparsities has {sparsity:g}")
        return self

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not name or Path(name).name != name:
            raise ValueError("expected a name that a folder can have")
        return name

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, text: str) -> str:
        return str(Pattern.parse(text))

    @field_validator("methods")
    @classmethod
    def _methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(method(name).name for name in names)

    @field_validator("recoveries")
    @classmethod
    def _recoveries(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in RECOVERIES:
                raise StudyError(unknown_name("recovery", name, RECOVERIES))
        return names


def load_spec(name: str) -> StudySpec:
    """A built-in study by name, or one from a TOML file. Raises `StudyError` with the file and the field."""
    if name in BUILT_IN:
        text = (resources.files("aerogel.study") / "builtin" / f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        if not Path(name).is_file():
            raise StudyError(f"{name}: no such file")
        text = read_text(Path(name))
    else:
        raise StudyError(unknown_name("study", name, BUILT_IN) + "; a study of your own is a .toml file")
    try:
        return parse_spec(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, AerogelError) as error:
        raise StudyError(f"{name}: {error}") from error


def parse_spec(values: dict) -> StudySpec:
    """A specification from plain values. Raises `StudyError` naming the first field that is wrong."""
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")  # pydantic's own, before what a check here says
        raise StudyError(f"{field}: {said} (found {first['input']!r})" if field else said) from error
