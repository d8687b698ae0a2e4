"""What is asked: tasks, their data, and how text becomes a model's inputs.

Names are imported when they are first used: finding a task needs neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.tasks.encode import context_length, encode_examples, language_windows
    from aerogel.tasks.load import TaskData, check_task, load_task
    from aerogel.tasks.noise import IGNORED
    from aerogel.tasks.read import Examples
    from aerogel.tasks.table import TASKS, Task

_HOMES = {
    "IGNORED": "noise",
    "TASKS": "table",
    "Examples": "read",
    "Task": "table",
    "TaskData": "load",
    "check_task": "load",
    "context_length": "encode",
    "encode_examples": "encode",
    "language_windows": "encode",
    "load_task": "load",
}
__all__ = [
    "IGNORED",
    "TASKS",
    "Examples",
    "Task",
    "TaskData",
    "check_task",
    "context_length",
    "encode_examples",
    "language_windows",
    "load_task",
]

__getattr__ = lazy_names(__name__, _HOMES)
