"""One trial: what to do, its key, and doing it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import models, training
from aerogel.analysis import inspect
from aerogel.benchmark import BenchConfig, Measurement, Subject, bench
from aerogel.errors import StudyError, excerpt
from aerogel.evaluation import score
from aerogel.models import Head, prunable_weights
from aerogel.pruning import Calibration, PruneConfig
from aerogel.pruning.sensitivity import sensitivity
from aerogel.runtime import decompress
from aerogel.study.values import first_problem
from aerogel.tasks import TaskData
from aerogel.training import SparsityConfig, TrainingConfig

SENSITIVITY_WINDOWS, LENGTH = 8, 128  # of calibration text; LENGTH in tokens
BENCH_HEAD = Head("classification", ("0", "1"))  # time and memory are measured as the two reports did
RECOVERIES = ("none", "finetune", "gradual")


@dataclass(frozen=True)
class Recovery:
    """What is done with the dense model tuned on the task: "none" only prunes it, "finetune" then trains it for more
    `epochs` with the zeros held, and "gradual" trains it while its zeros become more as `sparsity` says, learning from
    the model as it was.
    """

    name: str
    epochs: float = 0.0
    sparsity: SparsityConfig | None = None


@dataclass(frozen=True)
class Trial:
    """What to do with one model: `inspect` its weights, measure their `sensitivity`, fine-tune and `score` it, or
    `bench` it beside the dense one.

    `pruning` is `None` for the dense model, and for one that is pruned while it trains. Without a `recovery` the
    given model is pruned and then trained. `data` is a digest of the task's data, and `files` are those of a model's
    folder, so that other data or another model under the same name makes another trial.
    """

    kind: Literal["inspect", "sensitivity", "score", "bench"]
    model: str
    pruning: PruneConfig | None = None
    task: str | None = None
    data: str | None = None
    training: TrainingConfig | None = None
    evaluation_limit: int | None = None
    benchmark: BenchConfig | None = None
    recovery: Recovery | None = None
    files: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        needed = {"sensitivity": ("task",), "score": ("task", "training"), "bench": ("benchmark",)}
        for name in needed.get(self.kind, ()):
            if getattr(self, name) is None:
                raise ValueError(f"a {self.kind} trial needs its {name}")

    @property
    def key(self) -> str:
        """The same for the same trial, wherever and whenever: a hash of its canonical JSON."""
        values = asdict(self)
        for name in ("recovery", "files"):
            if not values[name]:
                del values[name]  # stores from before there was any keep their results
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]

    @property
    def sparsity(self) -> float:
        return self.zeros.sparsity or 0.0 if self.zeros else 0.0

    @property
    def zeros(self) -> PruneConfig | SparsityConfig | None:
        """What says how many there are, and where."""
        return self.pruning or (self.recovery.sparsity if self.recovery else None)

    @property
    def label(self) -> str:
        """For a person: `tiny-bert 90% magnitude, sst2, seed 1`, or with a recovery `tiny-bert 90% gradual, ...`."""
        how = [f"{100 * self.sparsity:g}%" if self.sparsity else "dense"]
        how += [self.pruning.method] if self.pruning else []
        how += [self.recovery.name] if self.recovery else []
        parts = [" ".join([self.model, *how]), self.task if self.task and self.kind == "score" else self.kind]
        return ", ".join([*parts, f"seed {self.training.seed}"] if self.training else parts)

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """The inverse of `json.dumps(dataclasses.asdict(trial))`. Raises `ValueError` naming a field that is wrong."""
        try:
            trial = _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        if unknown := _unknown_field(json.loads(text), asdict(trial)):
            raise ValueError(f"unknown field {excerpt(unknown)}")
        return trial


@dataclass(frozen=True)
class Result:
    """How a trial went: `values` by kind of trial, the machine it ran on, and the error of a failed one."""

    status: Literal["done", "failed"]
    values: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    error: str | None = None


def run_trial(trial: Trial, data: TaskData | None) -> dict[str, Any]:
    """Does what the trial says, in this process, and returns plain values for its `Result`."""
    if trial.kind == "inspect":
        return {"weights": inspect(models.load_model(trial.model), trial.model).to_dict()}
    if trial.kind == "bench":
        return {"measurements": [asdict(measurement) for measurement in _bench(trial)]}
    if data is None:
        raise StudyError(f"trial {trial.label}: it needs the data of its task")
    if trial.kind == "sensitivity":
        model, tokenizer = _load(trial.model, data.task.head)
        text = Calibration(data, tokenizer, SENSITIVITY_WINDOWS, LENGTH, at_most=True)
        return {"sensitivity": sensitivity(model, text, trial.model).to_dict()}
    if trial.training is None:
        raise StudyError(f"trial {trial.label}: a task to score needs its training")
    return _score(trial, trial.training, data)


def _load(name: str, head: Head) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A packed checkpoint is the dense model that it stands for: it is looked at, pruned and trained as such."""
    model, tokenizer = models.load(name, head)
    return decompress(model), tokenizer


