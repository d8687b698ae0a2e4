"""Runs the open trials of a study, and stores each result as soon as it exists."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aerogel import progress
from aerogel.errors import StudyError, writing
from aerogel.files import lock
from aerogel.models import prepare
from aerogel.study.executors import Executor, Handle, Progress, open_executor
from aerogel.study.pace import Pace
from aerogel.study.plan import plan
from aerogel.study.results import Done, Failed, Outcome
from aerogel.study.spec import StudySpec
from aerogel.study.store import Store
from aerogel.study.trial import Scoring, SensitivityAnalysis, Trial
from aerogel.tasks import load_task

LOCK = "study.lock"  # in a study's folder


@dataclass(frozen=True)
class StudyProgress:
    """Counts of a study's trials, the trials that run, and those that `ended` since the last call.

    `seconds_left` is an estimate, or `None` as long as no trial has ended.
    """

    total: int
    done: int
    failed: int
    running: tuple[tuple[Trial, Progress], ...] = ()
    ended: tuple[tuple[Trial, Outcome], ...] = ()
    seconds_left: float | None = None


def run_study(
    spec: StudySpec,
    output: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    watch: Callable[[StudyProgress], None] = lambda progress: None,
    executor: str = "local",
) -> Store:
    """Runs the trials of a study that are new, interrupted or failed, and returns the store of the results.

    Models and data are loaded first, so that a wrong name fails at once. A failed trial is stored with its error, and
    the others still run. Running an interrupted study again resumes it.

    Args:
        spec: see `load_spec`.
        output: the folder of the study. Its store is there.
        data: a folder of tasks, as in `aerogel.load_task`.
        watch: called at every change.
        executor: "local" for this machine, or "ray" or "ray:HOST:PORT" for a Ray cluster that this machine belongs to.

    Raises `AerogelError` if a model, a task or the store can't be used, and `StudyError` if another process runs the
    study in `output`, or if the cluster can't be used.

    >>> import aerogel
    >>> spec = aerogel.StudySpec(name="tiny", models=("tiny-bert",), sparsities=(0.5,), benchmark=None)
    >>> aerogel.run_study(spec, "runs/tiny").count()
    1
    """
    output = Path(output)
    Store.check(output, spec)
    for model in progress.track(spec.models, "finding models"):
        prepare(model)
    loaded = {
        task: load_task(task, data, columns=spec.columns.get(task)).divided()
        for task in progress.track(spec.tasks, "finding data")
    }
    place = open_executor(executor, output, spec)  # connects, so that nothing is written without a cluster
    with study_lock(output), place:
        store = Store.create(output, spec, plan(spec, loaded))
        outcomes = store.outcomes()
        measured = {
            trial: outcome.machine for trial, outcome in outcomes if trial.runs_alone and isinstance(outcome, Done)
        }
        store.reopen(place.outdated(measured))
        handles = [
            place.submit(trial, loaded[trial.task] if isinstance(trial, Scoring | SensitivityAnalysis) else None)
            for trial in store.open_trials()
        ]
        _collect(place, handles, store, watch, Pace(outcomes))
    return store


def _collect(
    executor: Executor, handles: list[Handle], store: Store, watch: Callable[[StudyProgress], None], pace: Pace
) -> None:
    total = store.count()
    done, failed = total - len(handles), 0
    while handles:
        executor.wait(timeout=0.5)
        ended = [(handle.trial, handle.outcome) for handle in handles if handle.outcome]
        handles = [handle for handle in handles if not handle.outcome]
        for trial, outcome in ended:
            store.finish(trial, outcome)
            pace.add(trial, outcome)
            failed += isinstance(outcome, Failed)
            done += not isinstance(outcome, Failed)
        running = tuple((handle.trial, handle.progress) for handle in handles if handle.progress)
        left = pace.left([handle.trial for handle in handles], [trial for trial, _ in running])
        watch(StudyProgress(total, done, failed, running, tuple(ended), left))


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Locks the study in `folder` for this process while the block runs.

    The system releases the lock when this process ends or dies. Raises `StudyError`, naming the process that holds the
    lock, if another process runs the study.
    """
    path = folder / LOCK
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            lock(handle)
        except (BlockingIOError, PermissionError) as error:  # the latter on Windows
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            raise StudyError(f"{folder}: {holder} runs this study: wait, or choose another --output") from error
        with writing(path):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')},".encode())
        yield
    finally:
        os.close(handle)
