"""Removed structures as an axis of a study: planned, run and stored."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import StudyError
from aerogel.study import Store, StudySpec, parse_spec
from aerogel.study.plan import plan
from aerogel.study.results import Done, ScoringResult
from aerogel.study.run_trial import run_trial
from aerogel.study.trial import Benchmark, Scoring, Trial, trial_from_json
from aerogel.tasks import Examples, Task, TaskData, load_task

SENTENCES = TaskData(
    Task("sst2", "sentence_classification", ("sentence",), ("no", "yes"), ("accuracy",)),
    {"train": Examples([("good",)], [1]), "validation": Examples([("bad",)], [0])},
    "here",
)
RECOVERIES = ("none", "finetune", "gradual")
STRUCTURES = ("none", "speedup=2", "speedup=4,uniform", "size=40MB")


def spec(**changes: object) -> StudySpec:
    return parse_spec({"name": "x", "models": ["a"], "tasks": ["sst2"], "sparsities": [0, 0.5, 0.9]} | changes)


def planned(chosen: StudySpec) -> list[Trial]:
    return plan(chosen, {"sst2": SENTENCES})


@given(
    st.lists(st.sampled_from(STRUCTURES), min_size=1, unique=True),
    st.lists(st.sampled_from(RECOVERIES), unique=True),
    st.lists(st.sampled_from(["magnitude", "wanda"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["float32", "int8"]), min_size=1, unique=True),
)
def test_every_sparsity_is_combined_with_every_structure(
    structures: list[str], recoveries: list[str], methods: list[str], values: list[str]
) -> None:
    chosen = spec(structures=structures, recoveries=recoveries, methods=methods, values=values)
    trials = planned(chosen)
    whole = planned(spec(recoveries=recoveries, methods=methods, values=values))
    for kind in (Scoring, Benchmark):
        expected: Counter[Any] = Counter()
        for trial in whole:
            if isinstance(trial, kind):
                dense = set() if trial.sparsity else {None}
                listed = {None if structure == "none" else structure for structure in structures}
                for structure in dense | listed:
                    expected[replace(trial.variant, structure=structure), trial.sparsity] += 1
        assert Counter((trial.variant, trial.sparsity) for trial in trials if isinstance(trial, kind)) == expected
    assert len({trial.label for trial in trials}) == len({trial.key for trial in trials}) == len(trials)
    assert [trial_from_json(json.dumps(asdict(trial))) for trial in trials] == trials
    pruned = {trial.variant for trial in trials if isinstance(trial, Scoring | Benchmark) and trial.sparsity}
    assert pruned == {*chosen.scored_variants, *chosen.measured_variants}


def test_labels_name_the_structure_before_the_zeros() -> None:
    labels = {trial.label for trial in planned(spec(structures=STRUCTURES, recoveries=RECOVERIES))}
    assert "a speedup=2 none, sst2, seed 0" in labels
    assert "a speedup=4,uniform 90% magnitude finetune, sst2, seed 0" in labels
    assert "a size=40MB 50% magnitude, benchmark" in labels
    assert "a dense gradual, sst2, seed 0" in labels


def test_structures_are_drawn_with_the_seed_of_the_trial() -> None:
    trials = planned(spec(structures=["speedup=2"], seeds=[3, 4]))
    seeds = {
        (trial.training.seed, trial.recovery.structure.seed)
        for trial in trials
        if isinstance(trial, Scoring) and trial.recovery.structure
    }
    assert seeds == {(3, 3), (4, 4)}


def test_only_trials_that_measure_time_run_alone() -> None:
    for trial in planned(spec(structures=STRUCTURES)):
        measures = isinstance(trial, Benchmark) or "speedup" in trial.label
        assert trial.runs_alone == measures


def test_structures_are_removed_before_weights_are_set_to_zero_and_rounded(structured_folder: Path) -> None:
    outcomes = Store.open(structured_folder).outcomes()
    assert {type(outcome) for _, outcome in outcomes} == {Done}
    scores = {(trial.variant, trial.sparsity): outcome.result for trial, outcome in outcomes if trial.kind == "scoring"}
    assert len(scores) == 2 * 2 * 2
    dense = next(result for (variant, _), result in scores.items() if variant == variant.dense)
    for (variant, sparsity), result in scores.items():
        assert isinstance(result, ScoringResult)
        assert result.sparsity == pytest.approx(sparsity, abs=0.02)  # rounding makes some weights zero
        if not variant.structure:
            assert (result.structure, result.parameters) == ((), dense.parameters)
            continue
        assert {part.kind for part in result.structure} == {"heads", "neurons"}
        assert sum(part.kept for part in result.structure) < sum(part.original for part in result.structure)
        assert result.parameters < dense.parameters


def test_the_small_model_is_measured_beside_the_dense_one(structured_folder: Path) -> None:
    results = {
        (trial.variant.structure, trial.sparsity, trial.values): outcome.result
        for trial, outcome in Store.open(structured_folder).outcomes()
        if isinstance(trial, Benchmark)
    }
    assert len(results) == 2 * 2 * 2
    small = results["sparsity=0.5", 0, None]
    assert small.pruned.parameter_bytes < small.dense.parameter_bytes
    assert small.compressed is None
    zeros, integers, all_three = (
        results[key].compressed.file_bytes
        for key in ((None, 0.5, None), ("sparsity=0.5", 0, "int8"), ("sparsity=0.5", 0.5, "int8"))
    )
    assert all_three < min(zeros, integers, small.pruned.file_bytes)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kept": 10**6}, "attention"),
        ({"original": 0, "kept": 0}, "attention"),
        ({"kind": "layers"}, "layers"),
        ({"kept": -1}, "attention"),
        ({"kept": "all"}, "all"),
    ],
)
def test_a_wrong_record_of_what_was_kept_is_refused_by_name(
    structured_folder: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    store = Store.open(structured_folder)
    [text] = _query(
        store.path,
        "select result from trials where json_array_length(result, '$.result.structure') > 0 limit 1",
    )
    outcome = json.loads(text)
    outcome["result"]["structure"][0] |= change
    trial = next(trial for trial, _ in store.outcomes() if isinstance(trial, Scoring))
    with pytest.raises(ValueError, match=named):
        trial.read_outcome("done", json.dumps(outcome))


def test_a_trial_with_a_structure_of_another_study_is_refused(structured_folder: Path, tmp_path: Path) -> None:
    store = Store.open(structured_folder)
    trials = [trial for trial, _ in store.outcomes()]
    other = store.spec().model_copy(update={"structures": ("none", "speedup=2")})
    with pytest.raises(StudyError, match=r"sparsity=0\.5"):
        Store.create(tmp_path, other, trials).open_trials()


@pytest.mark.parametrize("recovery", ["finetune", "gradual"])
def test_a_small_model_is_trained_in_every_recovery(structured_folder: Path, recovery: str) -> None:
    chosen = Store.open(structured_folder).spec()
    changes = {"recoveries": (recovery,), "sparsities": (0.5,), "structures": ("sparsity=0.5",), "values": ("int8",)}
    [task] = chosen.tasks
    data = load_task(task).divided()
    part = chosen.recovery.model_copy(update={"epochs": 4.0, "score": "magnitude"})
    trials = plan(chosen.model_copy(update=changes | {"recovery": part}), {task: data})
    [trial] = [trial for trial in trials if isinstance(trial, Scoring) and trial.sparsity]
    result = run_trial(trial, data)
    assert result.training.steps > 0
    assert result.structure
    assert result.sparsity == pytest.approx(0.5, abs=0.03)


def _query(path: Path, statement: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute(statement)]
