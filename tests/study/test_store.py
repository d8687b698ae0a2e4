"""The store keeps what is finished and refuses what it can't read."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from aerogel import progress
from aerogel.analysis import inspect
from aerogel.benchmark import BenchConfig, environment
from aerogel.errors import StudyError
from aerogel.models import load_model
from aerogel.study import Store, parse_spec
from aerogel.study.results import Done, Failed, Machine
from aerogel.study.run import study_lock
from aerogel.study.source import STORE
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, WeightAnalysis
from aerogel.training import Recovery, TrainingConfig

SPEC = parse_spec({"name": "x", "models": ["a", "b", "c"]})
TRIALS: list[Trial] = [WeightAnalysis(model=model) for model in SPEC.models]
MACHINE = Machine(**environment())
DONE = Done(inspect(load_model("tiny-gpt2"), "tiny-gpt2"), MACHINE, 1.5)
FAILED = Failed("it broke", 0.1)


def test_results_come_back_and_failures_stay_open(tmp_path: Path) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    assert store.open_trials() == TRIALS
    store.finish(TRIALS[0], DONE)
    store.finish(TRIALS[1], FAILED)
    again = Store.open(tmp_path)
    assert again.outcomes() == [(TRIALS[0], DONE), (TRIALS[1], FAILED)]
    assert again.open_trials() == TRIALS[1:]
    assert again.spec() == SPEC


def test_creating_again_keeps_results_and_follows_the_new_list(tmp_path: Path) -> None:
    Store.create(tmp_path, SPEC, TRIALS).finish(TRIALS[2], DONE)
    store = Store.create(tmp_path, SPEC, [TRIALS[2], TRIALS[0]])
    assert store.count() == 2
    assert store.open_trials() == [TRIALS[0]]
    assert store.outcomes() == [(TRIALS[2], DONE)]


def test_reopened_trials_run_again_and_the_others_do_not(tmp_path: Path) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    for trial in TRIALS:
        store.finish(trial, DONE)
    store.reopen([TRIALS[1]])
    assert store.open_trials() == [TRIALS[1]]
    assert store.outcomes() == [(TRIALS[0], DONE), (TRIALS[2], DONE)]


def test_another_study_does_not_go_into_the_folder(tmp_path: Path) -> None:
    Store.create(tmp_path, SPEC, TRIALS)
    with pytest.raises(StudyError, match="'x'"):
        Store.create(tmp_path, parse_spec({"name": "y", "models": ["a"]}), TRIALS)


def test_a_folder_without_a_store_or_with_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"study\.sqlite"):
        Store.open(tmp_path)
    (tmp_path / STORE).write_bytes(b"SQLite format 3\0" + bytes(200))
    with pytest.raises(StudyError, match=r"study\.sqlite"):
        Store.open(tmp_path)
    (tmp_path / STORE).unlink()
    Store.create(tmp_path, SPEC, TRIALS)
    for other in (1, 99):
        sql(tmp_path, f"pragma user_version = {other}")
        with pytest.raises(StudyError, match=f"format {other}.* 2"):
            Store.open(tmp_path)
    (tmp_path / STORE).write_bytes(b"")  # what an interrupt leaves that comes before the first transaction
    assert Store.create(tmp_path, SPEC, TRIALS).count() == len(TRIALS)


def sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / STORE)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("delete from study", "specification"),
        ("update study set spec = '{'", "specification"),
        ("update study set spec = json_set(spec, '$.newfield', 1)", "newfield"),
        ("update study set spec = json_set(spec, '$.models', json('[\"a\"]'))", "model 'b'"),
        ("update trials set trial = '{' where place = 1", "trial 1"),
        ("update trials set trial = x'ff' where place = 1", "trial 1"),
        ("update trials set trial = json_set(trial, '$.newfield', 1) where place = 1", "newfield"),
        ("update trials set trial = json_set(trial, '$.model', 7) where place = 1", "model"),
        ("update trials set trial = json_set(trial, '$.kind', 'scoring') where place = 1", "task"),
        ("update trials set trial = json_set(trial, '$.kind', 'unheard') where place = 1", "unheard"),
        ("update trials set result = '[]' where place = 0", "trial a, weights"),
        ("update trials set status = 'fine' where place = 0", "trial a, weights"),
        ("update trials set status = 'failed' where place = 0", "error"),
        ("update trials set result = json_set(result, '$.status', 'fine') where place = 0", "status"),
        ("update trials set result = json_set(result, '$.result', json('{}')) where place = 0", "result.model"),
        ("update trials set result = json_set(result, '$.result.unheard', 1) where place = 0", "result.unheard"),
        ("update trials set result = json_set(result, '$.result.whole.mean', null) where place = 0", "mean"),
        ("update trials set result = json_set(result, '$.result.whole.count', -1) where place = 0", "count"),
        ("update trials set result = json_set(result, '$.result.span', json('[1]')) where place = 0", "span"),
        ("update trials set result = json_set(result, '$.machine.cores', 'two') where place = 0", "cores"),
        ("update trials set result = json_set(result, '$.seconds', -1) where place = 0", "seconds"),
        ("drop table study", "study"),
    ],
)
def test_content_that_is_not_as_expected_is_refused_by_name(tmp_path: Path, statement: str, named: str) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    store.finish(TRIALS[0], DONE)
    sql(tmp_path, statement)

    def read() -> None:
        again = Store.open(tmp_path)
        again.spec()
        again.outcomes()
        again.open_trials()

    with pytest.raises(StudyError) as raised:
        read()
    assert named in str(raised.value)
    assert str(store.path) in str(raised.value)
    assert "\n" not in str(raised.value)


KINDS: dict[str, Trial] = {
    "weights": TRIALS[0],
    "sensitivity": SensitivityAnalysis(model="a", task="t", data="d"),
    "scoring": Scoring(model="a", task="t", data="d", training=TrainingConfig(), recovery=Recovery()),
    "benchmark": Benchmark(model="a", config=BenchConfig()),
}


def outcome(result: object) -> dict:
    return {"result": result, "machine": asdict(MACHINE), "seconds": 1.0}


def test_the_result_of_another_kind_of_trial_is_refused() -> None:
    text = json.dumps(asdict(DONE))
    assert KINDS["weights"].read_outcome("done", text) == DONE
    for kind in ("scoring", "benchmark", "sensitivity"):
        with pytest.raises(ValueError, match="result"):
            KINDS[kind].read_outcome("done", text)


SCORING = {
    "score": {
        "task": "t",
        "metrics": {"accuracy": 0.5},
        "counts": {"examples": 2},
        "baselines": {"majority": 1.0},
        "predictions": [0, 1],
        "references": [0, 0],
        "logits": [[1.0, 0.0], [0.0, 1.0]],
    },
    "training": {"seconds": 1.5, "steps": 3, "losses": [0.1], "validation": [], "kept": {}, "source": ""},
    "dense_seconds": None,
    "sparsity": 0.5,
    "model_sparsity": 0.25,
    "layers": {"a.weight": 0.5},
    "parameters": 10,
    "source": "a file",
}
MEASUREMENT = {
    "name": "a",
    "latencies": [0.5, 0.25],
    "training_steps": [1.5],
    "inference_memory": 100,
    "training_memory": None,
    "parameter_bytes": 10,
    "file_bytes": 12,
    "batch_size": 2,
    "compressed": False,
}
BENCHMARK = {"dense": MEASUREMENT, "pruned": MEASUREMENT, "compressed": MEASUREMENT | {"compressed": True}}
SENSITIVITY = {
    "model": "a",
    "method": "magnitude",
    "text": "t",
    "sparsities": [0.5],
    "layers": [["layer 0", [0.1]]],
    "kinds": [["query", [0.1]]],
}
GOOD = {"scoring": SCORING, "benchmark": BENCHMARK, "sensitivity": SENSITIVITY}


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("scoring", {"score.metrics": None}, "metrics"),
        ("scoring", {"score.metrics": {}}, "metrics"),
        ("scoring", {"score.metrics": {"accuracy": float("inf")}}, "metrics.accuracy"),
        ("scoring", {"score.metrics": {"accuracy": None}}, "metrics.accuracy"),
        ("scoring", {"score.predictions": []}, "predictions"),
        ("scoring", {"score.predictions": [[0], [1]]}, "predictions.0"),
        ("scoring", {"score.references": [0]}, "references"),
        ("scoring", {"score.counts": {"examples": 0}}, "counts"),
        ("scoring", {"score.metrics": {"unheard": 0.5}}, "unheard"),
        ("scoring", {"score.logits": [[1.0], [0.0, 1.0]]}, "logits"),
        ("scoring", {"score.logits": [[], []]}, "logits"),
        ("scoring", {"layers": {"a.weight": 2.0}}, "layers.a.weight"),
        ("scoring", {"training.steps": 10**400}, "training.steps"),
        ("scoring", {"training.seconds": -1.0}, "training.seconds"),
        ("scoring", {"unheard": 1}, "unheard"),
        ("benchmark", {"dense": None}, "dense"),
        ("benchmark", {"dense.latencies": [0.0, 0.1]}, "seconds"),
        ("benchmark", {"dense.compressed": True}, "compressed"),
        ("benchmark", {"compressed.compressed": False}, "compressed"),
        ("benchmark", {"pruned.latencies": [0.5]}, "latencies"),
        ("benchmark", {"pruned.file_bytes": 0}, "file_bytes"),
        ("sensitivity", {"sparsities": []}, "sparsity"),
        ("sensitivity", {"layers": [["layer 0", [0.1, 0.2]]]}, "sparsities"),
    ],
)
def test_results_are_checked_field_by_field(kind: str, changes: dict, named: str) -> None:
    result = json.loads(json.dumps(GOOD[kind]))
    KINDS[kind].read_outcome("done", json.dumps(outcome(result)))
    for path, value in changes.items():
        *parents, name = path.split(".")
        part = result
        for parent in parents:
            part = part[parent]
        part[name] = value
    with pytest.raises(ValueError, match=named):
        KINDS[kind].read_outcome("done", json.dumps(outcome(result)))


def test_a_metric_may_be_nan() -> None:
    score = SCORING["score"] | {"metrics": {"perplexity": float("nan")}}
    KINDS["scoring"].read_outcome("done", json.dumps(outcome(SCORING | {"score": score})))


@pytest.mark.parametrize("how", ["immediate", "exclusive"])
def test_a_locked_store_is_waited_for(tmp_path: Path, how: str) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    messages = []
    with closing(sqlite3.connect(tmp_path / STORE, isolation_level=None)) as other:
        other.execute(f"begin {how}")

        def release(doing: str, done: int, total: int) -> None:
            messages.append(doing)
            other.execute("commit")

        with progress.listening(release):
            store.finish(TRIALS[0], DONE)
    assert len(messages) == 1
    assert str(store.path) in messages[0]
    assert store.outcomes() == [(TRIALS[0], DONE)]


def test_a_store_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    monkeypatch.setattr("aerogel.study.store.PATIENCE", 0.1)
    with closing(sqlite3.connect(tmp_path / STORE, isolation_level=None)) as other:
        other.execute("begin exclusive")
        for work in (lambda: store.finish(TRIALS[0], DONE), store.outcomes, lambda: Store.open(tmp_path)):
            with pytest.raises(StudyError, match="locked"):
                work()
    assert store.outcomes() == []


def test_a_study_that_is_running_is_refused_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    with study_lock(tmp_path):
        with pytest.raises(StudyError, match=f"process {os.getpid()}"), study_lock(tmp_path):
            pass
        with study_lock(tmp_path / "other"):
            pass
    script = "import os; from pathlib import Path; from aerogel.study.run import study_lock\n"
    script += f"with study_lock(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with study_lock(tmp_path):
        assert f"process {os.getpid()}," in (tmp_path / "study.lock").read_text()
