"""Trials in local processes, and what an executor has to do."""

from dataclasses import replace
from pathlib import Path

from aerogel.benchmark import BenchConfig, environment
from aerogel.study.executors import open_executor
from aerogel.study.results import Done, Failed, Machine
from aerogel.study.trial import Benchmark, Trial, WeightAnalysis
from conftest import small_spec

BENCHMARK = Benchmark(
    model="tiny-gpt2", config=BenchConfig(batch_size=2, sequence_length=8, rounds=1, training_steps=0)
)
TRIALS: list[Trial] = [
    WeightAnalysis(model="tiny-gpt2"),
    WeightAnalysis(model="nowhere"),
    BENCHMARK,
    WeightAnalysis(model="tiny-bert"),
]


def test_trials_run_in_order_and_a_benchmark_alone(tmp_path: Path) -> None:
    starts: list[str] = []
    with open_executor("local", tmp_path, small_spec()) as executor:
        handles = [executor.submit(trial, None) for trial in TRIALS]
        assert [handle.progress for handle in handles] == [None] * 4
        while not all(handle.outcome for handle in handles):
            executor.wait(timeout=10)
            running = [handle for handle in handles if handle.progress and not handle.outcome]
            starts += [handle.trial.key for handle in handles if handle.progress and handle.trial.key not in starts]
            assert len(running) <= 2
            assert BENCHMARK not in [handle.trial for handle in running] or len(running) == 1
    assert starts == [trial.key for trial in TRIALS]
    assert [type(handle.outcome) for handle in handles] == [Done, Failed, Done, Done]
    assert isinstance(handles[1].outcome, Failed)
    assert "nowhere" in handles[1].outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["trials.log"]


def test_times_measured_on_a_cluster_are_measured_again(tmp_path: Path) -> None:
    machine = Machine(**environment())
    with open_executor("local", tmp_path, small_spec()) as executor:
        assert executor.outdated({BENCHMARK: machine}) == []
        assert executor.outdated({BENCHMARK: replace(machine, node="one")}) == [BENCHMARK]


def test_threads_are_the_cpus_of_the_study(tmp_path: Path) -> None:
    with open_executor("local", tmp_path, small_spec(resources={"cpus": 3})) as executor:
        handle = executor.submit(TRIALS[0], None)
        while not handle.outcome:
            executor.wait(timeout=10)
    assert isinstance(handle.outcome, Done)
    assert handle.outcome.machine.threads == 3


def test_leaving_stops_what_runs(tmp_path: Path) -> None:
    with open_executor("local", tmp_path, small_spec(processes=1)) as executor:
        running, waiting = (executor.submit(trial, None) for trial in TRIALS[:2])
        executor.wait(timeout=0)
    assert running.outcome is None or isinstance(running.outcome, Done)
    assert waiting.outcome is None
    assert not running.process.is_alive()
