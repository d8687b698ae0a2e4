"""From a specification to trials, and their keys."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aerogel.pruning import PruneConfig
from aerogel.study import StudySpec, parse_spec
from aerogel.study.plan import plan
from aerogel.study.trial import Benchmark, Scoring, Trial, WeightAnalysis, trial_from_json
from aerogel.tasks import Examples, Task, TaskData
from aerogel.training import GradualPruning

SENTENCES = TaskData(
    Task("sst2", "sentence_classification", ("sentence",), ("no", "yes"), ("accuracy",)),
    {"train": Examples([("good",)], [1]), "validation": Examples([("bad",)], [0])},
    "here",
)
TEXT = TaskData(Task("wikitext-2", "language_modelling"), {"train": "one", "validation": "two"}, "there")
DATA = {"sst2": SENTENCES, "wikitext-2": TEXT}
RECOVERIES = ("none", "finetune", "gradual")


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


def scorings(trials: list[Trial]) -> list[Scoring]:
    return [trial for trial in trials if isinstance(trial, Scoring)]


def test_the_dense_model_runs_once_whatever_the_methods() -> None:
    trials = plan(spec(), DATA)
    kinds = Counter(map(type, trials))
    assert kinds == {WeightAnalysis: 2, Scoring: 2 * 2 * 3 * (1 + 2 * 2), Benchmark: 2 * (1 + 2 * 2)}
    assert len({trial.key for trial in trials}) == len(trials)


def test_dense_models_are_scored_before_those_that_start_from_them() -> None:
    pruned = [trial.recovery.pruning is not None for trial in scorings(plan(spec(recoveries=RECOVERIES), DATA))]
    assert sorted(pruned) == pruned
    assert not pruned[0]
    assert pruned[-1]


def test_limits_follow_the_kind_of_task() -> None:
    limits = {(trial.task, trial.training.limit) for trial in scorings(plan(spec(), DATA))}
    assert limits == {("sst2", 7), ("wikitext-2", 8)}


def test_only_scores_multiply_by_recovery() -> None:
    before, after = plan(spec(), DATA), plan(spec(recoveries=RECOVERIES), DATA)
    others = [[trial for trial in trials if not isinstance(trial, Scoring)] for trials in (before, after)]
    assert others[0] == others[1]
    assert len({trial.key for trial in after}) == len(after)
    assert not {trial.key for trial in scorings(before)} & {trial.key for trial in scorings(after)}


@given(
    st.lists(st.sampled_from(RECOVERIES), min_size=1, unique=True),
    st.lists(st.sampled_from(["magnitude", "random", "wanda"]), min_size=1, unique=True),
    st.lists(st.sampled_from([0, 0.5, 0.9]), min_size=1, unique=True),
)
def test_gradual_is_planned_once_a_sparsity_and_the_others_once_a_method_too(
    recoveries: list[str], methods: list[str], sparsities: list[float]
) -> None:
    chosen = spec(models=["a"], seeds=[0], recoveries=recoveries, methods=methods, sparsities=sparsities)
    counts = Counter((trial.variant.recovery, trial.sparsity) for trial in scorings(plan(chosen, DATA)))
    tasks = 2
    assert counts == {
        (name, sparsity): tasks * (len(methods) if sparsity and name != "gradual" else 1)
        for name in recoveries
        for sparsity in {0, *sparsities}
    }


def test_other_epochs_of_recovery_leave_alone_what_is_not_recovered() -> None:
    short, long = (
        {
            (trial.variant.recovery, trial.key)
            for trial in scorings(plan(spec(recoveries=RECOVERIES, recovery=part), DATA))
        }
        for part in ({"epochs": 1}, {"epochs": 2, "score": "movement"})
    )
    assert {name for name, _ in short & long} == {"none"}
    assert {name for name, _ in short - long} == {"finetune", "gradual"}


def test_labels_tell_recoveries_apart() -> None:
    labels = [trial.label for trial in plan(spec(recoveries=RECOVERIES, models=["a"]), DATA)]
    assert len(set(labels)) == len(labels)
    assert "a 90% gradual, sst2, seed 1" in labels
    assert "a 50% random finetune, wikitext-2, seed 0" in labels
    assert "a dense none, sst2, seed 2" in labels


KEYS = {  # of stores from before studies had types of values and structures
    "a, weights": "f560589657888b4388f8",
    "a, sensitivity": "c43d60d1bf722dd1e0ee",
    "a dense none, sst2, seed 0": "9195fe2c67581b0341d5",
    "a 90% magnitude none, sst2, seed 0": "0e73dca10d510cda4cdc",
    "a dense finetune, sst2, seed 0": "4f2edb14001b250f46f3",
    "a 90% magnitude finetune, sst2, seed 0": "8582c6ae48fe82dd7405",
    "a dense gradual, sst2, seed 0": "259d8d241e3a1ba02b98",
    "a 90% gradual, sst2, seed 0": "f244232bfd60abb8ada4",
    "a dense, benchmark": "50817b1d03fd59eef092",
    "a 90% magnitude, benchmark": "5c47e61b09eb7803b1a4",
}


@pytest.mark.parametrize("structures", [["none"], ["none", "speedup=2"]])
@pytest.mark.parametrize("values", [["float32"], ["float32", "int8"], ["bfloat16", "float32"]])
def test_trials_of_whole_models_in_float32_keep_their_keys(values: list[str], structures: list[str]) -> None:
    settings: dict[str, Any] = dict(models=["a"], tasks=["sst2"], seeds=[0], sparsities=[0, 0.9], sensitivity="sst2")
    settings |= dict(methods=["magnitude"], recoveries=RECOVERIES, values=values, structures=structures)
    chosen = spec(**settings)
    assert KEYS.items() <= {trial.label: trial.key for trial in plan(chosen, DATA)}.items()


@given(st.lists(st.sampled_from(["float32", "bfloat16", "int8"]), min_size=1, unique=True))
def test_values_multiply_scores_and_benchmarks_and_the_dense_model_is_in_float32(values: list[str]) -> None:
    chosen = spec(models=["a"], seeds=[0], tasks=["sst2"], methods=["magnitude"], recoveries=RECOVERIES, values=values)
    trials = plan(chosen, DATA)
    expected = Counter((sparsity, None if name == "float32" else name) for sparsity in (0.5, 0.9) for name in values)
    expected += Counter({(0, None): 1, (0, "int8"): int("int8" in values)})
    for kind, count in ((Scoring, len(RECOVERIES)), (Benchmark, 1)):
        counts = Counter((trial.sparsity, trial.variant.values) for trial in trials if isinstance(trial, kind))
        assert counts == {setting: count * number for setting, number in expected.items()}
    assert len({trial.label for trial in trials}) == len({trial.key for trial in trials}) == len(trials)
    assert [trial_from_json(json.dumps(asdict(trial))) for trial in trials] == trials
    known = {*chosen.scored_variants, *chosen.measured_variants}
    assert {trial.variant for trial in trials if isinstance(trial, Scoring | Benchmark) and trial.sparsity} == known


VARIANTS = (
    {"method": "magnitude"},
    {"method": "best"},
    {"recovery": "gradual"},
    {"recovery": "gradual", "values": "int8", "pattern": "block:1x4", "sparsities": [0.9]},
)


def with_variants(**changes: object) -> StudySpec:
    values = {"name": "x", "models": ["a"], "tasks": ["sst2"], "sparsities": [0.5, 0.9], "variants": VARIANTS}
    return parse_spec(values | changes)


def test_variants_replace_the_product_of_the_lists() -> None:
    chosen = with_variants()
    trials = plan(chosen, DATA)
    sparse = [
        "50% magnitude none",
        "90% magnitude none",
        "50% best none",
        "90% best none",
        "50% gradual",
        "90% gradual",
    ]
    scored = ["dense none", "dense gradual", *sparse, "90% block:1x4 gradual int8"]
    measured = ["dense", "50% magnitude", "90% magnitude", "90% block:1x4 magnitude int8"]
    labels = Counter(trial.label for trial in trials if isinstance(trial, Scoring | Benchmark))
    assert labels == Counter(
        [f"a {name}, sst2, seed 0" for name in scored] + [f"a {name}, benchmark" for name in measured]
    )
    assert [trial_from_json(json.dumps(asdict(trial))) for trial in trials] == trials
    known = {*chosen.scored_variants, *chosen.measured_variants}
    assert {trial.variant for trial in trials if isinstance(trial, Scoring | Benchmark) and trial.sparsity} == known
    costs = {(trial.variant, trial.sparsity) for trial in trials if isinstance(trial, Benchmark)}
    for trial in scorings(trials):
        if trial.sparsity:
            assert (chosen.measured_variant(trial.variant), trial.sparsity) in costs
            assert trial.sparsity in chosen.sparsities_of(trial.variant)


def test_a_study_of_variants_always_has_the_fine_tuned_dense_model() -> None:
    trials = plan(with_variants(variants=VARIANTS[-1:]), DATA)
    scores = {(trial.variant, trial.sparsity) for trial in scorings(trials)}
    (small,) = (variant for variant, sparsity in scores if sparsity)
    assert scores == {(small, 0.9), (small.fine_tuned, 0)}
    assert {trial.sparsity for trial in trials if isinstance(trial, Benchmark)} == {0, 0.9}


def test_variants_share_trials_with_the_lists() -> None:
    lists = {trial.key for trial in plan(spec(recoveries=["none"], methods=["magnitude"]), DATA)}
    variants = {trial.key for trial in plan(spec(methods=["magnitude"], variants=VARIANTS[:1]), DATA)}
    assert lists == variants


def test_gradual_pruning_takes_its_settings_from_the_study() -> None:
    settings: dict[str, Any] = dict(pattern="2:4", include=["embeddings"], scope="row", allocation="uniform", seeds=[3])
    changed = spec(recoveries=["gradual"], sparsities=[0, 0.5], **settings)
    prunings = {trial.sparsity: trial.recovery.pruning for trial in scorings(plan(changed, DATA))}
    expected = PruneConfig("best", 0.5, "2:4", "row", ("blocks", "embeddings"), seed=3, allocation="uniform")
    assert prunings[0.5] == GradualPruning(expected)
    assert prunings[0] == GradualPruning(replace(expected, sparsity=0, pattern="unstructured"))


def test_a_trial_survives_json_with_its_key() -> None:
    for trial in plan(spec(), DATA) + plan(spec(recoveries=RECOVERIES), DATA):
        again = trial_from_json(json.dumps(asdict(trial)))
        assert again == trial
        assert again.key == trial.key


@given(st.sampled_from(plan(spec(), DATA)), st.text(min_size=1))
def test_every_field_is_in_the_key(trial: Trial, text: str) -> None:
    for field in ("model", "task", "data"):
        if getattr(trial, field, text) != text:
            assert replace(trial, **{field: text}).key != trial.key


def test_other_files_in_a_model_s_folder_make_other_trials(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    chosen = spec(models=[str(folder), "tiny-bert"])
    keys = {trial.model: trial.key for trial in plan(chosen, DATA) if isinstance(trial, WeightAnalysis)}
    (folder / "runs").mkdir(parents=True)
    (folder / "model.safetensors").write_text("one")
    first, same = plan(chosen, DATA), plan(chosen, DATA)
    (folder / "model.safetensors").write_text("another")
    second = plan(chosen, DATA)
    assert first == same == [trial_from_json(json.dumps(asdict(trial))) for trial in first]
    for before, after in zip(first, second, strict=True):
        assert (before.key != after.key) == (before.model == str(folder))
    assert keys["tiny-bert"] in {trial.key for trial in second}  # which has no folder


def test_other_data_makes_another_trial() -> None:
    changed = replace(TEXT, splits={"train": "one", "validation": "too"})
    moved = replace(TEXT, source="elsewhere")
    assert changed.digest != TEXT.digest
    assert moved.digest == TEXT.digest
    before, after = plan(spec(), DATA), plan(spec(), DATA | {"wikitext-2": changed})
    same = {trial.key for trial in before} & {trial.key for trial in after}
    assert len(same) == sum(getattr(trial, "task", "") != "wikitext-2" for trial in before)
