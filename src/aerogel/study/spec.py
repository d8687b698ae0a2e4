"""What a study is: models, methods, sparsities, tasks and seeds, read from TOML."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from aerogel import bounds
from aerogel.errors import AerogelError, StudyError, first_line
from aerogel.pruning import UNSTRUCTURED, Allocation, Pattern, PruneConfig, Scope
from aerogel.study.parts import (
    NO_STRUCTURE,
    BenchmarkPart,
    EvaluationPart,
    Method,
    Part,
    PatternName,
    Recovery,
    RecoveryPart,
    ResourcesPart,
    Seed,
    Sparsity,
    Structure,
    Target,
    TrainingPart,
    Values,
    VariantPart,
)
from aerogel.study.results import first_problem
from aerogel.study.source import read_values
from aerogel.study.variant import VALUES, Variant

MOST_TRIALS = 100_000
NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,60}")  # of a folder, in at most 240 bytes
AXES = {"methods": "method", "structures": "structure", "recoveries": "recovery", "values": "values"}
"""The lists whose product is the variants of a study, and the field of one variant for each list."""


def _folder_name(name: str) -> str:
    if name in (".", "..") or not NAME.fullmatch(name):
        raise ValueError("expected a valid folder name of at most 60 characters")
    return name


class StudySpec(Part):
    """A study: the product of its lists, or of its variants, models, tasks and seeds.

    Sparsity 0 is the dense model, trained and measured like the others, and belongs to every study.

    Attributes:
        variants: combinations of a method, a recovery, values, a structure, a pattern and sparsities. They replace the
            product of the lists of these, which are then filled from the variants: see `VariantPart`. All models are
            fine-tuned first. A variant whose sparsities leave out 0 is compared with the fine-tuned dense model, any
            other with the dense model of its own recovery. Time, memory and size are measured once for each structure,
            pattern, values and sparsity, with the first of the methods.
        columns: for each task whose columns are not found by their names, the column of each role, see
            `aerogel.load_task`.
        scope: by default, methods that use only the weights rank them globally. The other methods use their own scope.
        sensitivity: one of the tasks. Each layer and each kind of matrix is pruned on its own, on its training split.
        include: "embeddings" or "heads", to prune these too.
        structures: targets of structured pruning, written like the options of `aerogel prune --structure`: "none",
            "speedup=2", "speedup=4,uniform", "parameters=20e6", "size=40MB", "sparsity=0.5". Each is combined with
            every sparsity of the remaining weights. The dense model has sparsity 0 and "none", which is in every study.
        recoveries: what follows the dense model's fine-tuning, see `aerogel.study.trial.RECOVERIES`. Without any, the
            given models are pruned and then trained.
        values: "float32", "bfloat16" or "int8". Models in the last two are scored and measured packed. For int8 the
            last quarter of the training is quantization-aware; without training, weights are rounded on the task's
            text. The dense model is always in float32, and also in int8 if the list has it.
        processes: trials that run at the same time on this machine and share its cores. Trials that measure time run
            alone.

    Methods that need calibration use the training split of the task that the model is scored on.

    >>> StudySpec(name="mine", models=("minilm",), tasks=("sst2",)).sparsities
    (0, 0.5, 0.9)
    """

    name: Annotated[str, AfterValidator(_folder_name)]
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: tuple[str, ...] = ()
    columns: dict[str, dict[str, str]] = Field(default_factory=dict)
    variants: tuple[VariantPart, ...] = ()
    methods: Annotated[tuple[Method, ...], Field(min_length=1, validate_default=True)] = ("magnitude",)
    sparsities: Annotated[tuple[Sparsity, ...], Field(min_length=1)] = (0, 0.5, 0.9)
    pattern: PatternName = UNSTRUCTURED
    scope: Scope | None = None
    allocation: Allocation | None = None
    sensitivity: str | None = None
    include: tuple[Target, ...] = ()
    structures: Annotated[tuple[Structure, ...], Field(min_length=1, validate_default=True)] = (NO_STRUCTURE,)
    recoveries: Annotated[tuple[Recovery, ...], Field(validate_default=True)] = ()
    values: Annotated[tuple[Values, ...], Field(min_length=1, validate_default=True)] = ("float32",)
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

    @field_validator("sparsities")
    @classmethod
    def _with_dense(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        return sparsities if 0 in sparsities else (0.0, *sparsities)

    @field_validator(*AXES)
    @classmethod
    def _of_variants(cls, entries: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        name = str(info.field_name)
        listed = [getattr(part, AXES[name]) for part in info.data.get("variants", ())]
        own = tuple(dict.fromkeys(filter(None, listed)))
        if own and entries not in (own, cls.model_fields[name].default):
            raise ValueError(f"the variants have {', '.join(own)}: leave out {name}")
        return own or entries

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        if self.sensitivity is not None and self.sensitivity not in self.tasks:
            raise ValueError(f"sensitivity {self.sensitivity!r} is not one of the tasks")
        for task in self.columns:
            if task not in self.tasks:
                raise ValueError(f"columns: {task!r} is not one of the tasks")
        PruneConfig(scope=self.scope, allocation=self.allocation)  # which may contradict each other
        for part in self.parts:
            pattern = Pattern.parse(part.pattern or self.pattern)
            for sparsity in filter(None, self.part_sparsities(part)):
                if sparsity not in self.sparsities:
                    raise ValueError(f"variants: {sparsity:g} is not one of the study's sparsities")
                if not pattern.allows(sparsity):
                    fixed = f"pattern {pattern} fixes the sparsity at {pattern.fixed_sparsity:g}"
                    raise ValueError(f"{fixed}, found {sparsity:g} in sparsities")
        settings = sum(len(self.part_sparsities(part)) for part in self.parts)
        trials = len(self.models) * settings * (1 + len(self.tasks) * len(self.seeds))
        if trials > MOST_TRIALS:
            raise ValueError(f"{trials:,} trials, expected at most {MOST_TRIALS:,}")
        return self

    @property
    def parts(self) -> tuple[VariantPart, ...]:
        """The variants, or the product of the lists, in their order."""
        return self.variants or tuple(
            VariantPart.model_construct(recovery=recovery, structure=structure, method=method, values=values)
            for recovery in self.recoveries or (None,)
            for structure in self.structures
            for method in (self.methods if recovery != "gradual" else (None,))
            for values in self.values
        )

    def sparsities_of(self, variant: Variant) -> tuple[float, ...]:
        """The sparsities at which a variant is scored, in order."""
        parts = [part for part in self.parts if self._variant(part) == variant]
        return tuple(sorted({sparsity for part in parts for sparsity in self.part_sparsities(part)}))

    def part_sparsities(self, part: VariantPart) -> tuple[float, ...]:
        """The sparsities of one of the `parts`, the dense model first if it has one."""
        listed = part.sparsities or self.sparsities
        return (*([0.0] if 0 in listed else []), *filter(None, listed))

    @property
    def scored_variants(self) -> tuple[Variant, ...]:
        """The variants of pruned models that are scored, in the order of the lists."""
        return tuple(dict.fromkeys(map(self._variant, self.parts)))

    @property
    def measured_variants(self) -> tuple[Variant, ...]:
        """The variants whose time, memory and size are measured. These do not depend on the recovery."""
        return tuple(dict.fromkeys(map(self.measured_variant, self.scored_variants)))

    def measured_variant(self, variant: Variant) -> Variant:
        """The measured variant that has the time, memory and size of a scored variant."""
        return replace(variant, method=self.measured_method(variant.method), recovery=None)

    def measured_method(self, method: str | None) -> str:
        return method if method and not self.variants else self.methods[0]

    def _variant(self, part: VariantPart) -> Variant:
        pattern = part.pattern or self.pattern
        return Variant(
            part.method,
            part.recovery,
            VALUES[part.values],
            None if part.structure == NO_STRUCTURE else part.structure,
            None if pattern == UNSTRUCTURED else pattern,
        )


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
