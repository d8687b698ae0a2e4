"""Fresh processes to measure in, which end when whoever asked for them is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Literal

from aerogel.errors import AerogelError

Start = Literal["forkserver", "fork"]
BEYOND_MEMORY = ("allocate memory", "overflow")  # in the errors of torch, which has no class for them on a CPU


class Worker:
    """A fresh process that runs `work(connection, *arguments)` and answers what it is asked.

    Every answer is ("done", value), or ("failed", exception) to be raised here. Used in a `with` block, at whose end
    the process is stopped, whatever it does.
    """

    def __init__(self, name: str, start: Start, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        context: Any = multiprocessing.get_context(start)
        if start == "forkserver":
            context.set_forkserver_preload(["aerogel.benchmark.subject"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs, work, arguments), daemon=True)
        with ignore_interrupts():
            self.process.start()
        theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.send("stop")
        self.process.join(timeout=1)
        self.process.kill()  # still in the middle of a round
        self.process.join()

    def ask(self, request: str) -> Any:
        self.connection.send(request)
        return self.answer()

    def answer(self) -> Any:
        try:
            status, value = self.connection.recv()
        except EOFError as error:
            self.process.join()
            raise AerogelError(
                f"{self.name}: its process died (exit code {self.process.exitcode}), perhaps for want of memory: "
                "try a smaller batch size"
            ) from error
        if status == "failed":
            if isinstance(value, MemoryError) or any(sign in str(value) for sign in BEYOND_MEMORY):
                raise AerogelError(f"{self.name}: memory is too small for it: try a smaller batch size") from value
            raise value
        return value


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """For starting processes: they never hear of Ctrl-C, since their server imports before it could learn to ignore it.

    What interrupts or ends this process meanwhile is handled at the end: in the midst it would leave a process half
    started, which then fails with a traceback.
    """
    resource_tracker.ensure_running()  # which lets interrupts through when it has started
    with _deferred(signal.SIGINT, signal.SIGTERM):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _deferred(*signals: signal.Signals) -> Iterator[None]:
    """Handles signals that come during the block at its end."""
    if threading.current_thread() is not threading.main_thread():  # the only one that handles any
        yield
        return
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda found, frame: came.append(found)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for found in came:
            signal.raise_signal(found)


def _run(connection: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    try:
        work(connection, *arguments)
    except EOFError:
        pass  # the asker is gone
    except Exception as error:
        connection.send(("failed", error))


def die_with_parent() -> None:
    """Ends this process and its children when the process that started it is gone, even by `kill -9`.

    A pipe alone does not tell: processes forked later hold its other end as well.
    """
    parent: Any = multiprocessing.parent_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked one has its parent's handler

    def wait() -> None:
        parent.join()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
