"""Trials in processes on this machine, one each."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from aerogel.benchmark import usable_cores
from aerogel.errors import writing
from aerogel.study.executors.process import WorkProcess
from aerogel.study.results import Machine
from aerogel.study.run_trial import run_trial
from aerogel.study.spec import StudySpec
from aerogel.study.trial import Trial
from aerogel.tasks import TaskData

LOG, SCRATCH = "trials.log", "scratch"  # in the study's folder


class LocalExecutor:
    """Runs up to `processes` trials at a time, which share the cores; one that measures time runs alone, on all.

    Trials write their output to `trials.log` in `folder`, and their temporary files to `scratch`, which is removed.
    """

    def __init__(self, folder: Path, spec: StudySpec) -> None:
        self.folder, self.processes = folder, spec.processes
        self.threads = spec.resources.cpus or max(1, usable_cores() // self.processes)
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

    def outdated(self, measured: Mapping[Trial, Machine]) -> list[Trial]:
        return [trial for trial, machine in measured.items() if machine.node]

    def wait(self, timeout: float) -> None:
        while self.waiting and self._has_room(self.waiting[0].trial):
            process = self.waiting.pop(0)
            process.start(usable_cores() if process.trial.runs_alone else self.threads)
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


class TrialProcess(WorkProcess):
    """A trial and the process that runs it."""

    def __init__(self, trial: Trial, data: TaskData | None, folder: Path) -> None:
        super().__init__(partial(run_trial, trial, data), folder / LOG, folder / SCRATCH / trial.key)
        self.trial = trial
