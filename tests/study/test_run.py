"""Running a study for real: whole, failing in part, killed and taken up again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aerogel.errors import AerogelError
from aerogel.models import load, save
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress
from aerogel.study import State, Store, run_study
from builders import alive_in_session, sentences, write_tsv
from conftest import small_spec

ONE = {"models": ["tiny-gpt2"], "tasks": ["movie-reviews"], "sparsities": [0, 0.5], "seeds": [0], "benchmark": None}


def test_a_finished_study_has_all_results(study_folder: Path) -> None:
    store = Store.open(study_folder)
    assert not store.open_trials()
    for trial, result in store.results():
        assert result.status == "done", result.error
        assert result.environment["threads"] >= 1
        if trial.kind == "score":
            assert abs(result.values["sparsity"] - trial.sparsity) < 1e-3
            assert result.values["training_seconds"] > 0
            assert all(share < 1 for share in result.values["layers"].values())
        if trial.kind == "bench":
            measured = result.values["measurements"]
            assert [entry["compressed"] for entry in measured] == ([False, False, True] if trial.pruning else [False])
            assert all(entry["inference_memory"] > 0 and len(entry["latencies"]) == 3 for entry in measured)


def test_every_recovery_starts_from_the_same_tuned_model(recovery_folder: Path) -> None:
    found = {}
    for trial, result in Store.open(recovery_folder).results():
        assert result.status == "done", result.error
        if trial.recovery and trial.training:
            found[trial.training.seed, trial.recovery.name, trial.sparsity] = result.values
    assert len(found) == 2 * 3 * 2
    for (seed, name, sparsity), values in found.items():
        assert values["sparsity"] == pytest.approx(sparsity, abs=1e-4)
        assert values["dense_seconds"] == found[seed, "none", 0]["dense_seconds"] > 0
        assert (values["training_steps"], values["training_seconds"] > 0) == (
            (0, False) if name == "none" else (20, True)
        )


def test_running_again_runs_nothing(study_folder: Path) -> None:
    before = Store.open(study_folder).results()
    seen: list[int] = []
    run_study(small_spec(), study_folder, watch=lambda state: seen.append(len(state.running)))
    assert not any(seen)
    assert Store.open(study_folder).results() == before


def test_the_same_seed_gives_the_same_result(study_folder: Path, tmp_path: Path) -> None:
    run_study(small_spec(**ONE), tmp_path)
    known = {trial.key: result for trial, result in Store.open(study_folder).results()}
    for trial, result in Store.open(tmp_path).results():
        same = known[trial.key].values
        timeless = {name: value for name, value in result.values.items() if name != "training_seconds"}
        assert timeless == {name: value for name, value in same.items() if name != "training_seconds"}


def test_a_failed_trial_is_kept_with_its_error_and_the_rest_go_on(tmp_path: Path) -> None:
    # 5 of 7 fits no matrix of the model, so the pruned trials fail and the dense one does not
    failing = small_spec(**ONE | {"pattern": "5:7", "sparsities": [0, 2 / 7]})
    run_study(failing, tmp_path)
    results = {trial.label: result for trial, result in Store.open(tmp_path).results()}
    failed = [result for result in results.values() if result.status == "failed"]
    assert [result.status for result in results.values()].count("done") == 2
    assert len(failed) == 1
    assert "does not divide" in str(failed[0].error)


def test_a_killed_trial_is_a_failed_one(tmp_path: Path) -> None:
    killed: list[str] = []

    def kill_the_second(state: State) -> None:
        if state.done and state.running and not killed:
            killed.append(state.running[0].trial.key)
            os.kill(state.running[0].process.pid, signal.SIGKILL)

    run_study(small_spec(**ONE, processes=1), tmp_path, watch=kill_the_second)
    store = Store.open(tmp_path)
    errors = {trial.key: result.error for trial, result in store.results()}
    assert "SIGKILL" in str(errors[killed[0]])
    assert [trial.key for trial in store.open_trials()] == killed
    run_study(small_spec(**ONE, processes=1), tmp_path)
    assert not Store.open(tmp_path).open_trials()


@pytest.mark.parametrize(
    ("how", "after"), [(signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGINT, 0), (signal.SIGTERM, 1)]
)
def test_an_interrupt_loses_the_trial_under_way_and_nothing_else(
    tmp_path: Path, how: signal.Signals, after: int
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'name = "cut"\nprocesses = 2\nmodels = ["tiny-gpt2"]\ntasks = ["movie-reviews"]\nsparsities = [0, 0.9]\n'
        "[training]\nepochs = 1\nlimit = 100\nmax_length = 32\n[benchmark]\nbatch_size = 2\nsequence_length = 8\n"
        "rounds = 2\ntraining_steps = 1\n"
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
    while time.monotonic() < deadline and not (_is_store(output) and len(Store.open(output).results()) >= after):
        time.sleep(0.05)
    (os.killpg if how == signal.SIGINT else os.kill)(first.pid, how)  # a terminal's Ctrl-C goes to all processes
    said = first.communicate(timeout=600)[1]
    assert "Traceback" not in said
    kept = Store.open(output).results()
    assert first.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[how], said
    assert after <= len(kept) < 5
    assert not alive_in_session(first.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Store.open(output).results()[: len(kept)] == kept
    assert not Store.open(output).open_trials()


def test_a_packed_folder_is_studied_as_the_model_that_it_stands_for(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-gpt2")
    prune(model, PruneConfig(sparsity=0.5))
    save(compress(model), tokenizer, tmp_path / "packed")
    asked = {"models": [str(tmp_path / "packed")], "sparsities": [0], "sensitivity": "movie-reviews"}
    run_study(small_spec(**ONE | asked | {"recoveries": ["none"]}), tmp_path / "out")
    results = {trial.kind: result for trial, result in Store.open(tmp_path / "out").results()}
    assert [result.error for result in results.values()] == [None] * 3
    assert results["score"].values["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_a_small_file_is_calibrated_on_whole_and_a_global_ranking_measured(tmp_path: Path) -> None:
    tiny = {"batch_size": 2, "sequence_length": 8, "rounds": 1, "training_steps": 1}
    file = write_tsv(tmp_path / "moods.tsv", [*sentences(40)])
    asked = {"tasks": [str(file)], "methods": ["wanda"], "scope": "global", "sparsities": [0.5], "benchmark": tiny}
    run_study(small_spec(**ONE | asked), tmp_path / "out")
    assert [result.error for _, result in Store.open(tmp_path / "out").results()] == [None] * 3


def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(AerogelError, match="tiny-bert"):
        run_study(small_spec(models=["tiny-brt"]), tmp_path / "one")
    with pytest.raises(AerogelError, match="movie-reviews"):
        run_study(small_spec(tasks=["movie-review"]), tmp_path / "two")
    assert not list(tmp_path.iterdir())


def _is_store(output: Path) -> bool:
    return (output / "study.sqlite").exists() and (output / "study.sqlite").stat().st_size > 8192
