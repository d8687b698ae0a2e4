"""Processes that measure end with the one that asked for them."""

import subprocess
import sys

import pytest

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
def test_killing_the_parent_in_the_midst_of_a_round_leaves_no_process(start: str) -> None:
    command = [sys.executable, "-c", ENDLESS.replace("START", repr(start))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout
    assert any(line.startswith("measuring") for line in parent.stdout)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not alive_in_session(parent.pid)
