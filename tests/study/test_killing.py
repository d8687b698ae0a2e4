"""A study that is killed keeps what it has finished, and leaves nothing behind."""

from pathlib import Path

from killing import kill_at_random


def test_a_killed_study_goes_on_without_losing_a_trial(tmp_path: Path) -> None:
    tally = kill_at_random(tmp_path, kills=3, seed=1)
    assert tally.wrong == []
    assert sum(tally.left.values()) == 0  # empty folders are multiprocessing's
