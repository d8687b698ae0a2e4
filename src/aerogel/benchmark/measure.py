"""Benchmarks several models: each in a fresh process, with interleaved rounds."""

import statistics
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from aerogel import bounds, progress
from aerogel.benchmark.checkpoint import Checkpoint
from aerogel.benchmark.process import Start, Worker
from aerogel.benchmark.runtimes import check_runtime, convert, serve_runtime
from aerogel.benchmark.subject import Subject, prepare, serve
from aerogel.bounds import check_seed
from aerogel.errors import AerogelError, AerogelWarning, ModelError, excerpt, expect
from aerogel.tables import html_table, latency, size

SETTLE = 0.05  # seconds before each round: idle threads of the process before spin for a while, and slow down others
COLUMNS = (
    *("model", "median", "p90", "sequences", "speed", "training step"),
    *("memory", "training memory", "weights", "files"),
)


@dataclass(frozen=True)
class BenchConfig:
    """What to measure: batches of `batch_size` sequences of `sequence_length` random tokens.

    Of a waveform, `sequence_length` is the number of frames that a speech model's blocks see; images and spectrograms
    have the size in the model's configuration.

    `rounds` of inference and `training_steps` are timed, each after one warm-up; `threads` defaults to PyTorch's
    number. Raises `AerogelError` for numbers out of range.

    >>> BenchConfig(batch_size=1).sequence_length
    64
    """

    batch_size: int = 128
    sequence_length: int = 64
    rounds: int = 7
    training_steps: int = 3
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("batch size", self.batch_size, 1, 2**40),
            ("sequence length", self.sequence_length, 1, bounds.SIZE),
            ("rounds", self.rounds, 1, bounds.COUNT),
            ("training steps", self.training_steps, 0, bounds.COUNT),
            ("threads", 1 if self.threads is None else self.threads, 1, bounds.THREADS),
        ):
            if not least <= value <= most:
                raise AerogelError(f"{name} {excerpt(value)}: expected a number from {least} to {most:,}")
        check_seed(self.seed, AerogelError)


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one model, dense, `compressed`, or dense in another `runtime`.

    `latencies` are the seconds of each inference batch and `training_steps` those of each training step. Memory is in
    bytes: `inference_memory` and `training_memory` are peak resident memory above the process's baseline,
    `parameter_bytes` are parameters and buffers in memory, `file_bytes` the weight files, in the dtypes of the model's
    own files. Only a dense model in PyTorch is trained.
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
    runtime: str | None = None

    @property
    def label(self) -> str:
        """The name, and the form that was measured if that is not the dense model in PyTorch."""
        form = "compressed" if self.compressed else self.runtime
        return f"{self.name}, {form}" if form else self.name

    @property
    def median(self) -> float:
        return statistics.median(self.latencies)

    @property
    def p90(self) -> float:
        return float(np.quantile(self.latencies, 0.9))

    @property
    def throughput(self) -> float:
        """Sequences per second at the median latency."""
        return self.batch_size / self.median

    @property
    def training_median(self) -> float | None:
        return statistics.median(self.training_steps) if self.training_steps else None


