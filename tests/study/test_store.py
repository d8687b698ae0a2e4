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
from aerogel.benchmark import environment
from aerogel.errors import StudyError
from aerogel.models import load_model
from aerogel.study import Result, Store, Trial, parse_spec
from aerogel.study.lock import sole
from aerogel.study.source import STORE
from aerogel.study.values import check_result

SPEC = parse_spec({"name": "x", "models": ["a", "b", "c"]})
TRIALS = [Trial("inspect", model) for model in SPEC.models]
WEIGHTS = inspect(load_model("tiny-gpt2"), "tiny-gpt2").to_dict()
DONE = Result("done", json.loads(json.dumps({"weights": WEIGHTS})), environment(), 1.5)
FAILED = Result("failed", {}, {}, 0.1, "it broke")


def test_results_come_back_and_failures_stay_open(tmp_path: Path) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    assert store.open_trials() == TRIALS
    store.finish(TRIALS[0], DONE)
    store.finish(TRIALS[1], FAILED)
    again = Store.open(tmp_path)
    assert again.results() == [(TRIALS[0], DONE), (TRIALS[1], FAILED)]
    assert again.open_trials() == TRIALS[1:]
    assert again.spec() == SPEC


def test_creating_again_keeps_results_and_follows_the_new_list(tmp_path: Path) -> None:
    Store.create(tmp_path, SPEC, TRIALS).finish(TRIALS[2], DONE)
    store = Store.create(tmp_path, SPEC, [TRIALS[2], TRIALS[0]])
    assert store.count() == 2
    assert store.open_trials() == [TRIALS[0]]
    assert store.results() == [(TRIALS[2], DONE)]


def test_another_study_does_not_go_into_the_folder(tmp_path: Path) -> None:
    Store.create(tmp_path, SPEC, TRIALS)
    with pytest.raises(StudyError, match="holds the study 'x'"):
        Store.create(tmp_path, parse_spec({"name": "y", "models": ["a"]}), TRIALS)


