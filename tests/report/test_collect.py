from __future__ import annotations

import json
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from aerogel.errors import StudyError
from aerogel.report.collect import collect
from aerogel.report.findings import Findings
from aerogel.study import Store
from aerogel.study.results import Done, Outcome, ScoringResult
from aerogel.study.trial import Benchmark, Scoring, Trial
from aerogel.tasks import METRICS

Outcomes = list[tuple[Trial, Outcome]]


@pytest.fixture(scope="module")
def outcomes(finished: Path) -> Outcomes:
    return Store.open(finished).outcomes()


def results_of(outcomes: Outcomes, task: str, model: str, sparsity: float) -> dict[int, ScoringResult]:
    return {
        trial.training.seed: outcome.result
        for trial, outcome in outcomes
        if isinstance(trial, Scoring)
        and isinstance(outcome, Done)
        and (trial.task, trial.model, trial.sparsity) == (task, model, sparsity)
    }


def test_every_score_is_the_mean_of_the_stores(findings: Findings, outcomes: Outcomes) -> None:
    spec = findings.spec
    assert len(findings.scores) == len(spec.models) * len(spec.tasks) * len(spec.sparsities)
    for row in findings.scores:
        runs = results_of(outcomes, row.task, row.model, row.sparsity)
        assert row.seeds == tuple(runs) == spec.seeds
        for name, estimate in row.metrics.items():
            assert estimate.values == tuple(result.score.metrics[name] for result in runs.values())
            assert estimate.mean == pytest.approx(statistics.mean(estimate.values))
        assert row.training_seconds.values == tuple(result.training.seconds for result in runs.values())


def test_the_score_kept_and_agreement_are_against_the_dense_model_of_the_same_seed(
    findings: Findings, outcomes: Outcomes
) -> None:
    for row in findings.scores:
        if not row.sparsity:
            assert row.kept is None
            assert row.agreement is None
            continue
        runs, dense = (results_of(outcomes, row.task, row.model, sparsity) for sparsity in (row.sparsity, 0.0))
        before = [dense[seed].score.metrics[row.main] for seed in runs]
        after = [result.score.metrics[row.main] for result in runs.values()]
        assert row.kept is not None
        assert row.agreement is not None
        if METRICS[row.main].higher_is_better:
            expected = statistics.mean(after) / statistics.mean(before)
        else:
            expected = statistics.mean(dense / own for own, dense in zip(after, before, strict=True))
        assert row.kept.mean == pytest.approx(expected)
        for seed, share in zip(runs, row.agreement.values, strict=True):
            pairs = list(zip(runs[seed].score.predictions, dense[seed].score.predictions, strict=True))
            assert share == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))


def test_a_task_has_one_main_metric_a_kind_of_model(findings: Findings) -> None:
    mains = {(row.task, row.model): row.main for row in findings.scores}
    assert mains["movie-reviews", "tiny-gpt2"] == "accuracy"
    assert mains["python-reference", "tiny-gpt2"] == "perplexity"
    assert mains["python-reference", "tiny-bart"] == "denoising_perplexity"


def test_costs_are_those_of_the_store(findings: Findings, outcomes: Outcomes) -> None:
    benchmarks = [(trial, outcome.result) for trial, outcome in outcomes if isinstance(trial, Benchmark)]
    assert len(findings.costs) == len(benchmarks)
    for cost, (trial, result) in zip(findings.costs, benchmarks, strict=True):
        assert (cost.model, cost.sparsity) == (trial.model, trial.sparsity)
        assert (cost.own, cost.dense) == ((result.pruned, result.dense) if trial.pruning else (result.dense, None))
    packed = [(trial, result) for trial, result in benchmarks if trial.pruning]
    for cost, (trial, result) in zip(findings.compressed, packed, strict=True):
        assert (cost.model, cost.sparsity) == (trial.model, trial.sparsity)
        assert (cost.own, cost.dense) == (result.compressed, result.dense)
    for cost in (*findings.costs, *findings.compressed):
        if cost.dense:
            ratio = statistics.median(cost.dense.latencies) / statistics.median(cost.own.latencies)
            assert cost.speedup == pytest.approx(ratio)
            assert min(cost.speedups) <= max(cost.speedups)
        else:
            assert (cost.speedup, cost.speedups) == (None, ())


def test_realised_sparsity_is_that_after_training(findings: Findings) -> None:
    for row in findings.realised:
        if row.sparsity:
            assert row.prunable == pytest.approx(row.sparsity, abs=1e-5)
            assert row.whole < row.prunable


def test_predicted_numbers_have_no_agreement(changed: Callable[..., Path]) -> None:
    def number(connection: sqlite3.Connection) -> None:
        for key, text in connection.execute("select key, result from trials").fetchall():
            outcome = json.loads(text)
            if "score" in outcome["result"]:
                score = outcome["result"]["score"]
                score["predictions"] = [0.25 + prediction for prediction in score["predictions"]]
                connection.execute("update trials set result = ? where key = ?", [json.dumps(outcome), key])

    assert {row.agreement for row in collect(Store.open(changed(number))).scores} == {None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.result.score.predictions", [0]),
        ("$.result.score.logits", [[0.0, 1.0, 2.0]]),
        ("$.result.score.metrics", {"f1": 0.5}),
    ],
)
def test_scores_that_can_not_be_compared_are_refused_by_name(
    changed: Callable[..., Path], path: str, value: object
) -> None:
    trial = "trial ->> 'task' = 'movie-reviews' and trial ->> '$.recovery.pruning.sparsity' = 0.9"

    def change(connection: sqlite3.Connection) -> None:
        for key, text in connection.execute(f"select key, result from trials where {trial}").fetchall():
            count = len(json.loads(text)["result"]["score"]["predictions"])
            new = value * count if path.endswith("logits") else value
            cut = {"logits": [], "references": []} if path.endswith("predictions") else {}
            for name, values in cut.items():
                update = "update trials set result = json_set(result, ?, json(?)) where key = ?"
                connection.execute(update, [f"$.result.score.{name}", json.dumps(values), key])
            update = "update trials set result = json_set(result, ?, json(?)) where key = ?"
            connection.execute(update, [path, json.dumps(new), key])

    with pytest.raises(StudyError, match="90% magnitude, movie-reviews"):
        collect(Store.open(changed(change)))


def test_different_machines_are_told_apart(changed: Callable[..., Path]) -> None:
    def move(connection: sqlite3.Connection) -> None:
        connection.execute("""update trials set result = json_set(result, '$.machine.cores', 999) where place < 2""")

    machines = collect(Store.open(changed(move))).machines
    assert len(machines) == 2
    assert [count for machine, count in machines if machine.cores == 999] == [2]
