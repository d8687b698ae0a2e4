"""From a specification to its trials."""

from collections.abc import Iterator, Mapping

from aerogel.benchmark import BenchConfig
from aerogel.models.location import folder_files
from aerogel.pruning import UNSTRUCTURED, PruneConfig, method
from aerogel.runtime.values import VALUE_TYPES, ValueChoice
from aerogel.structure import StructureConfig
from aerogel.study.parts import NO_STRUCTURE, VariantPart
from aerogel.study.spec import StudySpec
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, WeightAnalysis
from aerogel.study.variant import VALUES
from aerogel.tasks import TaskData
from aerogel.training import GradualPruning, Recovery, TrainingConfig
from aerogel.training.recovery import SELF


def plan(spec: StudySpec, data: Mapping[str, TaskData]) -> list[Trial]:
    """All trials of a study, in the order to run them: analyses, scores, benchmarks.

    Scores of the dense models come first: other trials start from the dense model, and would wait for each other. Then
    come those that train, which take longest, so that no process is left with one at the end.
    """
    files = {model: folder_files(model) for model in spec.models}
    trials: list[Trial] = [WeightAnalysis(model=model, files=files[model]) for model in spec.models]
    if spec.sensitivity:
        digest = data[spec.sensitivity].digest
        trials += [
            SensitivityAnalysis(model=model, files=files[model], task=spec.sensitivity, data=digest)
            for model in spec.models
        ]
    scores = [
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
        for recovery, values in _scored(spec, seed)
    ]
    scores.sort(key=_turn)
    trials += scores
    if spec.benchmark:
        config = BenchConfig(**spec.benchmark.model_dump())
        trials += [
            Benchmark(
                model=model, files=files[model], config=config, pruning=pruning, values=values, structure=structure
            )
            for model in spec.models
            for pruning, values, structure in _measured(spec, spec.seeds[0])
        ]
    return trials


def _turn(trial: Scoring) -> int:
    """Dense models first, then those that are trained after or while they are pruned."""
    if trial.is_dense:
        return 0
    return 2 if trial.recovery.epochs == 0 else 1


def _scored(spec: StudySpec, seed: int) -> list[tuple[Recovery, ValueChoice | None]]:
    """The recovery and the values of each variant at each sparsity. Shared dense models are listed once."""
    dense = [(Recovery(None, finetune_first=True, epochs=0.0), None)] if spec.variants else []
    settings = [
        (_recovery(spec, part, sparsity, structure, seed), values)
        for part, sparsity, structure, values in _combinations(spec, seed)
    ]
    return list(dict.fromkeys([*dense, *settings]))


def _measured(
    spec: StudySpec, seed: int
) -> list[tuple[PruneConfig | None, ValueChoice | None, StructureConfig | None]]:
    """The pruning, values and structure of each model to measure, each once."""
    dense = [(None, None, None)] if spec.variants else []
    settings = [
        (
            _pruning(spec, part, spec.measured_method(part.method), sparsity, seed) if sparsity else None,
            values,
            structure,
        )
        for part, sparsity, structure, values in _combinations(spec, seed)
    ]
    return list(dict.fromkeys([*dense, *settings]))


def _combinations(
    spec: StudySpec, seed: int
) -> Iterator[tuple[VariantPart, float, StructureConfig | None, ValueChoice | None]]:
    """Each variant at each of its sparsities, with the structure and the values that it has there."""
    for part in spec.parts:
        for sparsity in spec.part_sparsities(part):
            for structure in _structures(part, sparsity, seed):
                for values in _values(part, sparsity):
                    yield part, sparsity, structure, values


def _recovery(
    spec: StudySpec, part: VariantPart, sparsity: float, structure: StructureConfig | None, seed: int
) -> Recovery:
    """How one variant is pruned to one sparsity and recovered; the method of "gradual" is that of `[recovery]`."""
    epochs, name = spec.recovery.epochs, part.method or spec.recovery.score
    if part.recovery == "gradual":
        gradual = GradualPruning(_pruning(spec, part, name, sparsity, seed))
        return Recovery(gradual, SELF, True, epochs, structure=structure)
    pruning = _pruning(spec, part, name, sparsity, seed) if sparsity else None
    if part.recovery is None:
        return Recovery(pruning, structure=structure)
    return Recovery(
        pruning, finetune_first=True, epochs=epochs if part.recovery == "finetune" else 0.0, structure=structure
    )


def _structures(part: VariantPart, sparsity: float, seed: int) -> list[StructureConfig | None]:
    """At sparsity 0 also `None`, for the dense model that the others are compared with."""
    if part.structure == NO_STRUCTURE:
        return [None]
    own = StructureConfig.parse(part.structure, seed)
    return [own] if sparsity else [None, own]


def _values(part: VariantPart, sparsity: float) -> list[ValueChoice | None]:
    """At sparsity 0, float32, and also the integer type of the variant: without zeros, no floats are packed."""
    own = VALUES[part.values]
    if sparsity:
        return [own]
    return [None] if VALUE_TYPES[part.values].is_float else [None, own]


def _pruning(spec: StudySpec, part: VariantPart, name: str, sparsity: float, seed: int) -> PruneConfig:
    """Without a scope and an allocation, methods that use only the weights rank them globally."""
    pattern = (part.pattern or spec.pattern) if sparsity else UNSTRUCTURED  # the dense model has none
    scope = spec.scope or (None if spec.allocation or method(name).looks_at_text else "global")
    targets = ("blocks", *spec.include)
    return PruneConfig(name, sparsity, pattern, scope, targets, seed=seed, allocation=spec.allocation)


def _training(spec: StudySpec, data: TaskData, seed: int) -> TrainingConfig:
    settings = spec.training.model_dump(exclude={"limit", "text_limit"})
    return TrainingConfig(**settings, limit=_limit(data, spec.training.limit, spec.training.text_limit), seed=seed)


def _limit(data: TaskData, examples: int | None, windows: int | None) -> int | None:
    return {"examples": examples, "windows": windows}[data.task.kind.unit]