@cache
def _adapter() -> TypeAdapter[Trial]:
    return TypeAdapter(Trial)


def _unknown_field(values: dict[str, Any], known: dict[str, Any]) -> str | None:
    """The first name in `values`, or in a dictionary within, that `known` lacks."""
    for name, value in values.items():
        if name not in known:
            return name
        if isinstance(value, dict) and (unknown := _unknown_field(value, known[name])):
            return unknown
    return None


def _recovered(trial: Trial, config: TrainingConfig, data: TaskData) -> training.Recovered:
    recovery = training.Recovery(trial.pruning)
    if trial.recovery:
        gradual = trial.recovery.sparsity
        teacher = training.SELF if gradual else None
        recovery = training.Recovery(trial.pruning or gradual, teacher, True, trial.recovery.epochs)
    return training.recover(trial.model, data, config, recovery, load=_load)


def _score(trial: Trial, config: TrainingConfig, data: TaskData) -> dict[str, Any]:
    recovered = _recovered(trial, config, data)
    model, trained = recovered.model, recovered.training
    scored = score(model, recovered.tokenizer, data, trial.evaluation_limit, config.max_length)
    weights = prunable_weights(model, trial.zeros.targets if trial.zeros else ("blocks",))
    zeros = {weight.name: int(weight.zeros.sum()) for weight in weights}
    prunable = sum(weight.matrix.numel() for weight in weights)
    parameters = models.parameter_count(model)
    return {
        "metrics": scored.to_dict(),
        "predictions": scored.predictions,
        "true": scored.references,
        "logits": scored.logits,
        "training_seconds": trained.seconds,
        "dense_seconds": recovered.dense_seconds,
        "training_steps": trained.steps,
        "losses": trained.losses,
        "sparsity": sum(zeros.values()) / prunable,
        "model_sparsity": sum(zeros.values()) / parameters,
        "layers": {weight.name: zeros[weight.name] / weight.matrix.numel() for weight in weights},
        "parameters": parameters,
        "source": data.source,
    }


def _bench(trial: Trial) -> list[Measurement]:
    """The dense model, and beside it the pruned one where there is one, as it is and compressed."""
    dense = Subject(trial.model, None, BENCH_HEAD)
    pruning = trial.pruning
    if pruning and pruning.needs_calibration:
        # time and memory hang on how many zeros there are and in what pattern, not on what text chose them
        scope = None if pruning.scope == "global" else pruning.scope  # that is an allocation
        pruning = replace(pruning, method="magnitude", scope=scope, allocation="uniform", swap=False, reconstruct=0)
    pruned = Subject(trial.model, pruning, BENCH_HEAD)
    return bench([dense, pruned] if trial.pruning else [dense], trial.benchmark, start="fork")
