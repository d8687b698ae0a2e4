"""What runs on the nodes of a Ray cluster: a trial in a process of its own, on copies of the model and the data."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import ray

from aerogel.benchmark import machine
from aerogel.files import cache_home, new_folder, write_text
from aerogel.models.location import folder_files
from aerogel.study.executors import Progress
from aerogel.study.executors.process import WorkProcess
from aerogel.study.results import Done, Failed, Outcome
from aerogel.study.run_trial import run_trial, tune_dense
from aerogel.study.trial import Trial
from aerogel.training.recovery import cost_file, locked, tuned_folder

MESSAGE_EVERY = 1.0  # seconds between two messages of a trial
LONGEST_LOG = 100_000  # characters of a trial's output that the driver gets


@dataclass(frozen=True)
class FolderContent:
    """The files of a model's folder by name. `seconds` is the time of its training, for a fine-tuned model."""

    name: str
    files: dict[str, bytes]
    seconds: str | None = None

    @classmethod
    def read(cls, folder: Path) -> FolderContent:
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        cost = cost_file(folder)
        return cls(folder.name, files, cost.read_text("utf-8") if cost.is_file() else None)

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for name, content in self.files.items():
            digest.update(f"{name} {len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Writes the folder, unless it is there."""
        with locked(folder):
            if folder.is_dir():
                return
            if self.seconds:
                write_text(cost_file(folder), self.seconds)
            with new_folder(folder) as unfinished:
                for name, content in self.files.items():
                    (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                    (unfinished / name).write_bytes(content)


@dataclass(frozen=True)
class Job:
    """A trial, and references to what it needs, which a node fetches if it does not have it.

    Attributes:
        versions: those of the driver.
        model: the content of the model's folder, `None` for a name that every node can load.
        model_digest: that of this content.
        data: of the trial's task.
        dense: the content of the fine-tuned dense model that the trial starts from.
    """

    trial: Trial
    versions: dict[str, str]
    model: ray.ObjectRef | None
    model_digest: str
    data: ray.ObjectRef | None
    dense: ray.ObjectRef | None = None
    threads: int = 1


@dataclass(frozen=True)
class Started:
    """The first message of a task: the id of its node."""

    node: str


@dataclass(frozen=True)
class Ended:
    """The last message of a task: its outcome, and what it wrote to its standard output and error."""

    outcome: Outcome
    log: str


Message = Started | Progress | Ended


class UnfitNodeError(Exception):
    """A trial can't run on this node, but may run on another."""


@functools.cache
def versions() -> dict[str, str]:
    """The versions that must be equal on all nodes: of Python, the libraries, and aerogel with a digest of its code."""
    code = hashlib.sha256()
    for path in sorted(Path(str(resources.files("aerogel"))).rglob("*.py")):
        code.update(path.read_bytes())
    environment = machine.environment()
    own = f"{environment['versions']['aerogel']} (code {code.hexdigest()[:8]})"
    return {"Python": environment["python"], **environment["versions"], "aerogel": own}


def version_difference(node: dict[str, str], driver: dict[str, str]) -> str | None:
    """`torch 2.12.0, the driver 2.13.0` for the first version that differs."""
    for name, expected in driver.items():
        if node.get(name) != expected:
            return f"{name} {node.get(name)}, and the driver {name} {expected}"
    return None


def score_trial(job: Job) -> Iterator[Message]:
    """Runs a trial, with the outcome of `run_trial`."""
    yield from _run(job, run_trial)


def tune_teacher(job: Job) -> Iterator[Message]:
    """Trains the dense model that a trial starts from. The result is the content of its folder."""
    for message in _run(job, tune_dense):
        if isinstance(message, Ended) and isinstance(message.outcome, Done):
            done = message.outcome
            message = Ended(Done(FolderContent.read(done.result), done.machine, done.seconds), message.log)
        yield message


def _run(job: Job, work: Callable[..., Any]) -> Iterator[Message]:
    yield Started(ray.get_runtime_context().get_node_id())
    if difference := version_difference(versions(), job.versions):
        raise UnfitNodeError(f"the node has {difference}")
    data = ray.get(job.data) if job.data else None
    model = _local_model(job)
    if job.dense and data:
        folder = tuned_folder(model or job.trial.model, data, job.trial.training)  # type: ignore[union-attr]
        if not folder.is_dir():
            ray.get(job.dense).write(folder)
    scratch = Path(tempfile.mkdtemp(prefix="aerogel-trial-"))
    process = WorkProcess(partial(work, job.trial, data, model), scratch / "trial.log", scratch)
    yield from _messages(process, job.threads)


def _local_model(job: Job) -> str | None:
    """The folder of a copy of the model, `None` if its own path has the same files on this node."""
    if not job.model or folder_files(job.trial.model) == job.trial.files:
        return None
    folder = cache_home() / "copies" / f"{Path(job.trial.model).name}-{job.model_digest}"
    if not folder.is_dir():
        ray.get(job.model).write(folder)
    return str(folder)


def _messages(process: WorkProcess, threads: int) -> Iterator[Message]:
    vars(sys.modules["__main__"]).pop(
        "__file__", None
    )  # otherwise each process would run the script of Ray's worker again
    process.start(threads)
    try:
        last, sent = 0.0, None
        while process.outcome is None:
            if wait([process.connection], MESSAGE_EVERY):
                process.read()
            if process.progress and process.progress != sent and time.monotonic() - last > MESSAGE_EVERY:
                last, sent = time.monotonic(), process.progress
                yield sent
        log = process.log.read_text("utf-8", "replace")[-LONGEST_LOG:] if process.log.is_file() else ""
    finally:
        process.stop()
        multiprocessing.active_children()  # joins those that have ended
    if isinstance(process.outcome, Failed) and not process.outcome.machine:
        raise UnfitNodeError(process.outcome.error)
    yield Ended(process.outcome, log)
