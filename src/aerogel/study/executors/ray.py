"""Trials as tasks of a Ray cluster, which this machine belongs to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aerogel.errors import StudyError, first_line, writing
from aerogel.study.executors import Progress
from aerogel.study.parts import ResourcesPart
from aerogel.study.results import Done, Failed, Machine, Outcome
from aerogel.study.trial import Scoring, Trial
from aerogel.tasks import TaskData
from aerogel.training.recovery import starts_tuned, tuned_folder

try:
    import ray
except ImportError as error:
    raise StudyError("--executor ray needs Ray, which is not installed: pip install 'aerogel[ray]'") from error

from aerogel.study.executors.cluster import Node, check_versions, connect, nodes
from aerogel.study.executors.node import (
    Ended,
    FolderContent,
    Job,
    Message,
    Started,
    score_trial,
    tune_teacher,
    versions,
)

LOG = "trials.log"  # in the study's folder
ATTEMPTS = 3  # for a trial that fails because of its machine
SUBMITTED = 1000  # tasks that Ray has at a time
CHECK_EVERY = 5.0  # seconds between two looks at the nodes that are left

SCORE, TUNE = (ray.remote(num_returns="streaming", max_retries=0)(work) for work in (score_trial, tune_teacher))


class RayExecutor:
    """Runs each trial as a task with the CPUs, memory and GPUs of `resources`.

    One that measures time gets all CPUs of a node, the same node for all of them. A dense model that trials start from
    is trained once, in a task of its own, and kept in the cache of this machine. A task whose machine fails runs again,
    on another node if there is one.
    """

    def __init__(self, address: str, folder: Path, resources: ResourcesPart) -> None:
        self.folder, self.resources = folder, resources
        self.waiting: list[Task] = []
        self.running: list[Task] = []
        self.teachers: dict[Path, Task] = {}  # that are trained now
        self.dense: dict[Path, ray.ObjectRef] = {}  # contents of their folders
        self.data: dict[str, ray.ObjectRef] = {}
        self.models: dict[str, tuple[ray.ObjectRef, str]] = {}
        self.names: dict[str, str] = {}
        self.measuring: Node | None = None
        self.checked = time.monotonic()
        connect(address)
        try:
            check_versions(self._nodes())
            self.outdated({})
        except BaseException:
            ray.shutdown()
            raise

    def __enter__(self) -> RayExecutor:
        with writing(self.folder):
            (self.folder / LOG).unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()  # ends the tasks

    def outdated(self, measured: Mapping[Trial, Machine]) -> list[Trial]:
        """Chooses the node that measures time: the previous one if it is still there, else the largest."""
        fitting = {node.name: node for node in self._nodes() if node.has(self.resources)}
        counts = Counter(machine.node for machine in measured.values() if machine.node in fitting)
        name = counts.most_common(1)[0][0] if counts else None
        self.measuring = fitting[name] if name else max(fitting.values(), key=lambda node: node.cpus, default=None)
        return [trial for trial, machine in measured.items() if not name or machine.node != name]

    def submit(self, trial: Trial, data: TaskData | None) -> Task:
        if not self.waiting:  # all trials need the same
            self._check_resources(trial)
        job = Job(trial, versions(), *self._model(trial), self._put_data(data))
        task = Task(trial, SCORE, job)
        if isinstance(trial, Scoring) and data and starts_tuned(trial.recovery, data):
            task.tuned = tuned_folder(trial.model, data, trial.training)
        self.waiting.append(task)
        return task

    def wait(self, timeout: float) -> None:
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            if len(self.running) < SUBMITTED and self._has_dense(task):
                self._start(task)
            elif not task.outcome:
                self.waiting.append(task)
        if time.monotonic() - self.checked > CHECK_EVERY:
            self.checked = time.monotonic()
            for task in (*self.running, *self.waiting)[:1]:
                self._check_resources(task.trial)
        of_stream = {task.stream: task for task in self.running}
        if not of_stream:
            return
        ray.wait(list(of_stream), timeout=timeout, fetch_local=False)
        ready, _ = ray.wait(list(of_stream), num_returns=len(of_stream), timeout=0, fetch_local=False)
        for stream in ready:
            self._read(of_stream[stream])

    def _nodes(self) -> list[Node]:
        alive = nodes()
        self.names |= {node.id: node.name for node in alive}
        return alive

    def _check_resources(self, trial: Trial) -> None:
        alive, resources = self._nodes(), self.resources
        if not any(node.has(resources) for node in alive):
            memory = f", {resources.memory_gb:g} GB of memory" if resources.memory_gb else ""
            have = "; ".join(
                f"{node.name} {node.cpus} CPUs, {node.gpus:g} GPUs, {node.memory / 1e9:.1f} GB" for node in alive[:3]
            )
            raise StudyError(
                f"trial {trial.label} needs a node with {resources.cpus or 1} CPUs, {resources.gpus:g} GPUs{memory}, "
                f"see [resources], found {have or 'no node'}"
            )

    def _model(self, trial: Trial) -> tuple[ray.ObjectRef | None, str]:
        """A reference to the content of a model's folder, and its digest; `None` for a name that all nodes can load."""
        if not trial.files:
            return None, ""
        if trial.model not in self.models:
            content = FolderContent.read(Path(trial.model))
            self.models[trial.model] = (ray.put(content), content.digest)
        return self.models[trial.model]

    def _put_data(self, data: TaskData | None) -> ray.ObjectRef | None:
        if data is None:
            return None
        key = f"{data.task.name} {data.digest}"
        if key not in self.data:
            self.data[key] = ray.put(data)
        return self.data[key]

    def _has_dense(self, task: Task) -> bool:
        """Whether the dense model that a trial starts from exists. If not, its training starts, once for all trials."""
        folder = task.tuned
        if folder is None or folder in self.dense:
            return True
        if folder not in self.teachers:
            if folder.is_dir():
                self.dense[folder] = ray.put(FolderContent.read(folder))
                return True
            teacher = self.teachers[folder] = Task(task.trial, TUNE, task.job)
            teacher.shown_by = task
            self._start(teacher)
        teacher = self.teachers[folder]
        if isinstance(teacher.outcome, Failed):
            task.outcome = teacher.outcome
        return False

    def _start(self, task: Task) -> None:
        resources, memory = self.resources, int(1e9 * (self.resources.memory_gb or 0))
        options: dict[str, Any] = {"num_gpus": resources.gpus, "memory": memory or None}
        if task.measures and self.measuring:
            options |= {"num_cpus": self.measuring.cpus, "scheduling_strategy": self.measuring.strategy()}
        else:
            options |= {"num_cpus": resources.cpus or 1}
        if task.failed_on and not task.measures:
            others = [node for node in self._nodes() if node.has(resources) and node.id not in task.failed_on]
            options |= {"scheduling_strategy": others[0].strategy(soft=True)} if others else {}
        job = replace(task.job, threads=options["num_cpus"], dense=self.dense.get(task.tuned) if task.tuned else None)
        task.stream = task.work.options(**options).remote(job)
        self.running.append(task)

    def _read(self, task: Task) -> None:
        """Handles the next message of a task."""
        try:
            message: Message = ray.get(next(task.stream))
        except ray.exceptions.RayError as error:
            self.running.remove(task)
            self._handle_failure(task, error)
            return
        if isinstance(message, Started):
            task.node, task.started, task.progress = message.node, time.monotonic(), Progress("starting")
        elif isinstance(message, Progress):
            task.progress = message
        else:
            self.running.remove(task)
            self._finish(task, message)
        if task.shown_by:
            task.shown_by.progress = task.progress

    def _handle_failure(self, task: Task, error: Exception) -> None:
        reason, alive = first_line(getattr(error, "cause", None) or error), {node.id for node in self._nodes()}
        task.failed_on.append(task.node)
        if task.measures and self.measuring and self.measuring.id not in alive:
            lost = f"node {self.measuring.name}, which measures the times of this study, is lost"
            task.fail(f"{lost}: run the study again to measure all of them on another node")
        elif len(task.failed_on) == ATTEMPTS:
            names = ", ".join(self.names.get(node, "unknown") for node in task.failed_on)
            task.fail(f"its machine failed {ATTEMPTS} times (nodes {names}), the last time: {reason}")
        else:
            self._start(task)

    def _finish(self, task: Task, message: Ended) -> None:
        with writing(self.folder / LOG), open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(message.log)
        outcome = message.outcome
        if outcome.machine:
            outcome = replace(outcome, machine=replace(outcome.machine, node=self.names.get(task.node)))
        task.outcome = outcome
        if isinstance(outcome, Done) and isinstance(outcome.result, FolderContent):
            [folder] = [folder for folder, teacher in self.teachers.items() if teacher is task]
            outcome.result.write(folder)  # so that a study that is killed does not train it again
            self.dense[folder] = ray.put(outcome.result)


class Task:
    """A trial, or the training of the dense model that one starts from, and the task of the cluster that runs it.

    `stream` has its messages. `failed_on` has the nodes that failed it.
    """

    def __init__(self, trial: Trial, work: ray.remote_function.RemoteFunction, job: Job) -> None:
        self.trial, self.work, self.job = trial, work, job
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None
        self.tuned: Path | None = None
        self.shown_by: Task | None = None  # the trial that shows the progress of a training
        self.stream: Any = None
        self.node, self.started = "", time.monotonic()
        self.failed_on: list[str] = []

    @property
    def measures(self) -> bool:
        return self.trial.runs_alone and self.work is SCORE

    def fail(self, problem: str) -> None:
        self.outcome = Failed(problem, time.monotonic() - self.started)
