"""The parts of a study's specification, and the types of its fields, which refuse wrong values."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aerogel import bounds
from aerogel.errors import AerogelError, check_sparsity, read_sparsity, unknown_name
from aerogel.models.prunable import TARGETS
from aerogel.pruning import METHODS, SCORES, Pattern
from aerogel.structure import StructureConfig
from aerogel.study.trial import RECOVERIES
from aerogel.study.variant import VALUES

NO_STRUCTURE = "none"


class _FieldError(AerogelError, ValueError):
    """The error of a field's check; pydantic catches it and adds the field."""


def _sparsity(value: Any) -> Any:
    if isinstance(value, str):
        return read_sparsity(value, _FieldError)
    if isinstance(value, int | float):
        check_sparsity(value, _FieldError)
    return value


def _structure(text: str) -> str:
    try:
        return text if text == NO_STRUCTURE else str(StructureConfig.parse(text))
    except AerogelError as error:
        raise _FieldError(str(error)) from error


def _part_or_whole(count: float) -> float:
    if count > 1 and count % 1:
        raise ValueError("expected a whole number, or a fraction below 1")
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
PatternName = Annotated[str, AfterValidator(lambda text: str(Pattern.parse(text)))]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingPart(Part):
    """`[training]`: see `aerogel.training.TrainingConfig`; `limit` and `text_limit` cap examples and windows."""

    epochs: Epochs = 3.0
    batch_size: Size = 32
    learning_rate: Annotated[float, Field(gt=0, le=bounds.LEARNING_RATE)] = 5e-5
    max_length: Annotated[int, Field(gt=8, le=bounds.SIZE)] = 128
    limit: Count | None = None
    text_limit: Count | None = None


class EvaluationPart(Part):
    """`[evaluation]`: caps on the examples and the windows of text that a model is scored on."""

    limit: Count | None = None
    text_limit: Count | None = None


class VariantPart(Part):
    """`[[variants]]`: one way to make the models small.

    Recovery "gradual" has no `method`: it uses the score of `[recovery]`. `pattern` and `sparsities` default to those
    of the study. `recovery` is `None` only in a study without variants and recoveries.
    """

    method: Method | None = None
    recovery: Recovery | None = "none"
    values: Values = "float32"
    structure: Structure = NO_STRUCTURE
    pattern: PatternName | None = None
    sparsities: Annotated[tuple[Sparsity, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> VariantPart:
        if self.recovery == "gradual" and self.method:
            raise ValueError(f"method {self.method}: leave it out, recovery gradual uses the score of [recovery]")
        if self.recovery != "gradual" and not self.method:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}")
        return self


class RecoveryPart(Part):
    """`[recovery]`: epochs after those of the dense model, and the pruning method of "gradual"."""

    epochs: Epochs = 6.0
    score: Score = "best"


class BenchmarkPart(Part):
    """`[benchmark]`: see `aerogel.benchmark.BenchConfig`."""

    batch_size: Size = 128
    sequence_length: Size = 64
    rounds: Size = 7
    training_steps: Size = 3


class ResourcesPart(Part):
    """`[resources]`: what a trial reserves on a cluster. Benchmarks reserve all CPUs of a node.

    Attributes:
        cpus: also the number of threads, on this machine too. The default is 1 on a cluster, and on this machine the
            cores divided by `processes`.
        memory_gb: in 10⁹ bytes; by default nothing is reserved.
        gpus: a whole number, or a fraction below 1.
    """

    cpus: Annotated[int, Field(ge=1, le=bounds.PROCESSES)] | None = None
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    gpus: Annotated[float, Field(ge=0, le=1000), AfterValidator(_part_or_whole)] = 0.0
