from __future__ import annotations

import json
import sqlite3
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aerogel.report import build
from aerogel.report.collect import Findings, collect, is_perplexity, weight_report
from aerogel.study import Result, Store, Trial

Results = list[tuple[Trial, Result]]


@pytest.fixture(scope="module")
def results(finished: Path) -> Results:
    return Store.open(finished).results()


def runs_of(results: Results, task: str, model: str, sparsity: float) -> dict[int, dict]:
    return {
        trial.training.seed: result.values
        for trial, result in results
        if trial.kind == "score"
        and trial.training
        and (trial.task, trial.model, trial.sparsity) == (task, model, sparsity)
    }


def test_every_score_is_the_mean_of_the_stores(findings: Findings, results: Results) -> None:
    spec = findings.spec
    assert len(findings.scores) == len(spec.models) * len(spec.tasks) * len(spec.sparsities)
    for row in findings.scores:
        runs = runs_of(results, row.task, row.model, row.sparsity)
        assert row.seeds == tuple(runs) == spec.seeds
        for name, estimate in row.metrics.items():
            assert estimate.values == tuple(values["metrics"][name] for values in runs.values())
            assert estimate.mean == pytest.approx(statistics.mean(estimate.values))
        assert row.training_seconds.values == tuple(values["training_seconds"] for values in runs.values())


def test_changes_and_agreement_are_against_the_dense_model_of_the_same_seed(
    findings: Findings, results: Results
) -> None:
    for row in findings.scores:
        if not row.sparsity:
            assert row.change is None
            assert row.agreement is None
            continue
        runs, dense = (runs_of(results, row.task, row.model, sparsity) for sparsity in (row.sparsity, 0.0))
        before = [dense[seed]["metrics"][row.main] for seed in runs]
        after = [values["metrics"][row.main] for values in runs.values()]
        assert row.change is not None
        assert row.agreement is not None
        assert row.change.mean == pytest.approx(statistics.mean(after) / statistics.mean(before) - 1)
        for seed, share in zip(runs, row.agreement.values, strict=True):
            pairs = list(zip(runs[seed]["predictions"], dense[seed]["predictions"], strict=True))
            assert share == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))


def test_a_task_has_one_main_metric_a_kind_of_model(findings: Findings) -> None:
    mains = {(row.task, row.model): row.main for row in findings.scores}
    assert mains["movie-reviews", "tiny-gpt2"] == "accuracy"
    assert mains["python-reference", "tiny-gpt2"] == "perplexity"
    assert mains["python-reference", "tiny-bart"] == "denoising_perplexity"
    assert [is_perplexity(name) for name in ("accuracy", "perplexity")] == [False, True]


def test_costs_are_those_of_the_store(findings: Findings, results: Results) -> None:
    stored = [(trial, result.values["measurements"]) for trial, result in results if trial.kind == "bench"]
    assert len(findings.costs) == len(stored)
    assert len(findings.compressed) == sum(trial.pruning is not None for trial, _ in stored)
    entries = [
        (trial, entry, measured[0] if trial.pruning else None)
        for trial, measured in stored
        for entry in measured[bool(trial.pruning) :]
    ]
    for compressed, costs in ((False, findings.costs), (True, findings.compressed)):
        expected = [found for found in entries if found[1]["compressed"] == compressed]
        for cost, (trial, entry, dense) in zip(costs, expected, strict=True):
            assert (cost.model, cost.sparsity) == (trial.model, trial.sparsity)
            assert cost.own.file_bytes == entry["file_bytes"]
            assert list(cost.own.latencies) == entry["latencies"]
            if dense:
                ratio = statistics.median(dense["latencies"]) / statistics.median(entry["latencies"])
                assert cost.speedup == pytest.approx(ratio)
                assert min(cost.speedups) <= max(cost.speedups)
            else:
                assert cost.dense is None
                assert cost.speedup is None
                assert cost.speedups == ()


def test_realised_sparsity_is_that_after_training(findings: Findings) -> None:
    for row in findings.realised:
        if row.sparsity:
            assert row.prunable == pytest.approx(row.sparsity, abs=1e-5)
            assert row.whole < row.prunable
        layers = findings.weights[row.model].layers
        assert list(row.layers) == [layer.name for layer in layers]
        weighted = sum(row.layers[layer.name] * layer.count for layer in layers) / sum(layer.count for layer in layers)
        assert weighted == pytest.approx(row.prunable, abs=1e-9)


def test_weight_reports_come_back_as_they_were(findings: Findings) -> None:
    for report in findings.weights.values():
        assert weight_report(json.loads(json.dumps(report.to_dict()))) == report


def test_predicted_numbers_have_no_agreement(changed: Callable[..., Path]) -> None:
    def number(connection: sqlite3.Connection) -> None:
        for key, text in connection.execute("select key, result from trials").fetchall():
            result = json.loads(text)
            if "predictions" in result["values"]:
                result["values"]["predictions"] = [0.25 + place for place in result["values"]["predictions"]]
                connection.execute("update trials set result = ? where key = ?", [json.dumps(result), key])

    assert {row.agreement for row in collect(Store.open(changed(number))).scores} == {None}


def test_a_head_that_one_task_alone_has_is_among_its_layers(changed: Callable[..., Path]) -> None:
    def add(connection: sqlite3.Connection) -> None:
        connection.execute(
            """update trials set result = json_set(result, '$.values.layers.score', 0.75)
            where trial ->> 'task' = 'movie-reviews' and trial ->> '$.pruning.sparsity' = 0.9"""
        )

    folder = changed(add)
    rows = [row for row in collect(Store.open(folder)).realised if row.sparsity]
    assert [row.layers.get("score") for row in rows] == [{0.5: None, 0.9: 0.75}[row.sparsity] for row in rows]
    assert '<th scope="row">score</th>' in build(folder).read_text(encoding="utf-8")


def test_costs_of_a_model_that_was_sparse_from_the_start_are_those_of_its_pruning(
    changed: Callable[..., Path], findings: Findings
) -> None:
    """It is measured compressed as it is given, too."""

    def pack(connection: sqlite3.Connection) -> None:
        for key, text in connection.execute("select key, result from trials where trial ->> 'kind' = 'bench'"):
            result = json.loads(text)
            dense = result["values"]["measurements"][0]
            result["values"]["measurements"].insert(1, {**dense, "compressed": True, "file_bytes": 1})
            connection.execute("update trials set result = ? where key = ?", [json.dumps(result), key])

    folder = changed(pack)
    found = collect(Store.open(folder))
    assert (found.costs, found.compressed) == (findings.costs, findings.compressed)
    with closing(sqlite3.connect(Store.open(folder).path)) as connection, connection:
        connection.execute(
            "delete from trials where trial ->> 'kind' = 'bench' and trial ->> '$.pruning.sparsity' is not null"
        )
    assert not collect(Store.open(folder)).compressed
    build(folder)


def test_different_machines_are_told_apart(changed: Callable[..., Path]) -> None:
    def move(connection: sqlite3.Connection) -> None:
        connection.execute(
            """update trials set result = json_set(result, '$.environment.cores', 999) where place < 2"""
        )

    machines = collect(Store.open(changed(move))).machines
    assert len(machines) == 2
    assert [count for machine, count in machines if machine["cores"] == 999] == [2]
