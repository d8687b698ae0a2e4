"""The kinds of trial: what to do with one model, as records with a key."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from aerogel.benchmark import BenchConfig
from aerogel.pruning import UNSTRUCTURED, PruneConfig
from aerogel.runtime.values import ValueChoice
from aerogel.structure import StructureConfig
from aerogel.study.results import (
    STRICT,
    BenchmarkResult,
    CheckedSensitivity,
    CheckedWeights,
    Done,
    Failed,
    Outcome,
    ScoringResult,
    read_json,
)
from aerogel.study.variant import Variant
from aerogel.training import GradualPruning, Recovery, TrainingConfig

RECOVERIES = ("none", "finetune", "gradual")
"""What follows the dense model's fine-tuning on the task: only pruning; pruning, then fine-tuning that keeps the zeros;
or gradual pruning with distillation from the dense model."""


LATER = ("values", "structure", "measure")  # fields that were added later


@dataclass(frozen=True, kw_only=True)
class _ModelTrial:
    """The common part of all kinds of trial.

    `files` are those of the model's folder: another model under the same name is another trial.
    """

    __pydantic_config__ = STRICT
    result_type: ClassVar[Any]

    model: str
    files: tuple[tuple[str, int, int], ...] = ()
    kind: str

    @property
    def key(self) -> str:
        """A hash of the trial's canonical JSON: equal for equal trials."""
        fields = asdict(self, dict_factory=_without_defaults)
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]

    @property
    def label(self) -> str:
        """For a person: `tiny-bert, weights`."""
        return f"{self.model}, {self.kind}"

    @property
    def runs_alone(self) -> bool:
        """Whether it measures time, so that no other trial may run on the machine at the same time."""
        return False

    def read_outcome(self, status: str, text: str) -> Outcome:
        """The outcome in a JSON text. Raises `ValueError`, naming the field, for any other content."""
        if status not in ("done", "failed"):
            raise ValueError(f"unknown status {status!r}: expected done or failed")
        return read_json(_DONE[self.kind] if status == "done" else _FAILED, text)


@dataclass(frozen=True, kw_only=True)
class WeightAnalysis(_ModelTrial):
    """Describe the model's weights."""

    result_type = CheckedWeights
    kind: Literal["weights"] = "weights"


@dataclass(frozen=True, kw_only=True)
class SensitivityAnalysis(_ModelTrial):
    """Prune each layer and each kind of matrix alone, and measure the loss on the task's training split.

    `data` is the digest of the task's data: other data is another trial.
    """

    result_type = CheckedSensitivity
    task: str
    data: str
    kind: Literal["sensitivity"] = "sensitivity"


@dataclass(frozen=True, kw_only=True)
class Scoring(_ModelTrial):
    """Prune and fine-tune the model on a task, and score it. `data` is the digest of the task's data.

    Structures are removed first, then weights are set to zero, then values are rounded. With `values` the model is
    scored packed, in that type. For "int8" it is also trained or calibrated, see `aerogel.training.Recovery`.
    """

    result_type = ScoringResult
    task: str
    data: str
    training: TrainingConfig
    recovery: Recovery
    evaluation_limit: int | None = None
    values: ValueChoice | None = None
    kind: Literal["scoring"] = "scoring"

    @property
    def sparsity(self) -> float:
        return sparsity_of(self.recovery.pruning)

    @property
    def is_dense(self) -> bool:
        """Whether no weights, heads or neurons are removed."""
        return self.recovery.pruning is None and self.recovery.structure is None

    @property
    def epochs(self) -> float:
        """Of the training after or while pruning."""
        return self.training.epochs if self.recovery.epochs is None else self.recovery.epochs

    @property
    def variant(self) -> Variant:
        pruning, name = self.recovery.pruning, None
        if isinstance(pruning, GradualPruning):
            name = "gradual"
        elif self.recovery.finetune_first:
            name = "finetune" if self.recovery.epochs else "none"
        method, config = None, pruning.pruning if isinstance(pruning, GradualPruning) else pruning
        if isinstance(pruning, PruneConfig):
            method = pruning.method
        return Variant(method, name, self.values, _words(self.recovery.structure), _pattern(config))

    @property
    def runs_alone(self) -> bool:
        structure = self.recovery.structure
        return structure is not None and structure.speedup is not None

    @property
    def label(self) -> str:
        """For a person: `tiny-bert 90% magnitude, sst2, seed 1`, or `tiny-bert 90% gradual, sst2, seed 1`."""
        return f"{_pruned(self.model, self.sparsity, self.variant)}, {self.task}, seed {self.training.seed}"


@dataclass(frozen=True, kw_only=True)
class Benchmark(_ModelTrial):
    """Measure time, memory and size of the dense model and of the pruned one, packed with its `values`."""

    result_type = BenchmarkResult
    config: BenchConfig
    pruning: PruneConfig | None = None
    values: ValueChoice | None = None
    structure: StructureConfig | None = None
    kind: Literal["benchmark"] = "benchmark"

    @property
    def runs_alone(self) -> bool:
        return True

    @property
    def sparsity(self) -> float:
        return sparsity_of(self.pruning)

    @property
    def variant(self) -> Variant:
        method = self.pruning.method if self.pruning else None
        return Variant(method, None, self.values, _words(self.structure), _pattern(self.pruning))

    @property
    def label(self) -> str:
        """For a person: `tiny-bert 90% magnitude, benchmark`."""
        return f"{_pruned(self.model, self.sparsity, self.variant)}, {self.kind}"


Trial = WeightAnalysis | SensitivityAnalysis | Scoring | Benchmark


def trial_from_json(text: str) -> Trial:
    """The inverse of `json.dumps(dataclasses.asdict(trial))`. Raises `ValueError` naming a field that is wrong."""
    return read_json(_TRIAL, text)


_TRIAL: TypeAdapter[Trial] = TypeAdapter(Annotated[Trial, Field(discriminator="kind")])
_FAILED = TypeAdapter(Failed)


_DONE: dict[str, TypeAdapter[Any]] = {
    kind.kind: TypeAdapter(Done[kind.result_type])  # type: ignore[name-defined]
    for kind in (WeightAnalysis, SensitivityAnalysis, Scoring, Benchmark)
}


def sparsity_of(pruning: PruneConfig | GradualPruning | None) -> float:
    return pruning.sparsity or 0.0 if pruning else 0.0


def _pruned(model: str, sparsity: float, variant: Variant) -> str:
    zeros = f"{100 * sparsity:g}%" if sparsity else None
    amount = " ".join(filter(None, (variant.structure, zeros))) or "dense"
    return " ".join(filter(None, (model, amount, variant.pattern, variant.method, variant.recovery, variant.values)))


def _pattern(pruning: PruneConfig | None) -> str | None:
    return pruning.pattern if pruning and pruning.pattern != UNSTRUCTURED else None


def _words(structure: StructureConfig | None) -> str | None:
    return str(structure) if structure else None


def _without_defaults(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a record, without those added later that are `None`, so that the keys in stores stay the same."""
    return {name: value for name, value in fields if value is not None or name not in LATER}