class Measurements(list[Measurement]):
    """A list of measurements that notebooks show as a table."""

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of a table with `COLUMNS`; speed is relative to the first model."""
        packed = {entry.name for entry in self if entry.compressed}
        return [
            (
                f"{entry.label}, run dense" if entry.label in packed else entry.label,
                latency(entry.median),
                latency(entry.p90),
                f"{entry.throughput:.1f}/s",
                f"{self[0].median / entry.median:.2f}x",
                "" if entry.training_median is None else latency(entry.training_median),
                size(entry.inference_memory),
                "" if entry.training_memory is None else size(entry.training_memory),
                size(entry.parameter_bytes),
                size(entry.file_bytes),
            )
            for entry in self
        ]

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self.rows())


def bench(
    subjects: Sequence[Subject],
    config: BenchConfig | None = None,
    start: Start = "forkserver",
    beside: Sequence[str] = (),
) -> Measurements:
    """Measure all subjects in one interleaved run: round one of each, then round two of each, and so on.

    A pruned subject is measured dense and then compressed, if `aerogel.compress` packs any of its layers: two entries.
    `beside` names other `RUNTIMES`; each measures every subject with all its layers dense, and an `AerogelWarning` says
    why if it fails. Only one process computes at a time. `start` "fork" is for a caller that is itself a fresh child of
    a fork server and has computed nothing yet. Raises the errors of the subjects' processes, and `AerogelError` if one
    dies, and for a runtime that is unknown or not installed.

    >>> from aerogel.benchmark import BenchConfig, Subject
    >>> measurements = bench([Subject("tiny-gpt2")], BenchConfig(1, 8, rounds=3, training_steps=0, threads=1))
    >>> len(measurements[0].latencies)
    3
    """
    for subject in subjects:
        expect(subject, Subject, ModelError, "models as aerogel.benchmark.Subject(name)")
    for runtime in beside:
        check_runtime(runtime)
    config = config or BenchConfig()
    threads = config.threads or torch.get_num_threads()
    settings = config.batch_size, config.sequence_length, threads, config.seed
    with ExitStack() as stack:
        with TemporaryDirectory(prefix="aerogel-") as scratch:
            checkpoints = _prepare(subjects, Path(scratch), threads, config.seed, start)
            checkpoints += _convert(checkpoints, beside, settings, start)
            workers = _load(checkpoints, settings, start, stack)
        trained = [worker for worker, entry in workers.items() if entry.trains]
        inference = _rounds(list(workers), "inference", config.rounds)
        training = _rounds(trained, "training", config.training_steps)
    measurements = Measurements()
    for worker, checkpoint in workers.items():
        latencies, inference_memory = inference[worker]
        steps, training_memory = training.get(worker, ((), None))
        measurements.append(
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
                runtime=checkpoint.runtime,
            )
        )
    return measurements


def _prepare(subjects: Sequence[Subject], scratch: Path, threads: int, seed: int, start: Start) -> list[Checkpoint]:
    numbered, prepared = list(enumerate(subjects)), []
    # removing structures measures time, so that nothing may run beside it
    groups = [[entry] for entry in numbered] if any(subject.structure for subject in subjects) else [numbered]
    for group in groups:
        with ExitStack() as stack:
            workers = [
                stack.enter_context(Worker(subject.name, start, prepare, subject, scratch / str(index), threads, seed))
                for index, subject in group
            ]
            prepared += [worker.receive() for worker in progress.track(workers, "preparing")]
    return [checkpoint for checkpoints in prepared for checkpoint in checkpoints]


def _convert(
    checkpoints: Sequence[Checkpoint], beside: Sequence[str], settings: tuple[int, int, int, int], start: Start
) -> list[Checkpoint]:
    """The dense checkpoints, converted for each runtime that can."""
    converted = []
    pairs = [(entry, runtime) for entry in checkpoints if not entry.compressed for runtime in beside]
    for dense, runtime in progress.track(pairs, "converting"):
        folder = dense.folder.with_name(runtime)
        with Worker(dense.name, start, convert, dense, runtime, folder, settings) as worker:
            try:
                converted.append(worker.receive())
            except AerogelError as error:
                _warn(dense.name, runtime, error)
    return converted


def _load(
    checkpoints: Sequence[Checkpoint], settings: tuple[int, int, int, int], start: Start, stack: ExitStack
) -> dict[Worker, Checkpoint]:
    """Start a process for each checkpoint, which ends with the stack, and wait until all have loaded."""
    _, _, threads, _ = settings
    workers = {}
    for checkpoint in checkpoints:
        work = (serve_runtime, checkpoint, threads) if checkpoint.runtime else (serve, checkpoint, *settings)
        workers[stack.enter_context(Worker(checkpoint.name, start, *work))] = checkpoint
    for worker, checkpoint in progress.track(list(workers.items()), "loading"):
        try:
            worker.receive()
        except AerogelError as error:
            if not checkpoint.runtime:
                raise
            _warn(checkpoint.name, checkpoint.runtime, error)
            del workers[worker]
    return workers


def _warn(name: str, runtime: str, error: AerogelError) -> None:
    warnings.warn(f"{name} is not measured in {runtime}: {error}", AerogelWarning, stacklevel=4)


def _rounds(workers: Sequence[Worker], request: str, count: int) -> dict[Worker, tuple[tuple[float, ...], int]]:
    """Time `count` rounds after a warm-up. Returns each worker's seconds and its peak memory."""
    times: dict[Worker, list[float]] = {worker: [] for worker in workers}
    peaks = dict.fromkeys(workers, 0)
    for round_number in progress.track(range(count + 1), f"measuring {request}"):
        # the order alternates, so that no subject always comes first
        for worker in workers if round_number % 2 else reversed(workers):
            time.sleep(SETTLE)
            seconds, peaks[worker] = worker.request(request)
            if round_number:
                times[worker].append(seconds)
    return {worker: (tuple(times[worker]), peaks[worker]) for worker in workers}
