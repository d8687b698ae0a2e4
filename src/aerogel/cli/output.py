"""The one sink: results to stdout for people or as JSON, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from aerogel import progress

EVERY = 30.0  # seconds between lines of progress off a terminal, and before the first
WIDE = 160  # columns of a table that goes to a file or a pipe, where nothing is gained by squeezing it


class _Console(Console):
    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:  # with 1, as after an error, where the reader of our output has seen enough
            raise SystemExit(0) from None


def stdout() -> Console:
    return _Console(width=None if sys.stdout.isatty() else WIDE, markup=False, emoji=False)


def stderr() -> Console:
    return _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def note(text: str) -> None:
    """One line for the person, on stderr."""
    stderr().print(text)


def print_json(value: Any) -> None:
    stdout().out(json.dumps(value, indent=2, default=_plain), highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """A table whose first `text_columns` columns are text, the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = stdout()
    # on a narrow terminal lines run over, where broken numbers could not be read
    console.width = max(console.width, console.measure(table, options=console.options.update(width=WIDE)).maximum)
    console.print(table)


class Step:
    """The step that work has come to, and how long it may still take."""

    def __init__(self) -> None:
        self.started = self.since = time.monotonic()
        self.doing, self.done, self.total, self.first = "starting", 0, 0, 0

    def update(self, doing: str, done: int, total: int) -> None:
        if total != self.total or done < self.done:  # something else: its pace is its own
            self.since, self.first = time.monotonic(), done
        self.doing, self.done, self.total = doing, done, total

    def __str__(self) -> str:
        now = time.monotonic()
        text = f"{self.doing}: {self.done} of {self.total}" if self.total else self.doing
        text += f", {duration(now - self.started)} so far"
        if self.total > self.done > self.first:
            left = (self.total - self.done) * (now - self.since) / (self.done - self.first)
            text += f", about {duration(left)} left"
        return text


@contextmanager
def progress_bar() -> Iterator[None]:
    """Shows the progress of all work in the block: one bar that vanishes, or off a terminal a line now and then."""
    step = Step()
    with bars() as bar, lines(lambda: str(step)):
        task = bar.add_task(step.doing, total=None)

        def show(doing: str, done: int, total: int) -> None:
            step.update(doing, done, total)
            bar.update(task, description=doing, completed=done, total=total or None)

        with progress.listening(show):
            yield


@contextmanager
def lines(text: Callable[[], str]) -> Iterator[None]:
    """Off a terminal, writes what `text` gives to stderr every half minute while the block runs."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(EVERY):
            note(text())

    writer = threading.Thread(target=write, daemon=True)
    if not stderr().is_terminal:
        writer.start()
    try:
        yield
    finally:
        ended.set()
        if writer.is_alive():
            writer.join()


def bars() -> Progress:
    """Progress bars on stderr, gone when they are done."""
    console = stderr()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("so far,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """Seconds for a person: `8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
