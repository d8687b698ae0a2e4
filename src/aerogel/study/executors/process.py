"""Work in a process of its own: memory is measured from a clean start, and a crash ends one trial."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from aerogel import progress
from aerogel.benchmark import environment
from aerogel.benchmark.process import die_with_parent, ignore_interrupts, start_server
from aerogel.errors import AerogelError
from aerogel.study.executors import Progress
from aerogel.study.results import Done, Failed, Machine, Outcome

MESSAGE_EVERY = 0.1  # seconds between two messages of progress


class WorkProcess:
    """A process that calls `work` and sends its progress and its outcome through `connection`.

    It writes its output to the file `log` and its temporary files to the folder `scratch`, which is removed.
    """

    connection: Connection
    process: BaseProcess

    def __init__(self, work: Callable[[], Any], log: Path, scratch: Path) -> None:
        self.work, self.log, self.scratch = work, log, scratch
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None

    def start(self, threads: int) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.progress, self.started = Progress("starting"), time.perf_counter()
        start_server("aerogel.study.executors.local")
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe(duplex=False)
        # a benchmark has processes of its own, which a daemon may not have
        arguments = (theirs, self.work, threads, self.log, self.scratch)
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


def _serve(connection: Connection, work: Callable[[], Any], threads: int, log: Path, scratch: Path) -> None:
    die_with_parent(scratch)
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

    machine = Machine(**environment())
    outcome: Outcome
    with progress.listening(send):
        try:
            outcome = Done(work(), machine, 0.0)
        except AerogelError as error:
            outcome = Failed(str(error), 0.0, machine)
        except Exception as error:
            traceback.print_exc()
            out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
            outcome = Failed(f"{type(error).__name__}: {error}", 0.0, None if out_of_memory else machine)
    connection.send(replace(outcome, seconds=time.perf_counter() - started))


def _redirect_output(log: Path) -> None:
    """Writes what libraries print to a file, so that it does not mix with the study's own display."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
