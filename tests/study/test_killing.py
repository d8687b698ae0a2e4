"""A study that is killed keeps what it has finished, and leaves nothing behind."""

import tempfile
from pathlib import Path

import pytest

from killing import kill_at_random


@pytest.mark.long
def test_a_killed_study_goes_on_without_losing_a_trial() -> None:
    # a short path: sockets of processes lie in the folder for temporary files, and their names have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="kill-", dir="/tmp") as folder:
        tally = kill_at_random(Path(folder), kills=3, seed=1)
    assert tally.wrong == []
    assert sum(tally.left.values()) == 0  # empty folders are multiprocessing's
