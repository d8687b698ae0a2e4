"""Running a study for real: whole, failing in part, killed and resumed."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from aerogel.errors import AerogelError
from aerogel.evaluation import score
from aerogel.models import load, prunable_weights, save
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress
from aerogel.study import Store, StudyProgress, run_study
from aerogel.study.results import BenchmarkResult, Done, Failed, ScoringResult
from aerogel.study.trial import Benchmark, Scoring
from aerogel.tasks import load_task
from aerogel.training import recover
from builders import alive_in_session, sentences, write_tsv
from conftest import small_spec

ONE = {"models": ["tiny-gpt2"], "tasks": ["movie-reviews"], "sparsities": [0, 0.5], "seeds": [0], "benchmark": None}


def test_a_finished_study_has_all_results(study_folder: Path) -> None:
    store = Store.open(study_folder)
    assert not store.open_trials()
    for trial, outcome in store.outcomes():
        assert isinstance(outcome, Done), outcome
        assert outcome.machine.threads >= 1
        if isinstance(trial, Scoring):
            assert isinstance(outcome.result, ScoringResult)
            assert abs(outcome.result.sparsity - trial.sparsity) < 1e-3
            assert outcome.result.training.seconds > 0
            assert all(share < 1 for share in outcome.result.layers.values())
        if isinstance(trial, Benchmark):
            assert isinstance(outcome.result, BenchmarkResult)
            dense, pruned, compressed = outcome.result.dense, outcome.result.pruned, outcome.result.compressed
            assert bool(pruned) == bool(compressed) == bool(trial.pruning)
            assert (pruned or dense).training_steps
            for measurement in filter(None, (dense, pruned, compressed)):
                assert measurement.inference_memory > 0
                assert len(measurement.latencies) == 3


def test_every_recovery_starts_from_the_same_tuned_model(recovery_folder: Path) -> None:
    results = {}
    for trial, outcome in Store.open(recovery_folder).outcomes():
        assert isinstance(outcome, Done), outcome
        if isinstance(trial, Scoring):
            results[trial.training.seed, trial.variant.recovery, trial.sparsity] = outcome.result
    assert len(results) == 2 * 3 * 2
    for (seed, name, sparsity), result in results.items():
        assert result.sparsity == pytest.approx(sparsity, abs=1e-4)
        assert result.dense_seconds == results[seed, "none", 0].dense_seconds > 0
        assert (result.training.steps, result.training.seconds > 0) == ((0, False) if name == "none" else (20, True))


def test_int8_is_scored_as_the_packed_folder_that_a_user_gets(rounded_folder: Path, tmp_path: Path) -> None:
    outcomes = {trial.label: (trial, outcome) for trial, outcome in Store.open(rounded_folder).outcomes()}
    assert {type(outcome) for _, outcome in outcomes.values()} == {Done}
    data = load_task("movie-reviews").divided()
    for name in ("dense none int8", "90% magnitude none int8", "90% magnitude finetune int8"):
        trial, outcome = outcomes[f"tiny-gpt2 {name}, movie-reviews, seed 0"]
        assert isinstance(trial, Scoring)
        recovered = recover("tiny-gpt2", data, trial.training, replace(trial.recovery, values="int8"))
        save(compress(recovered.model, "int8"), recovered.tokenizer, tmp_path / name)
        packed, tokenizer = load(tmp_path / name)
        again = score(packed, tokenizer, data, trial.evaluation_limit, trial.training.max_length)
        assert again.metrics == pytest.approx(outcome.result.score.metrics)
        assert again.logits == pytest.approx(np.array(outcome.result.score.logits), abs=1e-4)
        weights = prunable_weights(packed, to_read=True)
        zeros = {weight.name: float(weight.zeros.float().mean()) for weight in weights}
        assert outcome.result.layers == pytest.approx(zeros)
        floats = outcomes[f"tiny-gpt2 {name.removesuffix(' int8')}, movie-reviews, seed 0"][1]
        assert floats.result.score.logits != outcome.result.score.logits
        assert (outcome.result.training.steps > 0) == ("finetune" in name)


def test_int8_is_measured_packed_whatever_the_sparsity(rounded_folder: Path) -> None:
    results = {
        (trial.sparsity, trial.values): outcome.result
        for trial, outcome in Store.open(rounded_folder).outcomes()
        if isinstance(trial, Benchmark)
    }
    assert results[0, None].compressed is None
    dense, floats, integers = (results[key].compressed for key in ((0, "int8"), (0.9, None), (0.9, "int8")))
    assert results[0, "int8"].dense.parameter_bytes > dense.parameter_bytes > floats.parameter_bytes
    assert floats.file_bytes > integers.file_bytes


def test_a_study_from_before_there_were_values_and_structures_is_not_run_again(
    study_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(study_folder, tmp_path / "old"))
    before = Store.open(folder).outcomes()
    with closing(sqlite3.connect(Store.open(folder).path)) as connection, connection:
        connection.execute("update study set spec = json_remove(spec, '$.values', '$.structures')")
        fields = ("$.values", "$.pruning.values", "$.recovery.values", "$.recovery.pruning.values")
        fields += ("$.structure", "$.recovery.structure", "$.recovery.measure")
        connection.execute(f"update trials set trial = json_remove(trial, {', '.join(map(repr, fields))})")
        connection.execute("update trials set result = json_remove(result, '$.result.structure')")
    assert Store.open(folder).outcomes() == before
    reports: list[StudyProgress] = []
    run_study(small_spec(), folder, watch=reports.append)
    assert not any(report.running for report in reports)
    assert Store.open(folder).outcomes() == before


def test_running_again_runs_nothing(study_folder: Path) -> None:
    before = Store.open(study_folder).outcomes()
    reports: list[StudyProgress] = []
    run_study(small_spec(), study_folder, watch=reports.append)
    assert not any(report.running for report in reports)
    assert Store.open(study_folder).outcomes() == before


def test_the_same_seed_gives_the_same_result(study_folder: Path, tmp_path: Path) -> None:
    run_study(small_spec(**ONE), tmp_path)

    def timeless(result: object) -> object:
        if not isinstance(result, ScoringResult):
            return result
        return replace(result, training=replace(result.training, seconds=0.0))

    known = {trial.key: outcome.result for trial, outcome in Store.open(study_folder).outcomes()}
    for trial, outcome in Store.open(tmp_path).outcomes():
        assert timeless(outcome.result) == timeless(known[trial.key])


def test_a_failed_trial_is_kept_with_its_error_and_the_rest_go_on(tmp_path: Path) -> None:
    # 5 of 7 fits no matrix of the model, so the pruned trials fail and the dense one does not
    failing = small_spec(**ONE | {"pattern": "5:7", "sparsities": [0, 2 / 7]})
    run_study(failing, tmp_path)
    outcomes = [outcome for _, outcome in Store.open(tmp_path).outcomes()]
    [failed] = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert len(outcomes) == 3
    assert "7" in failed.error


def test_progress_counts_trials_and_tells_what_each_does(tmp_path: Path) -> None:
    reports: list[StudyProgress] = []
    run_study(small_spec(**ONE, processes=1), tmp_path, watch=reports.append)
    running = [progress for report in reports for _, progress in report.running]
    assert any(0 < progress.done <= progress.total for progress in running)
    assert [trial.key for report in reports for trial, _ in report.ended] == [
        trial.key for trial, _ in Store.open(tmp_path).outcomes()
    ]
    for report in reports:
        assert report.done + report.failed + len(report.running) <= report.total == 3
    assert (reports[-1].done, reports[-1].failed) == (3, 0)


def test_a_killed_trial_is_a_failed_one_and_runs_again(tmp_path: Path) -> None:
    killed: list[str] = []

    def kill_the_second(state: StudyProgress) -> None:
        if state.done and state.running and not killed:
            killed.append(state.running[0][0].key)
            servers = psutil.Process().children()
            [trial] = [child for server in servers for child in server.children()]
            trial.kill()

    run_study(small_spec(**ONE, processes=1), tmp_path, watch=kill_the_second)
    store = Store.open(tmp_path)
    outcomes = {trial.key: outcome for trial, outcome in store.outcomes()}
    assert isinstance(outcomes[killed[0]], Failed)
    assert "SIGKILL" in outcomes[killed[0]].error
    assert [trial.key for trial in store.open_trials()] == killed
    run_study(small_spec(**ONE, processes=1), tmp_path)
    assert not Store.open(tmp_path).open_trials()


@pytest.mark.parametrize(
    ("how", "after"),
    [(signal.SIGKILL, 2), (signal.SIGINT, 0), pytest.param(signal.SIGTERM, 1, marks=pytest.mark.long)],
)
def test_an_interrupt_loses_the_trial_under_way_and_nothing_else(
    tmp_path: Path, how: signal.Signals, after: int
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'name = "cut"\nprocesses = 2\nmodels = ["tiny-gpt2"]\ntasks = ["movie-reviews"]\nsparsities = [0, 0.9]\n'
        "[training]\nepochs = 1\nlimit = 32\nmax_length = 32\n[evaluation]\nlimit = 16\n[benchmark]\n"
        "batch_size = 2\nsequence_length = 8\nrounds = 1\ntraining_steps = 1\n"
    )
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        # started in the background, it would inherit a Ctrl-C that is ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from aerogel.cli import main; main()",
        "study",
        str(spec),
        "--output",
        str(output),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (_is_store(output) and len(Store.open(output).outcomes()) >= after):
        time.sleep(0.05)
    (os.killpg if how == signal.SIGINT else os.kill)(first.pid, how)  # a terminal's Ctrl-C goes to all processes
    stderr = first.communicate(timeout=600)[1]
    assert "Traceback" not in stderr
    kept = Store.open(output).outcomes()
    assert first.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[how], stderr
    assert after <= len(kept) < 5
    assert all(isinstance(outcome, Done) for _, outcome in kept)
    assert not alive_in_session(first.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    # two trials run at a time, so that a later one may have ended before an earlier one was interrupted
    after_all = {trial.key: outcome for trial, outcome in Store.open(output).outcomes()}
    assert all(after_all[trial.key] == outcome for trial, outcome in kept)
    assert not Store.open(output).open_trials()


TINY = {"batch_size": 2, "sequence_length": 8, "rounds": 1, "training_steps": 1}


def test_a_packed_folder_is_studied_as_the_model_that_it_stands_for(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-gpt2")
    prune(model, PruneConfig(sparsity=0.5))
    save(compress(model), tokenizer, tmp_path / "packed")
    changes = {"models": [str(tmp_path / "packed")], "sparsities": [0, 0.9], "sensitivity": "movie-reviews"}
    store = run_study(small_spec(**ONE | changes | {"recoveries": ["none"], "benchmark": TINY}), tmp_path / "out")
    outcomes = store.outcomes()
    assert [type(outcome) for _, outcome in outcomes] == [Done] * 6
    for trial, outcome in outcomes:
        if isinstance(trial, Scoring):
            assert outcome.result.sparsity == pytest.approx(trial.sparsity or 0.5, abs=1e-3)
        if isinstance(trial, Benchmark) and trial.pruning:  # whose compressed version is not that of the given model
            assert outcome.result.compressed.file_bytes < outcome.result.pruned.file_bytes
        elif isinstance(trial, Benchmark):
            assert outcome.result.compressed is None


def test_a_small_file_is_calibrated_on_whole_and_a_global_ranking_measured(tmp_path: Path) -> None:
    file = write_tsv(tmp_path / "moods.tsv", [*sentences(40)])
    changes = {"tasks": [str(file)], "methods": ["wanda"], "scope": "global", "sparsities": [0.5], "benchmark": TINY}
    store = run_study(small_spec(**ONE | changes), tmp_path / "out")
    assert [type(outcome) for _, outcome in store.outcomes()] == [Done] * 5  # with the dense model


def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(AerogelError, match="tiny-bert"):
        run_study(small_spec(models=["tiny-brt"]), tmp_path / "one")
    with pytest.raises(AerogelError, match="movie-reviews"):
        run_study(small_spec(tasks=["movie-review"]), tmp_path / "two")
    assert not list(tmp_path.iterdir())


def _is_store(output: Path) -> bool:
    return (output / "study.sqlite").exists() and (output / "study.sqlite").stat().st_size > 8192
