"""Reads the store of a study into rows of findings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch

from aerogel.analysis import WeightReport
from aerogel.benchmark import Measurement
from aerogel.errors import StudyError
from aerogel.evaluation import Flips
from aerogel.models.logits import kl_divergence
from aerogel.pruning import Sensitivity
from aerogel.report.estimate import Estimate
from aerogel.report.findings import Cost, Findings, Group, Realised, Run, Scored, mean_kept
from aerogel.study import Store
from aerogel.study.results import BenchmarkResult, Done, Failed, Machine, Outcome, ScoringResult
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, WeightAnalysis
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS

SMALLEST = 1e-300  # instead of a metric that is 0, to divide by
Predicted = tuple[int | float | str, ...]


def collect(store: Store) -> Findings:
    """Reads everything from the store, once."""
    outcomes = store.outcomes()
    done = [(trial, outcome) for trial, outcome in outcomes if isinstance(outcome, Done)]
    failed = defaultdict(list)
    for trial, outcome in outcomes:
        if isinstance(outcome, Failed):
            failed[outcome.error].append(trial.label)
    ended = {trial.key for trial, _ in outcomes}
    runs = [Run(trial, result) for trial, result in _results(done, Scoring, ScoringResult)]
    _check_comparable(store, runs)
    groups = _groups(runs)
    weights = {trial.model: report for trial, report in _results(done, WeightAnalysis, WeightReport)}
    benchmarks = _results(done, Benchmark, BenchmarkResult)
    threads = defaultdict(set)
    for trial, outcome in done:
        threads[trial.kind].add(outcome.machine.threads)
    sources: dict[str, list[str]] = defaultdict(list)
    for task, source in dict.fromkeys((run.trial.task, run.result.source) for run in runs):
        sources[task].append(source)
    return Findings(
        spec=store.spec(),
        total=store.count(),
        done=len(done),
        failed=dict(failed),
        open=[trial.label for trial in store.open_trials() if trial.key not in ended],
        weights=weights,
        sensitivities={trial.model: table for trial, table in _results(done, SensitivityAnalysis, Sensitivity)},
        runs=runs,
        scores=[_scored(groups, group) for group in groups],
        costs=[_cost(trial, result, result.pruned or result.dense) for trial, result in benchmarks if not trial.values],
        compressed=[_cost(trial, result, result.compressed) for trial, result in benchmarks if result.compressed],
        realised=_realised(runs),
        sources=dict(sources),
        machines=_machines(outcome for _, outcome in outcomes),
        threads={kind: sorted(numbers) for kind, numbers in threads.items()},
    )


Kind = TypeVar("Kind", bound=Trial)
Result = TypeVar("Result")


def _results(
    done: Iterable[tuple[Trial, Done[Any]]], kind: type[Kind], result: type[Result]
) -> list[tuple[Kind, Result]]:
    """The trials of one kind, with their results."""
    return [
        (trial, outcome.result)
        for trial, outcome in done
        if isinstance(trial, kind) and isinstance(outcome.result, result)
    ]


def _check_comparable(store: Store, runs: list[Run]) -> None:
    """Raises `StudyError` for scores of one model on one task with different metrics, examples or classes."""
    firsts: dict[tuple[str, str], Run] = {}
    for run in runs:
        first = firsts.setdefault((run.trial.model, run.trial.task), run)
        scores = run.result.score, first.result.score
        if scores[0].metrics.keys() != scores[1].metrics.keys():
            problem = "different metrics"
        elif len({len(score.predictions) for score in scores}) > 1:
            problem = "a different number of predictions"
        elif len({len(score.logits[0]) for score in scores if score.logits}) > 1:
            problem = "a different number of classes"
        else:
            continue
        raise StudyError(f"{store.path}: trial {run.trial.label} has {problem} than trial {first.trial.label}")


Groups = Mapping[Group, dict[int, Run]]


def _groups(runs: list[Run]) -> Groups:
    groups: dict[Group, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.group][run.seed] = run
    return groups


def _scored(groups: Groups, group: Group) -> Scored:
    """The scores of a group, compared with the dense model of the same training, or else with the fine-tuned one."""
    task, model, variant, sparsity = group
    alike, fine_tuned = ((task, model, known, 0.0) for known in (variant.dense, variant.fine_tuned))
    reference = alike if alike in groups else fine_tuned
    runs = groups[group]
    references = groups.get(reference, {}) if group != reference else {}
    # models of the same seed have the same start and see the same data in the same order
    pairs = [(run, references[seed]) for seed, run in runs.items() if seed in references]
    scores = [(run.result.score, before.result.score) for run, before in pairs]
    first = next(iter(runs.values()))
    main, score = next(iter(first.metrics)), first.result.score
    unit, counted = next(iter(score.counts.items()))
    dense_seconds = [run.result.dense_seconds for run in runs.values() if run.result.dense_seconds is not None]
    return Scored(
        task=task,
        model=model,
        variant=variant,
        sparsity=sparsity,
        seeds=tuple(runs),
        metrics={name: Estimate.of(run.metrics[name] for run in runs.values()) for name in first.metrics},
        kept=_kept(main, [(run.metrics[main], before.metrics[main]) for run, before in pairs]),
        agreement=_agreement([(after.predictions, before.predictions) for after, before in scores]),
        training_seconds=Estimate.of(run.result.training.seconds for run in runs.values()),
        dense_seconds=Estimate.of(dense_seconds) if dense_seconds else None,
        one_answer=sum(len(set(run.result.score.predictions)) == 1 for run in runs.values()),
        counted=counted,
        unit=unit,
        majority=score.baselines.get("majority"),
        kl=_divergence([(after.logits, before.logits) for after, before in scores]),
        flips=tuple(
            Flips.of(*map(np.array, (after.predictions, before.predictions, after.references)))
            for after, before in scores
            if after.references
        ),
    )


def _kept(metric: str, pairs: list[tuple[float, float]]) -> Estimate | None:
    """The score kept, relative to the mean of the dense seeds, so that one dense seed near 0 does not dominate."""
    level = sum(before for _, before in pairs) / max(len(pairs), 1)
    if not level > 0:
        return None
    if METRICS[metric].higher_is_better:
        return Estimate.of(1 + (after - before) / level for after, before in pairs)
    return Estimate.of(before / max(after, SMALLEST) for after, before in pairs)


def _agreement(pairs: list[tuple[Predicted, Predicted]]) -> Estimate | None:
    if not pairs or any(not isinstance(value, str) and value % 1 for predictions in pairs[0] for value in predictions):
        return None  # predicted numbers, not classes, are never quite equal
    return Estimate.of(
        sum(own == other for own, other in zip(after, before, strict=True)) / len(before) for after, before in pairs
    )


def _divergence(pairs: list[tuple[Any, Any]]) -> Estimate | None:
    if not pairs or not all(after and before for after, before in pairs):
        return None
    return Estimate.of(
        float(kl_divergence(torch.tensor(before), torch.tensor(after)).mean()) for after, before in pairs
    )


def _cost(trial: Benchmark, result: BenchmarkResult, own: Measurement) -> Cost:
    return Cost(trial.model, trial.variant, trial.sparsity, own, None if own is result.dense else result.dense)


def _realised(runs: list[Run]) -> list[Realised]:
    groups: dict[tuple[str, Variant, float], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.trial.model, run.trial.variant, run.trial.sparsity].append(run)
    return [
        Realised(
            model,
            variant,
            sparsity,
            prunable=fmean(run.result.sparsity for run in members),
            whole=fmean(run.result.model_sparsity for run in members),
            parameters=fmean(run.result.parameters for run in members),
            structure=mean_kept(run.result.structure for run in members),
        )
        for (model, variant, sparsity), members in groups.items()
    ]


def _machines(outcomes: Iterable[Outcome]) -> list[tuple[Machine, int]]:
    """Each different machine, apart from its threads, and how many trials ran on it."""
    machines = [replace(outcome.machine, threads=0) for outcome in outcomes if outcome.machine]
    counts = Counter(map(repr, machines))
    return [(machine, counts[text]) for text, machine in {repr(machine): machine for machine in machines}.items()]
