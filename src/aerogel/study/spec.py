"""What a study is: models, methods, sparsities, tasks and seeds, read from TOML."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from aerogel import bounds
from aerogel.errors import AerogelError, StudyError, check_sparsity, first_line, read_sparsity, unknown_name
from aerogel.pruning import Allocation, Pattern, Scope, one_shot_method
from aerogel.study.source import read_values
from aerogel.study.trial import RECOVERIES
from aerogel.study.values import first_problem
from aerogel.training import SparsityConfig

MOST_TRIALS = 100_000
NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,60}")  # of a folder, in at most 240 bytes


class _FieldError(AerogelError, ValueError):
    """What a check of a field finds; pydantic catches it and adds where it was."""


def _sparsity(value: Any) -> Any:
    if isinstance(value, str):
        return read_sparsity(value, _FieldError)
    if isinstance(value, int | float):
        check_sparsity(value, _FieldError)
    return value


Count = Annotated[int, Field(ge=1, le=bounds.COUNT)]
Size = Annotated[int, Field(ge=1, le=bounds.SIZE)]
Epochs = Annotated[float, Field(gt=0, le=bounds.EPOCHS)]
Seed = Annotated[int, Field(ge=bounds.SEEDS[0], le=bounds.SEEDS[-1])]
Sparsity = Annotated[float, BeforeValidator(_sparsity)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingPart(_Part):
    """`[training]`: see `aerogel.training.TrainingConfig`; `limit` and `text_limit` cap examples and windows."""

    epochs: Epochs = 3.0
    batch_size: Size = 32
    learning_rate: Annotated[float, Field(gt=0, le=bounds.LEARNING_RATE)] = 5e-5
    max_length: Annotated[int, Field(gt=8, le=bounds.SIZE)] = 128
    limit: Count | None = None
    text_limit: Count | None = None


class EvaluationPart(_Part):
    """`[evaluation]`: caps on the examples and the windows of text that a model is scored on."""

    limit: Count | None = None
    text_limit: Count | None = None


class RecoveryPart(_Part):
    """`[recovery]`: epochs after those of the dense model, and the score by which "gradual" chooses weights."""

    epochs: Epochs = 6.0
    score: str = "best"

    @field_validator("score")
    @classmethod
    def _score(cls, name: str) -> str:
        return SparsityConfig(0.0, score=name).score


class BenchmarkPart(_Part):
    """`[benchmark]`: see `aerogel.benchmark.BenchConfig`."""

    batch_size: Size = 128
    sequence_length: Size = 64
    rounds: Size = 7
    training_steps: Size = 3


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
    sparsities: Annotated[tuple[Sparsity, ...], Field(min_length=1)] = (0, 0.5, 0.9)
    pattern: str = "unstructured"
    scope: Scope | None = None
    allocation: Allocation | None = None
    sensitivity: str | None = None
    include: tuple[Literal["embeddings", "heads"], ...] = ()
    recoveries: tuple[str, ...] = ()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    processes: Annotated[int, Field(ge=1, le=bounds.PROCESSES)] = 1
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

    @model_validator(mode="after")
    def _not_too_many(self) -> StudySpec:
        ways = len(self.methods) * len(self.sparsities) * max(1, len(self.recoveries))
        trials = len(self.models) * ways * (1 + len(self.tasks) * len(self.seeds))
        if trials > MOST_TRIALS:
            raise ValueError(f"{trials:,} trials, expected at most {MOST_TRIALS:,}")
        return self

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name in (".", "..") or not NAME.fullmatch(name):
            raise ValueError("expected a name that a folder can have, of at most 60 letters")
        return name

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, text: str) -> str:
        return str(Pattern.parse(text))

    @field_validator("methods")
    @classmethod
    def _methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one_shot_method(name).name for name in names)

    @field_validator("recoveries")
    @classmethod
    def _recoveries(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in RECOVERIES:
                raise StudyError(unknown_name("recovery", name, RECOVERIES))
        return names


def load_spec(name: str) -> StudySpec:
    """A built-in study by name, or one from a TOML file. Raises `StudyError` with the file and the field."""
    values = read_values(name)
    try:
        return parse_spec(values)
    except AerogelError as error:
        raise StudyError(f"{name}: {error}") from error


def parse_spec(values: Any) -> StudySpec:
    """A specification from plain values. Raises `StudyError` naming the first field that is wrong."""
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        raise StudyError(first_problem(error)) from error
    except (RecursionError, OverflowError) as error:
        raise StudyError(f"its values can't be read: {first_line(error)}") from error
