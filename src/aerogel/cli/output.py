"""The one sink: results to stdout for people or as JSON, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
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


@contextmanager
def progress_bar() -> Iterator[None]:
    """Shows the progress of all work in the block as one bar that vanishes; nothing off a terminal."""
    with bars() as bar:
        task = bar.add_task("starting", total=None)

        def show(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total or None)

        with progress.listening(show):
            yield


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


def size(count: float) -> str:
    """Bytes for a person, in powers of ten: `90.9 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
