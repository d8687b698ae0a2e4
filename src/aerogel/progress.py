"""Progress of long work, told to whoever listens: a bar in a terminal, a pipe out of a trial, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are (0: not known)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Sends the progress of all work inside the `with` block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(doing: str, done: int = 0, total: int = 0) -> None:
    listener = _listener.get()
    if listener:
        listener(doing, done, total)


def track(items: Iterable[Item], doing: str) -> Iterator[Item]:
    """Yields the items, telling the listener of each one finished."""
    total = len(items) if isinstance(items, Sized) else 0
    tell(doing, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        tell(doing, done, total)
