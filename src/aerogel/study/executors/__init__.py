"""Where trials run. Another executor, such as one for Ray, is one file here and one line in `open_executor`."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aerogel.study.results import Outcome
from aerogel.study.trial import Trial
from aerogel.tasks import TaskData


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
    """Runs trials, in the order of submission; at the end of its `with` block it stops those that still run.

    A trial that measures time runs while no other runs on its machine. A trial that dies ends as `Failed`.
    """

    def submit(self, trial: Trial, data: TaskData | None) -> Handle:
        """Queues a trial; `data` is that of its task."""

    def wait(self, timeout: float) -> None:
        """Returns when a handle has changed, or after `timeout` seconds. Handles change only during this call."""


def open_executor(folder: Path, processes: int) -> Executor:
    """The executor for the study in `folder`, which runs up to `processes` trials at a time."""
    from aerogel.study.executors.local import LocalExecutor

    return LocalExecutor(folder, processes)
