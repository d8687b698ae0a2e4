"""The store keeps what is finished and refuses what it can't read."""

import json
import sqlite3
from pathlib import Path

import pytest

from aerogel.analysis import inspect
from aerogel.benchmark import environment
from aerogel.errors import StudyError
from aerogel.models import load_model
from aerogel.study import Result, Store, Trial, parse_spec
from aerogel.study.source import STORE

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
