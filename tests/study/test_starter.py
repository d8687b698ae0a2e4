"""The starter study's dense models have learned what they are scored on, so that pruning has something to lose."""

from functools import cache

import pytest

from aerogel.evaluation import score
from aerogel.models import load
from aerogel.study import load_spec
from aerogel.study.plan import plan
from aerogel.study.run_trial import run_trial
from aerogel.study.trial import Benchmark, Scoring
from aerogel.tasks import TaskData, load_task

SPEC = load_spec("starter")
REPORTS = {0, 0.1, 0.5, 0.9, 0.95, 0.99}  # the sparsities of the two reports


@cache
def data() -> dict[str, TaskData]:
    return {task: load_task(task) for task in SPEC.tasks}


def test_it_has_what_the_two_reports_plotted() -> None:
    trials = plan(SPEC, data())
    magnitude = [trial for trial in trials if isinstance(trial, Scoring) and trial.variant.method == "magnitude"]
    for model in SPEC.models:
        for task in SPEC.tasks:
            assert {trial.sparsity for trial in magnitude if (trial.model, trial.task) == (model, task)} == REPORTS - {
                0
            }
        costs = [trial for trial in trials if isinstance(trial, Benchmark) and trial.model == model]
        assert {trial.sparsity for trial in costs} == REPORTS
        assert {(trial.config.batch_size, trial.config.sequence_length) for trial in costs} == {(128, 64)}
    answers = {
        (trial.variant.method, trial.variant.recovery, trial.values) for trial in trials if isinstance(trial, Scoring)
    }
    assert {("best", "none", None), (None, "gradual", None), (None, "gradual", "int8")} <= answers


@pytest.mark.long
@pytest.mark.parametrize("model", SPEC.models)
@pytest.mark.parametrize("task", SPEC.tasks)
def test_dense_models_are_far_better_than_chance(model: str, task: str) -> None:
    task_data = data()[task]
    [dense] = [
        trial
        for trial in plan(SPEC, data())
        if isinstance(trial, Scoring) and (trial.model, trial.task, trial.sparsity) == (model, task, 0)
    ]
    result = run_trial(dense, task_data).score
    if "accuracy" in result.metrics:
        assert result.metrics["accuracy"] > result.baselines["majority"] + 0.1
    else:
        before = score(*load(model, task_data.task.head), task_data, dense.evaluation_limit)
        assert result.metrics["loss"] < before.metrics["loss"] - 0.3  # nats
