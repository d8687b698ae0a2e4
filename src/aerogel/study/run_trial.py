"""Running one trial, in this process."""

from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import models
from aerogel.analysis import inspect
from aerogel.benchmark import Subject, bench
from aerogel.benchmark.forward import default_measure
from aerogel.errors import StudyError
from aerogel.evaluation import score
from aerogel.models import Head, prunable_weights
from aerogel.pruning import ROUNDED_VALUES, Calibration
from aerogel.pruning.sensitivity import sensitivity
from aerogel.runtime import compress, decompress
from aerogel.study.results import BenchmarkResult, ScoringResult
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, WeightAnalysis
from aerogel.tasks import TaskData
from aerogel.training import GradualPruning, recover
from aerogel.training.recovery import cached_finetune

SENSITIVITY_WINDOWS, LENGTH = 8, 128  # of calibration text; LENGTH in tokens
BENCH_HEAD = Head("classification", ("0", "1"))  # time and memory are measured as the two reports did


def run_trial(trial: Trial, data: TaskData | None, model: str | None = None) -> Any:
    """The result of a trial, of its `result_type`.

    `data` is that of its task, and `model` the folder of its model where that has another path on this machine.
    """
    place = model or trial.model
    if isinstance(trial, WeightAnalysis):
        return inspect(models.load_model(place), trial.model)
    if isinstance(trial, Benchmark):
        return _benchmark(trial, place)
    if data is None:
        raise StudyError(f"trial {trial.label}: needs the data of task {trial.task}")
    if isinstance(trial, SensitivityAnalysis):
        loaded, tokenizer = _load(place, data.task.head)
        text = Calibration(data, tokenizer, SENSITIVITY_WINDOWS, LENGTH, at_most=True)
        return sensitivity(loaded, text, trial.model)
    return _score(trial, data, place)


def tune_dense(trial: Scoring, data: TaskData, model: str | None = None) -> Path:
    """The folder of the fine-tuned dense model that a trial starts from: in the cache, or else trained."""
    return cached_finetune(model or trial.model, data, trial.training, load=_load)[0]


def _load(name: str, head: Head) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The dense model, also of a packed checkpoint, on a GPU if torch sees one."""
    model, tokenizer = models.load(name, head)
    return models.to_device(decompress(model)), tokenizer


def _score(trial: Scoring, data: TaskData, name: str) -> ScoringResult:
    pruning = trial.recovery.pruning
    config = pruning.pruning if isinstance(pruning, GradualPruning) else pruning
    rounded = trial.values if trial.values in ROUNDED_VALUES else None
    recovery = replace(trial.recovery, values=rounded, measure=default_measure(config, trial.values))
    recovered = recover(name, data, trial.training, recovery, load=_load)
    model = recovered.model
    if trial.values:
        compress(model.cpu(), trial.values)  # as it would be saved and used
    weights = prunable_weights(model, pruning.resolved().targets if pruning else ("blocks",), to_read=True)
    zeros = {weight.name: int(weight.zeros.sum()) for weight in weights}
    parameters = models.parameter_count(model)
    return ScoringResult(
        score=score(model, recovered.tokenizer, data, trial.evaluation_limit, trial.training.max_length),
        training=recovered.training,
        dense_seconds=recovered.dense_seconds,
        sparsity=sum(zeros.values()) / sum(weight.matrix.numel() for weight in weights),
        model_sparsity=sum(zeros.values()) / parameters,
        layers={weight.name: zeros[weight.name] / weight.matrix.numel() for weight in weights},
        parameters=parameters,
        source=data.source,
        structure=recovered.structure.removed if recovered.structure else (),
    )


def _benchmark(trial: Benchmark, name: str) -> BenchmarkResult:
    pruning = trial.pruning
    if pruning and pruning.needs_calibration:
        # time and memory depend on the sparsity and the pattern, not on the method
        scope = None if pruning.scope == "global" else pruning.scope  # that is an allocation
        pruning = replace(pruning, method="magnitude", scope=scope, allocation="uniform", swap=False, reconstruct=0)
    changed = pruning or trial.values or trial.structure
    pruned = [Subject(name, pruning, BENCH_HEAD, trial.values, trial.structure)] if changed else []
    dense = Subject(name, None, BENCH_HEAD, trains=not changed)  # the dense model's own trial measures that
    measured = bench([dense, *pruned], trial.config, start="fork")
    first, *others = (replace(measurement, name=trial.model) for measurement in measured)
    # a model that was sparse before the study is also measured compressed, before its pruned version
    return BenchmarkResult(first, *dropwhile(lambda measurement: measurement.compressed, others))
