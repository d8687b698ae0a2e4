"""From a specification to trials, and their keys."""

import json
from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from aerogel.data import Examples, Task, TaskData
from aerogel.study import Trial, parse_spec
from aerogel.study.plan import plan

SENTENCES = TaskData(
    Task("sst2", ("sentence",), ("no", "yes"), ("accuracy",)),
    {"train": Examples([("good",)], [1]), "validation": Examples([("bad",)], [0])},
    "here",
)
TEXT = TaskData(Task("wikitext-2"), {"train": "one", "validation": "two"}, "there")
DATA = {"sst2": SENTENCES, "wikitext-2": TEXT}


def spec(**changes: object):
    values = {
        "name": "x",
        "models": ["a", "b"],
        "tasks": ["sst2", "wikitext-2"],
        "methods": ["magnitude", "random"],
        "sparsities": [0, 0.5, 0.9],
        "seeds": [0, 1, 2],
        "training": {"limit": 7, "text_limit": 8},
    }
    return parse_spec(values | changes)


def test_the_dense_model_runs_once_whatever_the_methods() -> None:
    trials = plan(spec(), DATA)
    kinds = [trial.kind for trial in trials]
    assert kinds.count("inspect") == 2
    assert kinds.count("score") == 2 * 2 * 3 * (1 + 2 * 2)
    assert kinds.count("bench") == 2 * (1 + 2 * 2)
    assert len({trial.key for trial in trials}) == len(trials)


def test_limits_follow_the_kind_of_task() -> None:
    limits = {(trial.task, trial.training.limit) for trial in plan(spec(), DATA) if trial.training}
    assert limits == {("sst2", 7), ("wikitext-2", 8)}


def test_a_trial_survives_json_with_its_key() -> None:
    for trial in plan(spec(), DATA):
        again = Trial.from_dict(json.loads(json.dumps(asdict(trial))))
        assert again == trial
        assert again.key == trial.key


@given(st.sampled_from(plan(spec(), DATA)), st.text(min_size=1))
def test_every_field_is_in_the_key(trial: Trial, text: str) -> None:
    for field in ("model", "task", "data"):
        if getattr(trial, field) != text:
            assert replace(trial, **{field: text}).key != trial.key


def test_other_data_makes_another_trial() -> None:
    changed = replace(TEXT, splits={"train": "one", "validation": "too"})
    moved = replace(TEXT, source="elsewhere")
    assert changed.digest != TEXT.digest
    assert moved.digest == TEXT.digest
    before, after = plan(spec(), DATA), plan(spec(), DATA | {"wikitext-2": changed})
    same = {trial.key for trial in before} & {trial.key for trial in after}
    assert len(same) == sum(trial.task != "wikitext-2" for trial in before)
