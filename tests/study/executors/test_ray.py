"""Trials on a Ray cluster of two nodes on this machine, some of which are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aerogel.benchmark import BenchConfig
from aerogel.errors import StudyError
from aerogel.models import Head, save
from aerogel.report import build_report
from aerogel.study import Store, StudyProgress, run_study
from aerogel.study.executors import open_executor
from aerogel.study.results import Done, Failed, Machine, Outcome, ScoringResult
from aerogel.study.trial import Benchmark, Trial, WeightAnalysis
from builders import one_block_bert, sentences, write_tsv
from conftest import small_spec

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}  # before Ray reads them
pytest.importorskip("ray")
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.filterwarnings(
    "default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning"
)

LIMITS = {"object_store_memory": 100 * 2**20, "num_cpus": 2}
SPEC = """
name = "cut"
models = ["tiny-gpt2"]
tasks = ["movie-reviews"]
sparsities = [0, 0.5, 0.9]
seeds = [0, 1]
[training]
epochs = 1
limit = 32
max_length = 32
[evaluation]
limit = 16
[benchmark]
batch_size = 2
sequence_length = 8
rounds = 1
training_steps = 1
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Nodes "one" and "two" with two CPUs each, and a cache of their own."""
    Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray writes the address of a cluster, whatever its own folder
    # a short path: the names of sockets have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {"include_dashboard": False, "temp_dir": folder, **named("one", folder)}
        cluster = Cluster(initialize_head=True, head_node_args={**LIMITS, **head})
        cluster.add_node(**LIMITS, **named("two", folder))
        cluster.folder = folder
        yield cluster
        cluster.shutdown()


def named(name: str, folder: str, **environment: str) -> dict[str, object]:
    return {"node_name": name, "env_vars": {"AEROGEL_HOME": f"{folder}/{name}", **environment}}


@pytest.fixture
def executor(cluster: Cluster) -> str:
    return f"ray:{cluster.address}"


def timeless(outcome: Outcome) -> object:
    assert isinstance(outcome, Done), outcome
    if not isinstance(outcome.result, ScoringResult):
        return outcome.result
    return replace(outcome.result, training=replace(outcome.result.training, seconds=0.0), dense_seconds=None)


@pytest.mark.long
def test_results_are_those_of_this_machine_to_the_bit(
    executor: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no node is, so that the model is copied
    save(*one_block_bert(Head("classification", ("0", "1"))), tmp_path / "model")
    write_tsv(tmp_path / "moods.tsv", [*sentences(60)])
    spec = small_spec(
        models=["model"],
        tasks=["moods.tsv"],
        sparsities=[0, 0.9],
        seeds=[0],
        recoveries=["none", "finetune"],
        sensitivity="moods.tsv",
        resources={"cpus": 1},
    )
    here = run_study(spec, tmp_path / "here").outcomes()
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    there = run_study(spec, tmp_path / "there", executor=executor).outcomes()
    assert [trial for trial, _ in here] == [trial for trial, _ in there]
    for (trial, outcome), (_, other) in zip(here, there, strict=True):
        assert outcome.machine.node is None
        assert other.machine.node in ("one", "two")
        assert trial.runs_alone or timeless(outcome) == timeless(other)
    assert {other.machine.node for trial, other in there if trial.runs_alone} == {"one"}
    assert {other.machine.threads for trial, other in there if trial.runs_alone} == {2}
    assert all(other.result.dense.name == "model" for trial, other in there if trial.runs_alone)
    scores = [other.result for _, other in there if isinstance(other.result, ScoringResult)]
    assert len(scores) == 4
    assert len({score.dense_seconds for score in scores}) == 1  # trained once
    assert len([*(tmp_path / "home" / "tuned").glob("*.json")]) == 1  # and kept
    nodes = {other.machine.node for _, other in there}
    page = build_report(tmp_path / "there").read_text("utf-8")
    assert all(f"<dd>{node}</dd>" in page for node in nodes)


@pytest.mark.long
def test_a_trial_whose_worker_is_killed_runs_again(executor: str, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(state: StudyProgress) -> None:
        workers = [
            process
            for process in psutil.process_iter(["name"])
            if (process.info["name"] or "").startswith("ray::score_tria")  # cut to 15 characters
        ]
        if state.running and workers and not killed:
            killed.append(workers[0].pid)
            workers[0].kill()

    spec = small_spec(models=["tiny-gpt2"], sparsities=[0, 0.5], seeds=[0], benchmark=None, resources={"cpus": 1})
    store = run_study(spec, tmp_path, watch=kill_one, executor=executor)
    assert killed
    assert {type(outcome) for _, outcome in store.outcomes()} == {Done}


@pytest.mark.long
def test_a_killed_driver_ends_its_trials_and_resumes(executor: str, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    output = tmp_path / "out"
    script = "from aerogel.cli import main; main()"
    arguments = ["study", str(tmp_path / "spec.toml"), "--output", str(output), "--executor", executor]
    command = [sys.executable, "-c", script, *arguments]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not (stored(output) and len(Store.open(output).outcomes()) >= 2):
        time.sleep(0.05)
    first.kill()
    stderr = first.communicate()[1]
    assert first.returncode == -signal.SIGKILL, stderr
    kept = Store.open(output).outcomes()
    deadline = time.monotonic() + 60
    while (left := trial_processes(cluster)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert 2 <= len(kept) < 10
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(output / "report.html")
    after_all = dict(Store.open(output).outcomes())
    assert len(after_all) == 10
    assert all(after_all[trial] == outcome for trial, outcome in kept)


def stored(output: Path) -> bool:
    return (output / "study.sqlite").exists() and (output / "study.sqlite").stat().st_size > 8192


def trial_processes(cluster: Cluster) -> list[psutil.Process]:
    """Processes of the cluster's nodes that run trials, or did."""
    found = []
    for process in psutil.process_iter():
        try:
            of_cluster = process.environ().get("AEROGEL_HOME", "").startswith(cluster.folder)
            if of_cluster and ("forkserver" in " ".join(process.cmdline()) or "ray::score" in process.name()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_lost_node_loses_no_trial_but_the_times_that_it_measured(
    executor: str, cluster: Cluster, tmp_path: Path
) -> None:
    benchmark = Benchmark(model="tiny-gpt2", config=BenchConfig(2, 8, rounds=50, training_steps=1))
    trials: list[Trial] = [benchmark, *(WeightAnalysis(model=f"tiny-{name}") for name in ("bert", "gpt2", "bart"))]
    with open_executor(executor, tmp_path, small_spec()) as place:
        machine = Machine("", 2, 1.0, 1, "", "", "", {}, "two")
        assert place.outdated({benchmark: replace(machine, node="gone")}) == [benchmark]
        assert place.outdated({benchmark: replace(machine, node=None)}) == [benchmark]
        assert place.outdated({benchmark: machine}) == []  # and chooses node "two"
        handles = [place.submit(trial, None) for trial in trials]
        while not handles[0].progress:
            place.wait(timeout=1)
        [two] = cluster.worker_nodes
        cluster.remove_node(two, allow_graceful=False)
        while not all(handle.outcome for handle in handles):
            place.wait(timeout=1)
    assert isinstance(handles[0].outcome, Failed)
    assert "two" in handles[0].outcome.error
    assert [type(handle.outcome) for handle in handles[1:]] == [Done] * 3
    cluster.add_node(**LIMITS, **named("two", cluster.folder))


def test_too_few_resources_name_the_trial_and_what_it_needs(executor: str, tmp_path: Path) -> None:
    spec = small_spec(resources={"cpus": 3, "memory_gb": 2.5})
    with (
        open_executor(executor, tmp_path, spec) as place,
        pytest.raises(StudyError, match=r"tiny-bert, weights.*3 CPUs.*2\.5 GB.*one 2 CPUs"),
    ):
        place.submit(WeightAnalysis(model="tiny-bert"), None)


def test_another_version_on_a_node_is_refused(executor: str, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "packages" / "numpy-9.9.dist-info").mkdir(parents=True)
    (tmp_path / "packages" / "numpy-9.9.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 9.9\n")
    other = cluster.add_node(**LIMITS, **named("three", cluster.folder, PYTHONPATH=str(tmp_path / "packages")))
    try:
        with pytest.raises(StudyError, match=r"three.*numpy 9\.9"):
            run_study(small_spec(), tmp_path / "out", executor=executor)
    finally:
        cluster.remove_node(other)
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        listening = f"127.0.0.1:{silent.getsockname()[1]}"
        for address in ("127.0.0.1:1", listening, "nowhere", "ray://127.0.0.1:1", "127.0.0.1:x"):
            with pytest.raises(StudyError, match=address):
                run_study(small_spec(), tmp_path / "out", executor=f"ray:{address}")
    with pytest.raises(StudyError, match="ray"):
        run_study(small_spec(), tmp_path / "out", executor="rai")
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from aerogel.study.executors import open_executor\nfrom aerogel.study import StudySpec\n"
        "open_executor('ray', None, StudySpec(name='x', models=('tiny-bert',)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StudyError" in done.stderr.splitlines()[-1]
    assert "aerogel[ray]" in done.stderr.splitlines()[-1]
