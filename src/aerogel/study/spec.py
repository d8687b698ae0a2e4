"""What a study is: models, methods, sparsities, tasks and seeds, read from TOML."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from itertools import product
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from aerogel import bounds
from aerogel.errors import AerogelError, StudyError, check_sparsity, first_line, read_sparsity, unknown_name
from aerogel.models.prunable import TARGETS
from aerogel.pruning import METHODS, SCORES, Allocation, Pattern, PruneConfig, Scope
from aerogel.structure import StructureConfig
from aerogel.study.results import first_problem
from aerogel.study.source import read_values
from aerogel.study.trial import RECOVERIES
from aerogel.study.variant import VALUES, Variant

NO_STRUCTURE = "none"
MOST_TRIALS = 100_000
NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,60}")  # of a folder, in at most 240 bytes


class _FieldError(AerogelError, ValueError):
    """The error of a field's check; pydantic catches it and adds the field."""


def _sparsity(value: Any) -> Any:
    if isinstance(value, str):
        return read_sparsity(value, _FieldError)
    if isinstance(value, int | float):
        check_sparsity(value, _FieldError)
    return value


def _folder_name(name: str) -> str:
    if name in (".", "..") or not NAME.fullmatch(name):
        raise ValueError("expected a name that a folder can have, of at most 60 characters")
    return name


def _structure(text: str) -> str:
    try:
        return text if text == NO_STRUCTURE else str(StructureConfig.parse(text))
    except AerogelError as error:
        raise _FieldError(str(error)) from error


def _part_or_whole(count: float) -> float:
    if count > 1 and count % 1:
        raise ValueError("expected a whole number, or a part of one")
    return count


def _choice(kind: str, known: Collection[str]) -> AfterValidator:
    """Checks that a name is among the `known` ones."""

    def check(name: str) -> str:
        if name not in known:
            raise _FieldError(unknown_name(kind, name, known))
        return name

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1, le=bounds.COUNT)]
Size = Annotated[int, Field(ge=1, le=bounds.SIZE)]
Epochs = Annotated[float, Field(gt=0, le=bounds.EPOCHS)]
Seed = Annotated[int, Field(ge=bounds.SEEDS[0], le=bounds.SEEDS[-1])]
Sparsity = Annotated[float, BeforeValidator(_sparsity)]
Method = Annotated[str, _choice("method", METHODS)]
Recovery = Annotated[str, _choice("recovery", RECOVERIES)]
Score = Annotated[str, _choice("score", SCORES)]
Values = Annotated[str, _choice("value type", VALUES)]
Structure = Annotated[str, AfterValidator(_structure)]
Target = Annotated[str, _choice("target", TARGETS[1:])]


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
    """`[recovery]`: epochs after those of the dense model, and the method that "gradual" prunes by."""

    epochs: Epochs = 6.0
    score: Score = "best"


class BenchmarkPart(_Part):
    """`[benchmark]`: see `aerogel.benchmark.BenchConfig`."""

    batch_size: Size = 128
    sequence_length: Size = 64
    rounds: Size = 7
    training_steps: Size = 3


class ResourcesPart(_Part):
    """`[resources]`: what a trial asks a cluster for. Benchmarks take all CPUs of a node.

    Attributes:
        cpus: also the number of threads, on this machine too. By default 1 on a cluster, and on this machine the cores
            divided by `processes`.
        memory_gb: of 10⁹ bytes; by default nothing is reserved.
        gpus: a whole number, or a part of one.
    """

    cpus: Annotated[int, Field(ge=1, le=bounds.PROCESSES)] | None = None
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    gpus: Annotated[float, Field(ge=0, le=1000), AfterValidator(_part_or_whole)] = 0.0


