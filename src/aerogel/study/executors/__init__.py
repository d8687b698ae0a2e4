"""Where trials run. Another executor is one file here and one line in `open_executor`."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aerogel.errors import StudyError, unknown_name
from aerogel.study.results import Machine, Outcome
from aerogel.study.spec import StudySpec
from aerogel.study.trial import Trial
from aerogel.tasks import TaskData

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Progress:
    """What a trial is doing: `done` of `total` steps of what `description` names (0: unknown)."""

    description: str
    done: int = 0
    total: int = 0


class Handle(Protocol):
    """A submitted trial. `progress` is `None` until it starts, and `outcome` until it ends."""

    trial: Trial
    progress: Progress | None
    outcome: Outcome | None


class Executor(AbstractContextManager, Protocol):
    """Runs trials in the order of submission. At the end of its `with` block it stops those that still run.

    Trials that measure time run on one machine, while no other trial runs there. A trial that dies ends as `Failed`.
    """

    def outdated(self, measured: Mapping[Trial, Machine]) -> list[Trial]:
        """The trials that measured time on these machines and have to be measured again, on another one."""

    def submit(self, trial: Trial, data: TaskData | None) -> Handle:
        """Queues a trial; `data` is that of its task."""

    def wait(self, timeout: float) -> None:
        """Returns when a handle has changed, or after `timeout` seconds. Handles change only during this call."""


def open_executor(name: str, folder: Path, spec: StudySpec) -> Executor:
    """The executor of this name for a study in `folder`: "local", "ray" or "ray:ADDRESS".

    Raises `StudyError` for another name, and for a cluster that can't be used.
    """
    kind, _, address = name.partition(":")
    if kind == "ray":
        from aerogel.study.executors.ray import RayExecutor

        return RayExecutor(address, folder, spec.resources)
    if name != "local":
        raise StudyError(unknown_name("executor", name, EXECUTORS))
    from aerogel.study.executors.local import LocalExecutor

    return LocalExecutor(folder, spec)
