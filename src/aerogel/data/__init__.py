"""What is asked: tasks, their data, and how text becomes a model's inputs."""

from aerogel.data.encode import context_length, encode_examples, language_windows
from aerogel.data.load import TaskData, load_task
from aerogel.data.noise import IGNORED
from aerogel.data.read import Examples
from aerogel.data.tasks import TASKS, Task

__all__ = [
    "IGNORED",
    "TASKS",
    "Examples",
    "Task",
    "TaskData",
    "context_length",
    "encode_examples",
    "language_windows",
    "load_task",
]
