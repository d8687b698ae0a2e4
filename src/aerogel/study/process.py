"""A trial in a process of its own: memory is measured honestly there, and a crash stays inside."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from aerogel import progress
from aerogel.benchmark import environment
from aerogel.benchmark.process import die_with_parent, ignore_interrupts
from aerogel.errors import AerogelError
from aerogel.study.trial import Result, Trial, run_trial
from aerogel.tasks import TaskData

LOG, SCRATCH = "trials.log", "scratch"  # in the study's folder
MESSAGE_EVERY = 0.1  # seconds between two words of progress


class TrialProcess:
    """A running trial: `connection` is ready to read when there is progress or the result."""

    def __init__(self, trial: Trial, data: TaskData | None, threads: int, folder: Path) -> None:
        self.trial = trial
        self.scratch = folder / SCRATCH / trial.key
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.doing, self.done, self.total = "starting", 0, 0
        self.started = time.perf_counter()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["aerogel.study.process", "aerogel.benchmark.subject"])
        self.connection, theirs = context.Pipe(duplex=False)
        # a trial that measures has processes of its own, which a daemon may not have
        self.process = context.Process(
            target=_serve, args=(theirs, trial, data, threads, folder / LOG, self.scratch), daemon=False
        )
        with ignore_interrupts():  # the parent hears of one and stops the trials
            self.process.start()
        theirs.close()

    def read(self) -> Result | None:
        """Takes in one message: the result if that is what came, else `None`."""
        try:
            kind, message = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            return Result("failed", {}, {}, time.perf_counter() - self.started, f"the trial's process {how}")
        if kind == "progress":
            self.doing, self.done, self.total = message
            return None
        self.process.join()
        return message

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _serve(connection: Connection, trial: Trial, data: TaskData | None, threads: int, log: Path, scratch: Path) -> None:
    die_with_parent()
    _say_into(log)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)  # where what a killed trial leaves is found and removed
    gc.freeze()  # what was inherited stays: collecting it takes half a second and copies its pages
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(threads)
    started, last = time.perf_counter(), 0.0

    def tell(doing: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > MESSAGE_EVERY or done == total:
            last = now
            connection.send(("progress", (doing, done, total)))

    values: dict[str, Any] = {}
    error = None
    with progress.listening(tell):
        try:
            values = run_trial(trial, data)
        except AerogelError as known:
            error = str(known)
        except Exception as unknown:
            traceback.print_exc()
            error = f"{type(unknown).__name__}: {unknown}"
    seconds = time.perf_counter() - started
    connection.send(("result", Result("failed" if error else "done", values, environment(), seconds, error)))


def _say_into(log: Path) -> None:
    """Sends what libraries print to a file, out of the way of the study's own display."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
