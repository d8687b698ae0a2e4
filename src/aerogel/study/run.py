"""Running a study: its open trials, several at a time, each result kept as soon as it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from aerogel import progress
from aerogel.benchmark import usable_cores
from aerogel.errors import writing
from aerogel.models import prepare
from aerogel.study.lock import sole
from aerogel.study.plan import plan
from aerogel.study.process import LOG, SCRATCH, TrialProcess
from aerogel.study.spec import StudySpec
from aerogel.study.store import Store
from aerogel.study.trial import Result, Trial
from aerogel.tasks import TaskData, load_task


@dataclass
class State:
    """A study as it goes, for whoever shows it: `running` trials, and counts of trials by how they stand.

    `before` of those done were done when this run began.
    """

    total: int
    done: int
    failed: int = 0
    before: int = 0
    running: list[TrialProcess] = field(default_factory=list)
    finished: tuple[Trial, Result] | None = None


def run_study(
    spec: StudySpec,
    output: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    watch: Callable[[State], None] = lambda state: None,
) -> Store:
    """Runs the trials that the store in `output` has no good result for, and returns the store.

    Models and data are found first, so that a wrong name costs nothing. `watch` is called at every change,
    with `finished` set when a trial has just ended. A failed trial is kept with its error and the rest go on. Raises
    `AerogelError` where a model, a task or the store is not usable, and `StudyError` where another process runs the
    study in `output`.
    """
    output = Path(output)
    Store.check(output, spec)
    for model in progress.track(spec.models, "finding models"):
        prepare(model)
    loaded = {task: load_task(task, data).divided() for task in progress.track(spec.tasks, "finding data")}
    with sole(output):
        store = Store.create(output, spec, plan(spec, loaded))
        with writing(output):
            (output / LOG).unlink(missing_ok=True)
        shutil.rmtree(output / SCRATCH, ignore_errors=True)  # of trials that were killed with their study
        try:
            _run(store, loaded, spec.processes, output, watch)
        finally:
            shutil.rmtree(output / SCRATCH, ignore_errors=True)
    return store


def _run(
    store: Store, data: Mapping[str, TaskData], processes: int, folder: Path, watch: Callable[[State], None]
) -> None:
    """Runs the open trials, and keeps each result as soon as it is there."""
    waiting = store.open_trials()
    done = store.count() - len(waiting)
    state = State(total=store.count(), done=done, before=done)
    try:
        while waiting or state.running:
            while waiting and _has_room(waiting[0], state.running, processes):
                state.running.append(_start(waiting.pop(0), data, processes, folder))
                watch(state)
            for connection in wait([process.connection for process in state.running], timeout=0.5):
                process = next(process for process in state.running if process.connection is connection)
                result = process.read()
                if result is not None:
                    store.finish(process.trial, result)
                    state.running.remove(process)
                    process.stop()
                    state.done += result.status == "done"
                    state.failed += result.status == "failed"
                    state.finished = process.trial, result
                watch(state)
                state.finished = None
            watch(state)
    finally:
        for process in state.running:
            process.stop()


def _has_room(trial: Trial, running: list[TrialProcess], processes: int) -> bool:
    """Whether a trial may start now: what measures time runs alone."""
    if trial.kind == "bench" or any(process.trial.kind == "bench" for process in running):
        return not running
    return len(running) < processes


def _start(trial: Trial, data: Mapping[str, TaskData], processes: int, folder: Path) -> TrialProcess:
    cores = usable_cores()
    threads = cores if trial.kind == "bench" else max(1, cores // processes)
    return TrialProcess(trial, data[trial.task] if trial.task else None, threads, folder)