class StudySpec(_Part):
    """A study: the product of its lists. Sparsity 0 is the dense model, trained and measured like the others.

    Attributes:
        columns: of each task that has unusual names, the column of each role, see `aerogel.load_task`.
        scope: by default, methods that look at weights alone rank them globally, and the others as they define.
        sensitivity: one of the tasks, on whose training split each layer and kind of matrix is pruned alone.
        include: "embeddings" or "heads", to prune these too.
        structures: targets to which heads and neurons are removed, in the words of the options of `aerogel prune
            --structure`: "none", "speedup=2", "speedup=4,uniform", "parameters=20e6", "size=40MB", "sparsity=0.5". Each
            is combined with every sparsity, of the weights that are left; the dense model has sparsity 0 and "none",
            which is in every study with sparsity 0.
        recoveries: what follows the dense model's fine-tuning, see `aerogel.study.trial.RECOVERIES`. Without any, the
            given models are pruned and then trained.
        values: "float32", "bfloat16" or "int8". Models in the last two are scored and measured packed; for int8 the
            last quarter of their training is quantization-aware, or without training they are rounded on the task's
            text. The dense model is always in float32, and in int8 too if that is among them.
        processes: trials that run at a time on this machine and share its cores; those that measure time run alone.

    Methods that need calibration use the training split of the task that the model is scored on.

    >>> StudySpec(name="mine", models=("minilm",), tasks=("sst2",)).sparsities
    (0, 0.5, 0.9)
    """

    name: Annotated[str, AfterValidator(_folder_name)]
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: tuple[str, ...] = ()
    columns: dict[str, dict[str, str]] = {}
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = ("magnitude",)
    sparsities: Annotated[tuple[Sparsity, ...], Field(min_length=1)] = (0, 0.5, 0.9)
    pattern: Annotated[str, AfterValidator(lambda text: str(Pattern.parse(text)))] = "unstructured"
    scope: Scope | None = None
    allocation: Allocation | None = None
    sensitivity: str | None = None
    include: tuple[Target, ...] = ()
    structures: Annotated[tuple[Structure, ...], Field(min_length=1)] = (NO_STRUCTURE,)
    recoveries: tuple[Recovery, ...] = ()
    values: Annotated[tuple[Values, ...], Field(min_length=1)] = ("float32",)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    processes: Annotated[int, Field(ge=1, le=bounds.PROCESSES)] = 1
    training: TrainingPart = TrainingPart()
    recovery: RecoveryPart = RecoveryPart()
    evaluation: EvaluationPart = EvaluationPart()
    benchmark: BenchmarkPart | None = BenchmarkPart()
    resources: ResourcesPart = ResourcesPart()

    @field_validator("models", "tasks", "methods", "sparsities", "structures", "recoveries", "values", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple) -> tuple:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        if self.sensitivity is not None and self.sensitivity not in self.tasks:
            raise ValueError(f"sensitivity {self.sensitivity!r} is not one of the tasks")
        for task in self.columns:
            if task not in self.tasks:
                raise ValueError(f"columns: {task!r} is not one of the tasks")
        PruneConfig(scope=self.scope, allocation=self.allocation)  # which may contradict each other
        pattern = Pattern.parse(self.pattern)
        for sparsity in filter(None, self.sparsities):
            if not pattern.allows(sparsity):
                fixed = f"pattern {pattern} fixes the sparsity at {pattern.fixed_sparsity:g}"
                raise ValueError(f"{fixed}, found {sparsity:g} in sparsities")
        variants = len(self.methods) * len(self.sparsities) * len(self.structures) * max(1, len(self.recoveries))
        trials = len(self.models) * variants * len(self.values) * (1 + len(self.tasks) * len(self.seeds))
        if trials > MOST_TRIALS:
            raise ValueError(f"{trials:,} trials, expected at most {MOST_TRIALS:,}")
        return self

    @property
    def scored_variants(self) -> tuple[Variant, ...]:
        """The variants of pruned models that are scored, in the order of the lists."""
        if not self.recoveries:
            return self.measured_variants
        return tuple(
            Variant(method, recovery, VALUES[values], structure)
            for recovery in self.recoveries
            for structure in self._structures
            for method in (self.methods if recovery != "gradual" else (None,))
            for values in self.values
        )

    @property
    def measured_variants(self) -> tuple[Variant, ...]:
        """Those whose time, memory and size are measured: they do not depend on the recovery."""
        return tuple(
            Variant(method, values=VALUES[values], structure=structure)
            for structure, method, values in product(self._structures, self.methods, self.values)
        )

    def measured_variant(self, variant: Variant) -> Variant:
        """The one whose time, memory and size stand for those of a scored variant."""
        return replace(variant, method=variant.method or self.methods[0], recovery=None)

    @property
    def _structures(self) -> list[str | None]:
        return [None if structure == NO_STRUCTURE else structure for structure in self.structures]


def load_spec(name: str) -> StudySpec:
    """A built-in study by name ("starter", "reports", "recovery"), or one from a TOML file.

    Raises `StudyError` with the file and the field that is wrong.

    >>> load_spec("starter").models
    ('tiny-bert', 'tiny-gpt2', 'tiny-bart')
    """
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
        raise StudyError(f"the values can't be read: {first_line(error)}") from error
