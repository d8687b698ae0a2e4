"""From the store to tidy rows: what was scored and what was measured, by model, way and sparsity."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, dropwhile
from statistics import fmean
from typing import Any

import numpy as np
import torch

from aerogel.analysis import WeightReport, WeightStatistics
from aerogel.benchmark import Measurement
from aerogel.errors import StudyError
from aerogel.evaluation import Flips
from aerogel.models.logits import kl_divergence
from aerogel.pruning import Sensitivity
from aerogel.report.estimate import Estimate
from aerogel.report.variant import Variant, variant_of
from aerogel.study import Result, Store, StudySpec, Trial
from aerogel.study.values import COUNTS
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES


@dataclass(frozen=True)
class Scored:
    """A model fine-tuned and scored on one task at one sparsity, over seeds.

    `metrics` has the main one first. `change` is that of the main metric against the dense model trained alike with
    the same seeds, as a share of the dense mean; `agreement` the share of predictions equal to that model's; both are
    `None` where there is no such model, or no meaning. For classes `kl` is the mean KL divergence of the answers from
    that model's, in nats, and `flips` has the answers of each seed that changed. `one_answer` counts the seeds whose
    model answers everything alike, `counted` is the number of examples or tokens scored, and `majority` the share of
    the commonest class among them, where there are classes. `training_seconds` are those of the recovery where it
    follows `dense_seconds` of training.
    """

    task: str
    model: str
    way: Variant
    sparsity: float
    seeds: tuple[int, ...]
    metrics: dict[str, Estimate]
    change: Estimate | None
    agreement: Estimate | None
    training_seconds: Estimate
    one_answer: int
    counted: float
    dense_seconds: Estimate | None = None
    majority: float | None = None
    kl: Estimate | None = None
    flips: tuple[Flips, ...] = ()

    @property
    def main(self) -> str:
        return next(iter(self.metrics))

    @property
    def value(self) -> Estimate:
        return self.metrics[self.main]


@dataclass(frozen=True)
class Cost:
    """What one model costs at one sparsity, stored dense or compressed, beside the dense model, round by round."""

    model: str
    way: Variant
    sparsity: float
    own: Measurement
    dense: Measurement | None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the dense model: the ratio of median latencies."""
        return self.dense.median / self.own.median if self.dense else None

    @property
    def speedups(self) -> tuple[float, ...]:
        """The same, round by round."""
        if self.dense is None:
            return ()
        return tuple(dense / own for dense, own in zip(self.dense.latencies, self.own.latencies, strict=True))


