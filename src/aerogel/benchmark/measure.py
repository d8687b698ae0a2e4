"""Time and memory of several models side by side: each in a fresh process, their rounds interleaved."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from aerogel import bounds, progress
from aerogel.benchmark.process import Start, Worker
from aerogel.benchmark.subject import Checkpoint, Subject, prepare, serve
from aerogel.bounds import check_seed
from aerogel.errors import AerogelError, ModelError, excerpt, expect


@dataclass(frozen=True)
class BenchConfig:
    """What to measure: batches of `batch_size` sequences of `sequence_length` random tokens.

    `rounds` of inference and `training_steps` are timed after one of each that is not; `threads` is PyTorch's
    own number where it is `None`. Raises `AerogelError` for numbers out of range.
    """

    batch_size: int = 128
    sequence_length: int = 64
    rounds: int = 7
    training_steps: int = 3
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for what, found, least, most in (
            ("batch size", self.batch_size, 1, 2**40),
            ("sequence length", self.sequence_length, 1, bounds.SIZE),
            ("rounds", self.rounds, 1, bounds.COUNT),
            ("training steps", self.training_steps, 0, bounds.COUNT),
            ("threads", 1 if self.threads is None else self.threads, 1, bounds.THREADS),
        ):
            if not least <= found <= most:
                raise AerogelError(f"{what} {excerpt(found)}: expected a number from {least} to {most:,}")
        check_seed(self.seed, AerogelError)


@dataclass(frozen=True)
class Measurement:
    """What one subject cost, dense or `compressed`.

    Seconds of an inference batch and of a training step, in the order they were taken; the peak of resident memory
    over the process's baseline, in bytes, in inference and with training; bytes in memory of parameters and buffers;
    bytes of the weight files. A compressed model is not trained.
    """

    name: str
    latencies: tuple[float, ...]
    training_steps: tuple[float, ...]
    inference_memory: int
    training_memory: int | None
    parameter_bytes: int
    file_bytes: int
    batch_size: int
    compressed: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.latencies)

    @property
    def p90(self) -> float:
        return float(np.quantile(self.latencies, 0.9))

    @property
    def throughput(self) -> float:
        """Sequences a second, at the median latency."""
        return self.batch_size / self.median

    @property
    def training_median(self) -> float | None:
        return statistics.median(self.training_steps) if self.training_steps else None


def bench(
    subjects: Sequence[Subject], config: BenchConfig | None = None, start: Start = "forkserver"
) -> list[Measurement]:
    """Measures all subjects in one interleaved run: round one of each, round two of each, and so on.

    A subject that `aerogel.compress` packs layers of is measured twice, dense and then compressed, in two entries.
    Only one process works at a time. `start` is how processes start: "fork" is for a caller that is itself
    a fresh child of a fork server and has computed nothing yet, and spares it a server of its own.
    Raises what a subject's process raised, or `AerogelError` where one died.
    """
    for subject in subjects:
        expect(subject, Subject, ModelError, "the models to measure as aerogel.benchmark.Subject(name)")
    config = config or BenchConfig()
    threads = config.threads or torch.get_num_threads()
    serving = config.batch_size, config.sequence_length, threads, config.seed
    with ExitStack() as stack:
        with TemporaryDirectory(prefix="aerogel-") as scratch:
            checkpoints = _prepare(subjects, Path(scratch), threads, config.seed, start)
            workers = [
                stack.enter_context(Worker(checkpoint.name, start, serve, checkpoint, *serving))
                for checkpoint in checkpoints
            ]
            for worker in progress.track(workers, "loading"):
                worker.answer()
        trained = [worker for worker, of in zip(workers, checkpoints, strict=True) if not of.compressed]
        inference = _rounds(workers, "inference", config.rounds)
        training = _rounds(trained, "training", config.training_steps)
    made = []
    for worker, checkpoint in zip(workers, checkpoints, strict=True):
        latencies, inference_memory = inference[worker]
        steps, training_memory = training.get(worker, ((), None))
        made.append(
            Measurement(
                name=checkpoint.name,
                latencies=latencies,
                training_steps=steps,
                inference_memory=inference_memory,
                training_memory=training_memory,
                parameter_bytes=checkpoint.parameter_bytes,
                file_bytes=checkpoint.file_bytes,
                batch_size=config.batch_size,
                compressed=checkpoint.compressed,
            )
        )
    return made


def _prepare(subjects: Sequence[Subject], scratch: Path, threads: int, seed: int, start: Start) -> list[Checkpoint]:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(subject.name, start, prepare, subject, scratch / str(place), threads, seed))
            for place, subject in enumerate(subjects)
        ]
        return [checkpoint for worker in progress.track(workers, "preparing") for checkpoint in worker.answer()]


def _rounds(workers: Sequence[Worker], request: str, count: int) -> dict[Worker, tuple[tuple[float, ...], int]]:
    """Times `count` rounds after a warm-up: the seconds of each worker, and its peak of memory."""
    times: dict[Worker, list[float]] = {worker: [] for worker in workers}
    peaks = dict.fromkeys(workers, 0)
    for number in progress.track(range(count + 1), f"measuring {request}"):
        # there and back, so that no subject always comes first
        for worker in workers if number % 2 else reversed(workers):
            seconds, peaks[worker] = worker.ask(request)
            if number:
                times[worker].append(seconds)
    return {worker: (tuple(times[worker]), peaks[worker]) for worker in workers}
