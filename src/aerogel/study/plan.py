"""From a specification to its trials."""

from collections.abc import Mapping
from dataclasses import replace

from aerogel.benchmark import BenchConfig
from aerogel.models.location import folder_files
from aerogel.pruning import PruneConfig, method
from aerogel.runtime.values import VALUE_TYPES, ValueChoice
from aerogel.structure import StructureConfig
from aerogel.study.spec import NO_STRUCTURE, StudySpec
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, WeightAnalysis, sparsity_of
from aerogel.study.variant import VALUES
from aerogel.tasks import TaskData
from aerogel.training import GradualPruning, Recovery, TrainingConfig
from aerogel.training.recovery import SELF


def plan(spec: StudySpec, data: Mapping[str, TaskData]) -> list[Trial]:
    """All trials of a study, in the order to run them: analyses, scores by seed, benchmarks."""
    files = {model: folder_files(model) for model in spec.models}
    trials: list[Trial] = [WeightAnalysis(model=model, files=files[model]) for model in spec.models]
    if spec.sensitivity:
        digest = data[spec.sensitivity].digest
        trials += [
            SensitivityAnalysis(model=model, files=files[model], task=spec.sensitivity, data=digest)
            for model in spec.models
        ]
    trials += [
        Scoring(
            model=model,
            files=files[model],
            task=task,
            data=data[task].digest,
            training=_training(spec, data[task], seed),
            recovery=recovery,
            evaluation_limit=_limit(data[task], spec.evaluation.limit, spec.evaluation.text_limit),
            values=values,
        )
        for seed in spec.seeds
        for model in spec.models
        for task in spec.tasks
        for recovery in _recoveries(spec, seed)
        for values in _values(spec, sparsity_of(recovery.pruning))
    ]
    if spec.benchmark:
        config = BenchConfig(**spec.benchmark.model_dump())
        trials += [
            Benchmark(
                model=model, files=files[model], config=config, pruning=pruning, values=values, structure=structure
            )
            for model in spec.models
            for structure in _structures(spec, spec.seeds[0])
            for pruning in _prunings(spec, spec.seeds[0])
            if _is_combined(spec, structure, sparsity_of(pruning))
            for values in _values(spec, sparsity_of(pruning))
        ]
    return trials


def _recoveries(spec: StudySpec, seed: int) -> list[Recovery]:
    """Each pruning of each structure with each recovery; "gradual" once a sparsity, since its method is that of
    `[recovery]`."""
    prunings, epochs = _prunings(spec, seed), spec.recovery.epochs
    of_name = {
        "none": [Recovery(pruning, finetune_first=True, epochs=0.0) for pruning in prunings],
        "finetune": [Recovery(pruning, finetune_first=True, epochs=epochs) for pruning in prunings],
        "gradual": [
            Recovery(GradualPruning(_pruning(spec, spec.recovery.score, sparsity, seed)), SELF, True, epochs)
            for sparsity in spec.sparsities
        ],
    }
    recoveries = [of_name[name] for name in spec.recoveries] or [[Recovery(pruning) for pruning in prunings]]
    return [
        replace(recovery, structure=structure)
        for alike in recoveries
        for structure in _structures(spec, seed)
        for recovery in alike
        if _is_combined(spec, structure, sparsity_of(recovery.pruning))
    ]


def _structures(spec: StudySpec, seed: int) -> list[StructureConfig | None]:
    """`None`, for the dense model, comes first."""
    return [None, *(StructureConfig.parse(text, seed) for text in spec.structures if text != NO_STRUCTURE)]


def _is_combined(spec: StudySpec, structure: StructureConfig | None, sparsity: float) -> bool:
    """The dense model is in every study with sparsity 0, for the comparison."""
    return structure is not None or not sparsity or NO_STRUCTURE in spec.structures


def _values(spec: StudySpec, sparsity: float) -> list[ValueChoice | None]:
    """The dense model is always in float32, for the comparison, and in types of integers: it has no packed floats."""
    if sparsity:
        return [VALUES[name] for name in spec.values]
    return [None, *(VALUES[name] for name in spec.values if not VALUE_TYPES[name].is_float)]


def _prunings(spec: StudySpec, seed: int) -> list[PruneConfig | None]:
    """One a method and sparsity; `None`, the dense model, once."""
    dense: list[PruneConfig | None] = [None] if 0 in spec.sparsities else []
    sparsities = [sparsity for sparsity in spec.sparsities if sparsity]
    return dense + [_pruning(spec, name, sparsity, seed) for name in spec.methods for sparsity in sparsities]


def _pruning(spec: StudySpec, name: str, sparsity: float, seed: int) -> PruneConfig:
    """Without a scope and an allocation, methods that do not look at text rank the weights globally."""
    pattern = spec.pattern if sparsity else "unstructured"  # the dense model has none
    scope = spec.scope or (None if spec.allocation or method(name).looks_at_text else "global")
    targets = ("blocks", *spec.include)
    return PruneConfig(name, sparsity, pattern, scope, targets, seed=seed, allocation=spec.allocation)


def _training(spec: StudySpec, data: TaskData, seed: int) -> TrainingConfig:
    settings = spec.training.model_dump(exclude={"limit", "text_limit"})
    return TrainingConfig(**settings, limit=_limit(data, spec.training.limit, spec.training.text_limit), seed=seed)


def _limit(data: TaskData, examples: int | None, windows: int | None) -> int | None:
    return {"examples": examples, "windows": windows}[data.task.kind.unit]
