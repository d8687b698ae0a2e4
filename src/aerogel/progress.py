"""Progress of long work, sent to a listener: a bar in a terminal, or a pipe to the process that started a trial."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]
"""Called with a description of the current step, the units done, and their total (0 if unknown)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of all work inside the `with` block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def update(description: str, done: int = 0, total: int = 0) -> None:
    listener = _listener.get()
    if listener:
        listener(description, done, total)


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Yield the items and report each one as done."""
    total = len(items) if isinstance(items, Sized) else 0
    update(description, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        update(description, done, total)
