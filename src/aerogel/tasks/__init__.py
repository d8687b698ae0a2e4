"""Tasks: their data, how text becomes a model's inputs, and the metrics; one file a kind of task in `kinds`.

Names are imported when they are first used: finding a task needs neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.tasks.encode import context_length
    from aerogel.tasks.kind import InputSettings, Score, TaskKind
    from aerogel.tasks.load import TaskData, check_task, load_task
    from aerogel.tasks.metrics import METRICS
    from aerogel.tasks.noise import IGNORED
    from aerogel.tasks.read import Examples
    from aerogel.tasks.table import TASKS, Task

_HOMES = {
    "IGNORED": "noise",
    "METRICS": "metrics",
    "TASKS": "table",
    "Examples": "read",
    "InputSettings": "kind",
    "Score": "kind",
    "Task": "table",
    "TaskData": "load",
    "TaskKind": "kind",
    "check_task": "load",
    "context_length": "encode",
    "load_task": "load",
}
__all__ = [
    "IGNORED",
    "METRICS",
    "TASKS",
    "Examples",
    "InputSettings",
    "Score",
    "Task",
    "TaskData",
    "TaskKind",
    "check_task",
    "context_length",
    "load_task",
]

__getattr__ = lazy_names(__name__, _HOMES)