@dataclass(frozen=True)
class Realised:
    """The zeros counted after training, means over tasks and seeds.

    `prunable` and `whole` are shares of the prunable and of all weights; `layers` has one share a layer, or matrix
    outside one, and is empty where the model's weights were not described.
    """

    model: str
    way: Variant
    sparsity: float
    prunable: float
    whole: float
    layers: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One score trial as it is: for the table of every seed."""

    trial: Trial
    values: dict[str, Any]

    @property
    def group(self) -> tuple[str, str, Variant, float]:
        return str(self.trial.task), self.trial.model, variant_of(self.trial), self.trial.sparsity

    @property
    def seed(self) -> int:
        return self.trial.training.seed if self.trial.training else 0


@dataclass(frozen=True)
class Findings:
    """All that the report shows. `failed` and `open` are the trials' labels, failed ones by their error.

    `costs` are of models stored dense, zeros and all; `compressed` of the same where compressing packs something.
    """

    spec: StudySpec
    total: int
    done: int
    failed: dict[str, list[str]]
    open: list[str]
    weights: dict[str, WeightReport]
    sensitivities: dict[str, Sensitivity]
    runs: list[Run]
    scores: list[Scored]
    costs: list[Cost]
    compressed: list[Cost]
    realised: list[Realised]
    sources: dict[str, list[str]]
    machines: list[tuple[dict[str, Any], int]]
    threads: dict[str, list[int]]


def collect(store: Store) -> Findings:
    """Reads everything from the store, once."""
    spec, results = store.spec(), store.results()
    done = [(trial, result) for trial, result in results if result.status == "done"]
    failed = defaultdict(list)
    for trial, result in results:
        if result.status == "failed":
            failed[result.error or "no error was recorded"].append(trial.label)
    ran = {trial.key for trial, _ in results}
    runs = [Run(trial, result.values) for trial, result in done if trial.kind == "score"]
    _check_comparable(store, runs)
    costs = [cost for trial, result in done if trial.kind == "bench" for cost in _costs(trial, result)]
    weights = {
        trial.model: weight_report(result.values["weights"]) for trial, result in done if trial.kind == "inspect"
    }
    threads = defaultdict(set)
    sources: dict[str, dict[str, None]] = defaultdict(dict)
    for trial, result in done:
        threads[trial.kind].add(result.environment["threads"])
    for run in runs:
        sources[str(run.trial.task)][run.values["source"]] = None
    return Findings(
        spec=spec,
        total=store.count(),
        done=len(done),
        failed=dict(failed),
        open=[trial.label for trial in store.open_trials() if trial.key not in ran],
        weights=weights,
        sensitivities={
            trial.model: Sensitivity.from_dict(result.values["sensitivity"])
            for trial, result in done
            if trial.kind == "sensitivity"
        },
        runs=runs,
        scores=_scores(runs),
        costs=[cost for cost in costs if not cost.own.compressed],
        compressed=[cost for cost in costs if cost.own.compressed],
        realised=_realised(runs, weights),
        sources={task: list(found) for task, found in sources.items()},
        machines=_machines(result for _, result in results),
        threads={kind: sorted(numbers) for kind, numbers in threads.items()},
    )


def _check_comparable(store: Store, runs: list[Run]) -> None:
    """Raises `StudyError` for scores of one model on one task that are not of the same metrics and examples."""
    firsts: dict[tuple[str, str | None], Run] = {}
    for run in runs:
        first = firsts.setdefault((run.trial.model, run.trial.task), run)
        if metrics_of(run.values).keys() != metrics_of(first.values).keys():
            problem = "other metrics"
        elif len(run.values["predictions"]) != len(first.values["predictions"]):
            problem = "another number of predictions"
        elif len({len(of.values["logits"][0]) for of in (run, first) if of.values.get("logits")}) > 1:
            problem = "another number of classes"
        else:
            continue
        raise StudyError(f"{store.path}: trial {run.trial.label} has {problem} than trial {first.trial.label}")


def is_perplexity(metric: str) -> bool:
    """Whether lower is better, and only a comparison of a model with itself has a meaning."""
    return metric in PERPLEXITIES.values()


def metrics_of(values: dict[str, Any]) -> dict[str, float]:
    """The metrics of a score, the main one first."""
    return {name: value for name, value in values["metrics"].items() if name not in COUNTS}


def weight_report(values: dict[str, Any]) -> WeightReport:
    """The inverse of `WeightReport.to_dict`, after a way through JSON."""

    def statistics(group: dict[str, Any]) -> WeightStatistics:
        lists = {name: tuple(group[name]) for name in ("quantiles", "histogram")}
        return WeightStatistics(**{**group, **lists})

    groups = {name: tuple(map(statistics, values[name])) for name in ("layers", "kinds", "matrices")}
    low, high = values["span"]
    return WeightReport(**{**values, **groups, "whole": statistics(values["whole"]), "span": (low, high)})


def _scores(runs: list[Run]) -> list[Scored]:
    groups: dict[tuple[str, str, Variant, float], dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        groups[run.group][run.seed] = run.values
    made = []
    for (task, model, way, sparsity), seeds in groups.items():
        dense = groups.get((task, model, way.dense, 0.0), {}) if sparsity else {}
        first = next(iter(seeds.values()))
        names = list(metrics_of(first))
        made.append(
            Scored(
                task=task,
                model=model,
                way=way,
                sparsity=sparsity,
                seeds=tuple(seeds),
                metrics={name: Estimate.of(values["metrics"][name] for values in seeds.values()) for name in names},
                change=_change(seeds, dense, names[0]),
                agreement=_agreement(seeds, dense),
                training_seconds=Estimate.of(values["training_seconds"] for values in seeds.values()),
                dense_seconds=_dense_seconds(seeds),
                one_answer=sum(len(set(values["predictions"])) == 1 for values in seeds.values()),
                counted=next((first["metrics"][name] for name in COUNTS[:2] if name in first["metrics"]), 0),
                majority=first["metrics"].get("majority"),
                kl=_divergence(seeds, dense),
                flips=_flips(seeds, dense),
            )
        )
    return made


def _dense_seconds(seeds: dict[int, Any]) -> Estimate | None:
    found = [seconds for values in seeds.values() if (seconds := values.get("dense_seconds")) is not None]
    return Estimate.of(found) if found else None


def _change(seeds: dict[int, Any], dense: dict[int, Any], metric: str) -> Estimate | None:
    """Pairs by seed: a model and its dense twin start alike and see the same data in the same order."""
    pairs = [
        (values["metrics"][metric], dense[seed]["metrics"][metric]) for seed, values in seeds.items() if seed in dense
    ]
    level = sum(before for _, before in pairs) / max(len(pairs), 1)
    if not level > 0:
        return None
    return Estimate.of((after - before) / level for after, before in pairs)


def _agreement(seeds: dict[int, Any], dense: dict[int, Any]) -> Estimate | None:
    pairs = [(values["predictions"], dense[seed]["predictions"]) for seed, values in seeds.items() if seed in dense]
    if not pairs or any(number % 1 for predictions in pairs[0] for number in predictions):
        return None  # predicted numbers, not classes, are never quite equal
    return Estimate.of(
        sum(own == other for own, other in zip(after, before, strict=True)) / len(before) for after, before in pairs
    )


def _divergence(seeds: dict[int, Any], dense: dict[int, Any]) -> Estimate | None:
    pairs = [(values.get("logits"), dense[seed].get("logits")) for seed, values in seeds.items() if seed in dense]
    if not pairs or not all(after and before for after, before in pairs):
        return None
    return Estimate.of(
        float(kl_divergence(torch.tensor(before), torch.tensor(after)).mean()) for after, before in pairs
    )


def _flips(seeds: dict[int, Any], dense: dict[int, Any]) -> tuple[Flips, ...]:
    return tuple(
        Flips.of(*(np.array(given) for given in (values["predictions"], dense[seed]["predictions"], values["true"])))
        for seed, values in seeds.items()
        if seed in dense and values.get("true")
    )


def _costs(trial: Trial, result: Result) -> list[Cost]:
    lists = ("latencies", "training_steps")
    measured = [
        Measurement(**{**values, **{name: tuple(values[name]) for name in lists}})
        for values in result.values["measurements"]
    ]
    # a model that has zeros from the start is measured compressed as well, which says nothing of the study's pruning
    if trial.pruning:
        dense, *others = measured
        measured = list(dropwhile(lambda own: own.compressed, others))
    else:
        dense, measured = None, [own for own in measured if not own.compressed]
    return [Cost(trial.model, variant_of(trial), trial.sparsity, own, dense) for own in measured]


def _realised(runs: list[Run], weights: dict[str, WeightReport]) -> list[Realised]:
    groups: dict[tuple[str, Variant, float], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.trial.model, variant_of(run.trial), run.trial.sparsity].append(run)
    made = []
    for (model, way, sparsity), members in groups.items():
        described = weights.get(model)
        layers = [_by_layer(run.values["layers"], described) for run in members] if described else [{}]
        made.append(
            Realised(
                model,
                way,
                sparsity,
                prunable=fmean(run.values["sparsity"] for run in members),
                whole=fmean(run.values["model_sparsity"] for run in members),
                layers={
                    layer: fmean(found[layer] for found in layers if layer in found)
                    for layer in dict.fromkeys(chain.from_iterable(layers))  # a head is in the models of one task alone
                },
            )
        )
    return made


def _by_layer(matrices: dict[str, float], report: WeightReport) -> dict[str, float]:
    """Adds up matrices to layers by their sizes; with a head, a model's names may have gained a prefix."""
    sizes = {matrix.name: matrix.count for matrix in report.matrices}
    zeros: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for name, sparsity in matrices.items():
        layer = next((layer.name for layer in report.layers if f".{layer.name}." in f".{name}."), name)
        size = next((size for known, size in sizes.items() if f".{name}".endswith(f".{known}")), 1)
        zeros[layer] += size * sparsity
        counts[layer] += size
    return {layer: zeros[layer] / counts[layer] for layer in zeros}


def _machines(results: Iterable[Result]) -> list[tuple[dict[str, Any], int]]:
    """Each different environment, apart from its threads, and how many trials ran in it."""
    counts: dict[str, int] = defaultdict(int)
    for result in results:
        environment = {name: value for name, value in result.environment.items() if name != "threads"}
        if environment:  # a trial whose process died leaves none
            counts[json.dumps(environment)] += 1
    return [(json.loads(text), count) for text, count in counts.items()]
