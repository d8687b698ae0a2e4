"""The ranges of the numbers that options, studies and functions take: beyond them no machine has memory or time."""

from __future__ import annotations

COUNT = 2**31 - 1  # the most examples or windows
SIZE = 2**20  # the most sequences of a batch, tokens of a sequence, rounds and steps
THREADS = 1024
PROCESSES = 1024
EPOCHS = 1e4
LEARNING_RATE = 10.0
