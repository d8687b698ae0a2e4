"""Output: results to stdout as tables or JSON, everything else to stderr."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from aerogel import progress
from aerogel.tasks import TaskData

EVERY = 30.0  # seconds between progress lines if stderr is not a terminal
WIDE = 160  # width of tables in a file or pipe
GAP = 2  # between the columns of a table
NARROW = 100  # columns of a terminal below which progress bars leave out the elapsed time


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


@contextmanager
def resumable(where: str) -> Iterator[None]:
    """If the block is interrupted, let `aerogel.cli.main` say that the same command resumes, and where."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"run the same command again to resume {where}") from error


def note_columns(data: TaskData) -> None:
    """Print how a user's own data is read."""
    if data.description:
        note(f"{data.task.name}: {data.description}")


def print_json(value: Any) -> None:
    stdout().out(json.dumps(value, indent=2), highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Print a table. The first `text_columns` columns are text, the others numbers.

    If the terminal is too narrow, text wraps, and columns of numbers that do not fit are in a second table below.
    """
    console = stdout()
    widths = [max(map(len, cells)) + GAP for cells in zip(columns, *rows, strict=True)]
    texts, numbers = list(range(text_columns)), list(range(text_columns, len(columns)))
    room = console.width + GAP - min(sum(widths[:text_columns]), console.width // 2)
    while True:
        fitting = max(1, sum(total <= room for total in accumulate(widths[index] for index in numbers)))
        chosen = texts + numbers[:fitting]
        parts = [[row[index] for index in chosen] for row in rows]
        _print_part(console, title, [columns[index] for index in chosen], parts, text_columns)
        title, numbers = "", numbers[fitting:]
        if not numbers:
            return


def _print_part(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int
) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, GAP, 0, 0), pad_edge=False
    )
    for index, column in enumerate(columns):
        is_text = index < text_columns
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*row)
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

    def pace(self, left: float | None = None) -> str:
        """`, 5 min so far, about 2 min left`. Without the seconds `left`, each part of the step takes equally long."""
        now = time.monotonic()
        if left is None and self.total > self.done > self.first:
            left = (self.total - self.done) * (now - self.since) / (self.done - self.first)
        text = f", {duration(now - self.started)} so far"
        return text if left is None else f"{text}, about {duration(left)} left"


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


class _Words(ProgressColumn):
    """The description, cut to a width, so that the count and the time left are always seen.

    What changes comes after a colon: the part before it is cut first, but not to less than a third.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = max(width, 8)

    def render(self, task: Task) -> Text:
        first, colon, changing = task.description.partition(": ")
        first = _cut(first, max(self.width - len(colon + changing), self.width // 3))
        return Text(_cut(first + colon + changing, self.width), no_wrap=True)


class _TimeLeft(ProgressColumn):
    """The field `left` of the task in seconds, else what its speed says."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left", task.time_remaining)
        return Text("-" if seconds is None else duration(seconds), style="progress.remaining")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def bars() -> Progress:
    """Transient progress bars on stderr."""
    console = stderr()
    is_narrow = console.width < NARROW
    bar, elapsed = (10, ()) if is_narrow else (24, (TimeElapsedColumn(), TextColumn("so far,")))
    return Progress(
        SpinnerColumn(),
        _Words(console.width - (44 if is_narrow else 76)),
        BarColumn(bar_width=bar),
        MofNCompleteColumn(),
        *elapsed,
        _TimeLeft(),
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
