"""Ranges of the numbers that options, studies and functions accept."""

from aerogel.errors import AerogelError

COUNT = 2**31 - 1  # examples or windows
SIZE = 2**20  # sequences in a batch, tokens in a sequence, rounds, steps
THREADS = 1024
PROCESSES = 1024
EPOCHS = 1e4
LEARNING_RATE = 10.0
SEEDS = range(2**32)  # NumPy accepts no larger seed, and transformers sets its seed with the others


def check_seed(seed: int, error: type[AerogelError]) -> None:
    """Raise `error` for a seed outside `SEEDS`."""
    if seed not in SEEDS:
        raise error(f"seed {seed}: expected one from 0 to {SEEDS[-1]}")
