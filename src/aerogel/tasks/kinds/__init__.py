"""The kinds of task, one file each."""

from functools import cache

from aerogel.registry import entries
from aerogel.tasks.kind import TaskKind


@cache
def all_kinds() -> dict[str, TaskKind]:
    return entries(__name__, "KIND")
