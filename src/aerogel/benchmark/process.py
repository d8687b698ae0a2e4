"""Fresh processes to measure in, which end with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from aerogel.errors import AerogelError

Start = Literal["forkserver", "fork"]
OUT_OF_MEMORY = ("allocate memory", "overflow")  # in messages of torch, which has no exception class for it on a CPU


def start_server(module: str) -> None:
    """Start the server that forks fresh processes, if it does not run yet: it imports the module meanwhile.

    Raises `AerogelError` on Windows.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise AerogelError("models are measured in forked processes, which Windows does not have: use its Linux (WSL)")
    forkserver.set_forkserver_preload([module])
    with ignore_interrupts():
        forkserver.ensure_running()


class Worker:
    """A fresh process that runs `work(connection, *arguments)` and replies to requests.

    A reply is ("done", value), or ("failed", exception), which is raised here. The process is stopped at the end of
    the `with` block.
    """

    def __init__(self, name: str, start: Start, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        if start == "forkserver":
            start_server("aerogel.benchmark.subject")
        context: Any = multiprocessing.get_context(start)
        self.connection, remote = context.Pipe()
        self.process = context.Process(target=_run, args=(remote, work, arguments), daemon=True)
        with ignore_interrupts():
            self.process.start()
        remote.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.send("stop")
        self.process.join(timeout=1)
        self.process.kill()  # still in the middle of a round
        self.process.join()

    def request(self, request: str) -> Any:
        self.connection.send(request)
        return self.receive()

    def receive(self) -> Any:
        try:
            status, value = self.connection.recv()
        except EOFError as error:
            self.process.join()
            raise AerogelError(
                f"{self.name}: process died (exit code {self.process.exitcode}, out of memory?): try a smaller batch"
            ) from error
        if status == "failed":
            if isinstance(value, MemoryError) or any(words in str(value) for words in OUT_OF_MEMORY):
                raise AerogelError(f"{self.name} does not fit in memory: try a smaller batch size") from value
            raise value
        return value


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Start processes in this block: they ignore Ctrl-C from the beginning, even while their server imports.

    Signals to this process are handled at the end of the block: in between they would leave a half-started process,
    which fails with a traceback.
    """
    resource_tracker.ensure_running()  # it unblocks interrupts when it starts
    with _deferred(signal.SIGINT, signal.SIGTERM):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _deferred(*signals: signal.Signals) -> Iterator[None]:
    """Handle signals that arrive during the block at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for signal_number in arrived:
            signal.raise_signal(signal_number)


def _run(connection: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    try:
        work(connection, *arguments)
    except EOFError:
        pass  # the parent is gone
    except Exception as error:
        connection.send(("failed", error))


def die_with_parent(scratch: Path | None = None) -> None:
    """End this process and its children when its parent ends, even by `kill -9`, and remove the folder `scratch`.

    A closed pipe does not show it: processes that are forked later hold its other end too.
    """
    parent: Any = multiprocessing.parent_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process inherits its parent's handler

    def wait() -> None:
        parent.join()
        for child in multiprocessing.active_children():
            child.kill()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
