"""From a specification to its trials."""

from __future__ import annotations

from collections.abc import Mapping

from aerogel.benchmark import BenchConfig
from aerogel.models.location import folder_files
from aerogel.pruning import PruneConfig, method
from aerogel.study.spec import StudySpec
from aerogel.study.trial import Recovery, Trial
from aerogel.tasks import TaskData
from aerogel.training import SparsityConfig, TrainingConfig


def plan(spec: StudySpec, data: Mapping[str, TaskData]) -> list[Trial]:
    """All trials of a study, in the order to run them: looks, scores by seed, then measurements."""
    files = {model: folder_files(model) for model in spec.models}
    trials = [Trial("inspect", model, files=files[model]) for model in spec.models]
    if spec.sensitivity:
        text = data[spec.sensitivity].digest
        trials += [
            Trial("sensitivity", model, task=spec.sensitivity, data=text, files=files[model]) for model in spec.models
        ]
    trials += [
        Trial(
            "score",
            model,
            pruning,
            task,
            data[task].digest,
            _training(spec, data[task], seed),
            _limit(data[task], spec.evaluation.limit, spec.evaluation.text_limit),
            recovery=recovery,
            files=files[model],
        )
        for seed in spec.seeds
        for model in spec.models
        for task in spec.tasks
        for pruning, recovery in _ways(spec, seed)
    ]
    if spec.benchmark:
        trials += [
            Trial("bench", model, pruning, benchmark=BenchConfig(**spec.benchmark.model_dump()), files=files[model])
            for model in spec.models
            for pruning in _prunings(spec, spec.seeds[0])
        ]
    return trials


def _ways(spec: StudySpec, seed: int) -> list[tuple[PruneConfig | None, Recovery | None]]:
    """One a pruning and recovery; "gradual" once a sparsity, since it chooses weights by its own score."""
    prunings, epochs = _prunings(spec, seed), spec.recovery.epochs
    if not spec.recoveries:
        return [(pruning, None) for pruning in prunings]
    ways: list[tuple[PruneConfig | None, Recovery | None]] = []
    for name in spec.recoveries:
        if name == "gradual":
            ways += [(None, Recovery(name, epochs, _course(spec, sparsity))) for sparsity in spec.sparsities]
        else:
            ways += [(pruning, Recovery(name, epochs if name == "finetune" else 0.0)) for pruning in prunings]
    return ways


def _course(spec: StudySpec, sparsity: float) -> SparsityConfig:
    return SparsityConfig(
        sparsity,
        score=spec.recovery.score,
        pattern=spec.pattern if sparsity else "unstructured",  # the dense model has none
        scope="layer" if spec.scope in ("layer", "row") else "global",
        targets=("blocks", *spec.include),
    )


def _prunings(spec: StudySpec, seed: int) -> list[PruneConfig | None]:
    """One a method and sparsity; the dense model once, whatever the methods."""
    dense: list[PruneConfig | None] = [None] if 0 in spec.sparsities else []
    return dense + [
        PruneConfig(
            name,
            sparsity,
            spec.pattern,
            spec.scope or (None if spec.allocation or method(name).looks_at_text else "global"),
            ("blocks", *spec.include),
            seed=seed,
            allocation=spec.allocation,
        )
        for name in spec.methods
        for sparsity in spec.sparsities
        if sparsity
    ]


def _training(spec: StudySpec, data: TaskData, seed: int) -> TrainingConfig:
    settings = spec.training.model_dump(exclude={"limit", "text_limit"})
    return TrainingConfig(**settings, limit=_limit(data, spec.training.limit, spec.training.text_limit), seed=seed)


def _limit(data: TaskData, examples: int | None, windows: int | None) -> int | None:
    return {"examples": examples, "windows": windows}[data.task.kind.unit]
