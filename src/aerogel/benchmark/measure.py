"""Time and memory of several models side by side: each in a fresh process, their rounds interleaved."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from aerogel import progress
from aerogel.benchmark.subject import Subject, serve
from aerogel.errors import AerogelError


@dataclass(frozen=True)
class BenchConfig:
    """What to measure: batches of `batch_size` sequences of `sequence_length` random tokens.

    `rounds` of inference and `training_steps` are timed after one of each that is not; `threads` is PyTorch's
    own number where it is `None`.
    """

    batch_size: int = 128
    sequence_length: int = 64
    rounds: int = 7
    training_steps: int = 3
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """What one subject cost.

    Seconds of an inference batch and of a training step, in the order they were taken; the peak of resident memory
    over the process's baseline, in bytes, in inference and with training; bytes of parameters and of files.
    """

    name: str
    latencies: tuple[float, ...]
    training_steps: tuple[float, ...]
    inference_memory: int
    training_memory: int
    parameter_bytes: int
    file_bytes: int
    batch_size: int

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
    def training_median(self) -> float:
        return statistics.median(self.training_steps)


def bench(
    subjects: Sequence[Subject], config: BenchConfig | None = None, start: Literal["forkserver", "fork"] = "forkserver"
) -> list[Measurement]:
    """Measures all subjects in one interleaved run: round one of each, round two of each, and so on.

    Only one process works at a time. `start` is how processes start: "fork" is for a caller that is itself
    a fresh child of a fork server and has computed nothing yet, and spares it a server of its own.
    Raises what a subject's process raised, or `AerogelError` where one died.
    """
    config = config or BenchConfig()
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(subject, config, start)) for subject in subjects]
        sizes = [process.answer() for process in progress.track(processes, "loading")]
        latencies, inference_memory = _rounds(processes, "inference", config.rounds)
        training, training_memory = _rounds(processes, "training", config.training_steps)
    return [
        Measurement(
            name=subject.name,
            latencies=latencies[place],
            training_steps=training[place],
            inference_memory=inference_memory[place],
            training_memory=training_memory[place],
            **sizes[place],
            batch_size=config.batch_size,
        )
        for place, subject in enumerate(subjects)
    ]


class _Process:
    def __init__(self, subject: Subject, config: BenchConfig, start: str) -> None:
        self.name = subject.name
        context: Any = multiprocessing.get_context(start)
        if start == "forkserver":
            context.set_forkserver_preload(["aerogel.benchmark.subject"])
        self.connection, theirs = context.Pipe()
        threads = config.threads or torch.get_num_threads()
        arguments = (theirs, subject, config.batch_size, config.sequence_length, threads, config.seed)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, request: str) -> Any:
        self.connection.send(request)
        return self.answer()

    def answer(self) -> Any:
        try:
            status, value = self.connection.recv()
        except EOFError as error:
            self.process.join()
            raise AerogelError(
                f"{self.name}: its process died (exit code {self.process.exitcode}), perhaps for want of memory: "
                "try a smaller batch size"
            ) from error
        if status == "failed":
            raise value
        return value

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send("stop")
        self.process.join(timeout=1)
        self.process.kill()  # still in the middle of a round
        self.process.join()


@contextmanager
def _process(subject: Subject, config: BenchConfig, start: str) -> Iterator[_Process]:
    process = _Process(subject, config, start)
    try:
        yield process
    finally:
        process.stop()


def _rounds(processes: list[_Process], request: str, count: int) -> tuple[list[tuple[float, ...]], list[int]]:
    """Times `count` rounds after a warm-up: seconds, and the peak memory, by process."""
    times: list[list[float]] = [[] for _ in processes]
    peaks = [0] * len(processes)
    for number in progress.track(range(count + 1), f"measuring {request}"):
        places = list(range(len(processes)))
        # there and back, so that no subject always comes first
        for place in places if number % 2 else reversed(places):
            seconds, peaks[place] = processes[place].ask(request)
            if number:
                times[place].append(seconds)
    return [tuple(seconds) for seconds in times], peaks