def test_a_folder_without_a_store_or_with_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not the output of a study"):
        Store.open(tmp_path)
    (tmp_path / STORE).write_bytes(b"SQLite format 3\0" + bytes(200))
    with pytest.raises(StudyError, match="can't be read"):
        Store.open(tmp_path)
    (tmp_path / STORE).unlink()
    Store.create(tmp_path, SPEC, TRIALS)
    connection = sqlite3.connect(tmp_path / STORE)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(StudyError, match="format 99"):
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
        ("update trials set trial = json_set(trial, '$.kind', 'score') where place = 1", "task"),
        ("update trials set result = '[]' where place = 0", "trial a dense, inspect"),
        ("update trials set result = json_set(result, '$.status', 'fine') where place = 0", "trial a dense, inspect"),
        ("update trials set result = json_set(result, '$.values', json('{}')) where place = 0", "weights"),
        ("update trials set result = json_set(result, '$.values.weights.whole.mean', null) where place = 0", "mean"),
        ("update trials set result = json_set(result, '$.values.weights.span', json('[1]')) where place = 0", "span"),
        ("update trials set result = json_set(result, '$.environment.cores', 'two') where place = 0", "cores"),
        ("update trials set result = json_set(result, '$.seconds', -1) where place = 0", "seconds"),
        ("drop table study", "study"),
    ],
)
def test_content_that_is_not_as_expected_is_refused_by_name(tmp_path: Path, statement: str, named: str) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    store.finish(TRIALS[0], DONE)
    sql(tmp_path, statement)

    def read() -> None:
        found = Store.open(tmp_path)
        found.spec()
        found.results()
        found.open_trials()

    with pytest.raises(StudyError) as raised:
        read()
    assert named in str(raised.value)
    assert str(store.path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_result_that_is_not_as_expected_is_none_of_the_kind() -> None:
    good = json.loads(json.dumps(asdict(DONE)))
    check_result("inspect", good)
    for kind in ("score", "bench", "sensitivity"):
        with pytest.raises(ValueError, match="required"):
            check_result(kind, good)


SCORE = {
    "metrics": {"accuracy": 0.5, "examples": 2.0},
    "predictions": [0.0, 1.0],
    "true": [0.0, 0.0],
    "logits": [[1.0, 0.0], [0.0, 1.0]],
    "training_seconds": 1.5,
    "training_steps": 3,
    "sparsity": 0.5,
    "model_sparsity": 0.25,
    "layers": {"a.weight": 0.5},
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
}


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("score", SCORE | {"metrics": None}, "metrics"),
        ("score", SCORE | {"metrics": {"examples": 2.0}}, "metrics"),
        ("score", SCORE | {"metrics": {"accuracy": float("inf")}}, "metrics.accuracy"),
        ("score", SCORE | {"metrics": {"accuracy": None}}, "metrics.accuracy"),
        ("score", SCORE | {"predictions": []}, "predictions"),
        ("score", SCORE | {"predictions": ["0", "1"]}, "predictions.0"),
        ("score", SCORE | {"true": [0.0]}, "true"),
        ("score", SCORE | {"logits": [[1.0], [0.0, 1.0]]}, "logits"),
        ("score", SCORE | {"layers": {"a.weight": 2.0}}, "layers.a.weight"),
        ("score", SCORE | {"training_steps": 10**400}, "training_steps"),
        ("bench", {"measurements": []}, "measurements"),
        ("bench", {"measurements": [MEASUREMENT | {"latencies": [0.0, 0.1]}]}, "seconds"),
        ("bench", {"measurements": [MEASUREMENT | {"compressed": True}]}, "dense"),
        ("bench", {"measurements": [MEASUREMENT, MEASUREMENT | {"latencies": [0.5]}]}, "latencies"),
        ("bench", {"measurements": [MEASUREMENT | {"file_bytes": 0}]}, "file_bytes"),
    ],
)
def test_values_are_checked_field_by_field(kind: str, values: dict, named: str) -> None:
    result = json.loads(json.dumps(asdict(DONE)))
    check_result("score", result | {"values": SCORE})
    check_result("score", result | {"values": SCORE | {"metrics": {"perplexity": float("nan")}}})
    check_result("bench", result | {"values": {"measurements": [MEASUREMENT, MEASUREMENT]}})
    with pytest.raises(ValueError, match=named):
        check_result(kind, result | {"values": values})


@pytest.mark.parametrize("how", ["immediate", "exclusive"])
def test_a_locked_store_is_waited_for(tmp_path: Path, how: str) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    told = []
    with closing(sqlite3.connect(tmp_path / STORE, isolation_level=None)) as other:
        other.execute(f"begin {how}")

        def release(doing: str, done: int, total: int) -> None:
            told.append(doing)
            other.execute("commit")

        with progress.listening(release):
            store.finish(TRIALS[0], DONE)
    assert len(told) == 1
    assert str(store.path) in told[0]
    assert store.results() == [(TRIALS[0], DONE)]


def test_a_store_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path, SPEC, TRIALS)
    monkeypatch.setattr("aerogel.study.store.PATIENCE", 0.1)
    with closing(sqlite3.connect(tmp_path / STORE, isolation_level=None)) as other:
        other.execute("begin exclusive")
        for work in (lambda: store.finish(TRIALS[0], DONE), store.results, lambda: Store.open(tmp_path)):
            with pytest.raises(StudyError, match="locked"):
                work()
    assert store.results() == []


def test_a_study_that_is_running_is_refused_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    with sole(tmp_path):
        with pytest.raises(StudyError, match=f"process {os.getpid()}"), sole(tmp_path):
            pass
        with sole(tmp_path / "other"):
            pass
    script = "import os; from pathlib import Path; from aerogel.study.lock import sole\n"
    script += f"with sole(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with sole(tmp_path):
        assert f"process {os.getpid()}," in (tmp_path / "study.lock").read_text()
