"""Output: results to stdout as tables or JSON, everything else to stderr."""

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
from aerogel.tasks import TaskData

EVERY = 30.0  # seconds between progress lines if stderr is not a terminal
WIDE = 160  # width of tables in a file or pipe


class _Console(Console):
    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:  # with code 1; but a reader that stops early is not an error
            raise SystemExit(0) from None


def stdout() -> Console:
    return _Console(width=None if sys.stdout.isatty() else WIDE, markup=False, emoji=False)


def stderr() -> Console:
    return _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def note(text: str) -> None:
    """Print one line to stderr."""
    stderr().print(text)


def note_columns(data: TaskData) -> None:
    """Say how a user's own data is read."""
    if data.description:
        note(f"{data.task.name}: {data.description}")


def print_json(value: Any) -> None:
    stdout().out(json.dumps(value, indent=2), highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Print a table. The first `text_columns` columns are text, the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = stdout()
    # on a narrow terminal long lines wrap, rather than numbers within columns
    console.width = max(console.width, console.measure(table, options=console.options.update(width=WIDE)).maximum)
    console.print(table)


class Step:
    """The current step of a command, and an estimate of the time left."""

    def __init__(self) -> None:
        self.started = self.since = time.monotonic()
        self.description, self.done, self.total, self.first = "starting", 0, 0, 0

    def update(self, description: str, done: int, total: int) -> None:
        if total != self.total or done < self.done:  # another step, with its own pace
            self.since, self.first = time.monotonic(), done
        self.description, self.done, self.total = description, done, total

    def __str__(self) -> str:
        text = f"{self.description}: {self.done} of {self.total}" if self.total else self.description
        return text + self.pace()

    def pace(self) -> str:
        """`, 5 min so far, about 2 min left`."""
        now = time.monotonic()
        text = f", {duration(now - self.started)} so far"
        if self.total > self.done > self.first:
            left = (self.total - self.done) * (now - self.since) / (self.done - self.first)
            text += f", about {duration(left)} left"
        return text


@contextmanager
def progress_bar() -> Iterator[None]:
    """Show progress of all work in the block: a transient bar on a terminal, otherwise a line now and then."""
    step = Step()
    with bars() as bar, lines(lambda: str(step)):
        task = bar.add_task(step.description, total=None)

        def show(description: str, done: int, total: int) -> None:
            step.update(description, done, total)
            bar.update(task, description=description, completed=done, total=total or None)

        with progress.listening(show):
            yield


@contextmanager
def lines(text: Callable[[], str]) -> Iterator[None]:
    """If stderr is not a terminal, print `text()` to it every half minute while the block runs."""
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
    """Transient progress bars on stderr."""
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
    """Seconds as text: `8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
