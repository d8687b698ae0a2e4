"""`aerogel study` and `aerogel report`."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import TaskID

from aerogel import progress
from aerogel.benchmark.process import start_server
from aerogel.cli import options
from aerogel.cli.output import Step, bars, lines, note, progress_bar, resumable, stdout
from aerogel.models.zoo import check_path
from aerogel.study.source import read_values, store_path
from aerogel.tasks import check_task

if TYPE_CHECKING:
    from aerogel.study import StudyProgress


@click.command(epilog=options.examples("aerogel study starter", "aerogel study mine.toml --output runs/mine"))
@click.argument("name", default="starter", metavar="[NAME|SPEC.toml]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the study [default: runs/NAME].")
@options.data
@click.option("--model", "models", multiple=True, help="Replace the study's models.")
@options.task("tasks", multiple=True, help="Replace the study's tasks.")
@click.option("--sparsity", "sparsities", multiple=True, type=options.SPARSITY, help="Replace the study's sparsities.")
@click.option("--limit", type=options.COUNT, help="Train and score on the first LIMIT examples or windows of text.")
@click.option(
    "--executor",
    default="local",
    metavar="local|ray[:HOST:PORT]",
    help="Run the trials on this machine, or on the Ray cluster that it belongs to. [default: local]",
)
def study(
    name: str,
    *,
    output: Path | None,
    data: Path | None,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    sparsities: tuple[float, ...],
    limit: int | None,
    executor: str,
) -> int:
    """Run a study, or resume it, and write its report.

    NAME is a built-in study: starter (the default), reports or recovery. SPEC.toml is a study of your own.
    """
    read_values(name)
    for model in models:
        check_path(model)
    for task in tasks:
        check_task(task, data)
    if executor == "local":
        start_server("aerogel.study.executors.local")
    with progress_bar():
        from aerogel.report import build_report
        from aerogel.study import load_spec, parse_spec, run_study
        from aerogel.study.results import Failed

        values = load_spec(name).model_dump()
        for field, chosen in (("models", models), ("tasks", tasks), ("sparsities", sparsities)):
            if chosen:
                values[field] = chosen
        if sparsities:
            values["variants"] = [variant | {"sparsities": None} for variant in values["variants"]]
        if tasks and values["sensitivity"]:
            values["sensitivity"] = tasks[0]
        if limit:
            for part in ("training", "evaluation"):
                values[part] |= {"limit": limit, "text_limit": limit}
        spec = parse_spec(values)
    folder, display = output or Path("runs") / spec.name, _Display()
    # Ray prints on standard output what happens to its workers
    with (
        resumable(f"after the trials that have ended, which are kept in {folder}"),
        redirect_stdout(sys.stderr),
        display.bars,
        lines(display.line),
        progress.listening(display.update),
    ):
        store = run_study(spec, folder, data, display.show, executor)
    with progress_bar():
        page = build_report(folder)
    failed = [(trial, outcome) for trial, outcome in store.outcomes() if isinstance(outcome, Failed)]
    for trial, outcome in failed:
        note(f"failed: {trial.label}: {outcome.error}")
    done = store.count() - len(store.open_trials())
    note(f"{done} of {store.count()} trials done, {time.monotonic() - display.step.started:.0f} s")
    note(f"next: open {page} in a browser")
    stdout().print(str(page), highlight=False, soft_wrap=True)
    return 1 if failed else 0


@click.command(epilog=options.examples("aerogel report runs/starter", "aerogel report runs/mine"))
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write the report of the study in FOLDER again."""
    store_path(folder)
    with progress_bar():
        from aerogel.report import build_report

        page = build_report(folder)
    stdout().print(str(page), highlight=False, soft_wrap=True)


class _Display:
    """A bar for the study and one for each running trial. If stderr is not a terminal, a line for each trial that ends
    and a line every half minute."""

    def __init__(self) -> None:
        self.bars, self.step = bars(), Step()
        self.whole = self.bars.add_task(self.step.description, total=None)
        self.tasks: dict[str, TaskID] = {}
        self.state: StudyProgress | None = None

    def line(self) -> str:
        """The running trials, how many trials have ended, and the time left."""
        if self.state is None:
            return str(self.step)
        running = "; ".join(
            f"{trial.label}: {now.description}{f', {now.done} of {now.total}' if now.total else ''}"
            for trial, now in self.state.running
        )
        pace = self.step.pace(self.state.seconds_left)
        return f"[{self.step.done}/{self.step.total}] {running or 'between trials'}{pace}"

    def update(self, description: str, done: int, total: int) -> None:
        self.step.update(description, done, total)
        self.bars.update(self.whole, description=description, completed=done, total=total or None)

    def show(self, state: StudyProgress) -> None:
        from aerogel.study.results import Failed

        self.state = state
        count = f"[{state.done + state.failed}/{state.total}]"
        for trial, outcome in state.ended:
            if isinstance(outcome, Failed):
                self.bars.console.print(f"{count} {trial.label}: failed: {outcome.error}", markup=False)
            elif not self.bars.console.is_terminal:
                self.bars.console.print(f"{count} {trial.label}: {outcome.seconds:.1f} s", markup=False)
        self.update("trials", state.done + state.failed, state.total)
        self.bars.update(self.whole, left=state.seconds_left)
        running = {trial.key: (trial, now) for trial, now in state.running}
        for key in set(self.tasks) - set(running):
            self.bars.remove_task(self.tasks.pop(key))
        for key, (trial, now) in running.items():
            if key not in self.tasks:
                self.tasks[key] = self.bars.add_task("", total=None)
            self.bars.update(
                self.tasks[key],
                description=f"{trial.label}: {now.description}",
                completed=now.done,
                total=now.total or None,
            )
