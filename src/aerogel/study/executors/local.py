"""Trials in processes on this machine, one each: memory is measured from a clean start, and a crash ends one trial."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from aerogel import progress
from aerogel.benchmark import environment, usable_cores
from aerogel.benchmark.process import die_with_parent, ignore_interrupts
from aerogel.errors import AerogelError, writing
from aerogel.study.executors import Progress
from aerogel.study.results import Done, Failed, Machine, Outcome
from aerogel.study.run_trial import run_trial
from aerogel.study.trial import Trial
from aerogel.tasks import TaskData

LOG, SCRATCH = "trials.log", "scratch"  # in the study's folder
MESSAGE_EVERY = 0.1  # seconds between two messages of progress


class LocalExecutor:
    """Runs up to `processes` trials at a time, which share the cores; one that measures time runs alone, on all.

    Trials write their output to `trials.log` in `folder`, and their temporary files to `scratch`, which is removed.
    """

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self.processes = folder, processes
        self.waiting: list[TrialProcess] = []
        self.running: list[TrialProcess] = []

    def __enter__(self) -> LocalExecutor:
        with writing(self.folder):
            (self.folder / LOG).unlink(missing_ok=True)
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)  # of trials that were killed with their study
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.running:
            process.stop()
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def submit(self, trial: Trial, data: TaskData | None) -> TrialProcess:
        self.waiting.append(TrialProcess(trial, data, self.folder))
        return self.waiting[-1]

    def wait(self, timeout: float) -> None:
        while self.waiting and self._has_room(self.waiting[0].trial):
            process = self.waiting.pop(0)
            cores = usable_cores()
            process.start(cores if process.trial.runs_alone else max(1, cores // self.processes))
            self.running.append(process)
        connections = {process.connection: process for process in self.running}
        for connection in wait(list(connections), timeout):
            connections[connection].read()  # type: ignore[index]
        for process in [process for process in self.running if process.outcome]:
            self.running.remove(process)
            process.stop()

    def _has_room(self, trial: Trial) -> bool:
        if trial.runs_alone or any(process.trial.runs_alone for process in self.running):
            return not self.running
        return len(self.running) < self.processes


class TrialProcess:
    """A trial and the process that runs it, which sends its progress and its outcome through `connection`."""

    connection: Connection
    process: BaseProcess

    def __init__(self, trial: Trial, data: TaskData | None, folder: Path) -> None:
        self.trial, self.data, self.folder = trial, data, folder
        self.scratch = folder / SCRATCH / trial.key
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None

    def start(self, threads: int) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.progress, self.started = Progress("starting"), time.perf_counter()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "aerogel.benchmark.subject"])
        self.connection, theirs = context.Pipe(duplex=False)
        # a benchmark has processes of its own, which a daemon may not have
        arguments = (theirs, self.trial, self.data, threads, self.folder / LOG, self.scratch)
        self.process = context.Process(target=_serve, args=arguments, daemon=False)
        with ignore_interrupts():  # this process handles an interrupt and stops the trials
            self.process.start()
        theirs.close()

    def read(self) -> None:
        try:
            message = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            message = Failed(f"the trial's process {how}", time.perf_counter() - self.started)
        if isinstance(message, Progress):
            self.progress = message
        else:
            self.outcome = message

    def stop(self) -> None:
        if self.outcome is None and self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _serve(connection: Connection, trial: Trial, data: TaskData | None, threads: int, log: Path, scratch: Path) -> None:
    die_with_parent()
    _redirect_output(log)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)  # what a killed trial leaves there is removed
    gc.freeze()  # what was inherited stays: collecting it takes half a second and copies its pages
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(threads)
    started, last = time.perf_counter(), 0.0

    def send(description: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > MESSAGE_EVERY or done == total:
            last = now
            connection.send(Progress(description, done, total))

    with progress.listening(send):
        try:
            result, error = run_trial(trial, data), None
        except AerogelError as known:
            error = str(known)
        except Exception as unknown:
            traceback.print_exc()
            error = f"{type(unknown).__name__}: {unknown}"
    seconds, machine = time.perf_counter() - started, Machine(**environment())
    connection.send(Done(result, machine, seconds) if error is None else Failed(error, seconds, machine))


def _redirect_output(log: Path) -> None:
    """Writes what libraries print to a file, so that it does not mix with the study's own display."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
