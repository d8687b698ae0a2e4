"""Measuring processes end with their parent, and release memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from aerogel.benchmark.checkpoint import Checkpoint
from aerogel.benchmark.process import Worker
from aerogel.benchmark.subject import Subject, prepare, serve
from aerogel.models import Head
from builders import alive_in_session

ENDLESS = """
from aerogel import progress
from aerogel.benchmark import BenchConfig, Subject, bench
if __name__ == "__main__":
    with progress.listening(lambda doing, done, total: print(doing, flush=True)):
        subjects = [Subject("tiny-bert"), Subject("tiny-gpt2"), Subject("tiny-bart")]
        bench(subjects, BenchConfig(batch_size=2, sequence_length=8, rounds=10**9, threads=1), start=START)
"""


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_killing_the_parent_during_a_round_leaves_no_process(start: str) -> None:
    command = [sys.executable, "-c", ENDLESS.replace("START", repr(start))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout
    assert any(line.startswith("measuring") for line in parent.stdout)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not alive_in_session(parent.pid)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_process_releases_memory_after_training(tmp_path: Path) -> None:
    (checkpoint,) = _prepared(Subject("tiny-gpt2", head=Head("classification", ("0", "1"))), tmp_path)
    with Worker("tiny-gpt2", "forkserver", serve, checkpoint, 64, 64, 1, 0) as worker:
        worker.receive()
        loaded = _memory(worker)["VmRSS"]
        for _ in range(2):
            worker.request("training")
        after = _memory(worker)
    assert after["VmHWM"] - loaded > 100_000  # kB
    assert after["VmRSS"] - loaded < 0.5 * (after["VmHWM"] - loaded)


def _prepared(subject: Subject, scratch: Path) -> list[Checkpoint]:
    with Worker(subject.name, "forkserver", prepare, subject, scratch, 1, 0) as worker:
        return worker.receive()


def _memory(worker: Worker) -> dict[str, int]:
    lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
