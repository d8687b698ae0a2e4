"""`aerogel study` and `aerogel report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import TaskID

from aerogel import progress
from aerogel.cli import options
from aerogel.cli.output import Step, bars, duration, lines, note, progress_bar, stdout
from aerogel.models.zoo import check_path
from aerogel.study.source import read_values, store_path
from aerogel.tasks import check_task

if TYPE_CHECKING:
    from aerogel.study import State


@click.command()
@click.argument("name", default="starter", metavar="[NAME|SPEC.toml]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the study [default: runs/NAME].")
@options.data
@click.option("--model", "models", multiple=True, help="Study these models in place of the specification's.")
@click.option("--task", "tasks", multiple=True, help="Study these tasks in place of the specification's.")
@click.option(
    "--sparsity",
    "sparsities",
    multiple=True,
    type=options.SPARSITY,
    help="Study these sparsities in place of the specification's.",
)
@click.option("--limit", type=options.COUNT, help="Use the first so many examples, and windows of text.")
def study(
    name: str,
    output: Path | None,
    data: Path | None,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    sparsities: tuple[float, ...],
    limit: int | None,
) -> int:
    """Run a study, or go on with it, and write its report.

    NAME is a built-in study, starter (the default), reports or recovery; or give a TOML file.
    """
    read_values(name)
    for model in models:
        check_path(model)
    for task in tasks:
        check_task(task, data)
    with progress_bar():
        from aerogel.report import build
        from aerogel.study import load_spec, parse_spec, run_study

        values = load_spec(name).model_dump()
        for field, chosen in (("models", models), ("tasks", tasks), ("sparsities", sparsities)):
            if chosen:
                values[field] = chosen
        if tasks and values["sensitivity"]:
            values["sensitivity"] = tasks[0]
        if limit:
            for part in ("training", "evaluation"):
                values[part] |= {"limit": limit, "text_limit": limit}
        spec = parse_spec(values)
    folder = output or Path("runs") / spec.name
    try:
        with _Display() as display, progress.listening(display.prepare):
            store = run_study(spec, folder, data, display.show)
    except KeyboardInterrupt:
        note(f"interrupted: what is finished is kept in {folder}, and the same command goes on from there")
        raise
    with progress_bar():
        page = build(folder)
    failed = [(trial, result) for trial, result in store.results() if result.status == "failed"]
    for trial, result in failed:
        note(f"failed: {trial.label}: {result.error}")
    done = store.count() - len(store.open_trials())
    note(f"{done} of {store.count()} trials done, {time.monotonic() - display.started:.0f} s")
    stdout().print(str(page), highlight=False, soft_wrap=True)
    return 1 if failed else 0


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html of a study's FOLDER again, from its store."""
    store_path(folder)
    with progress_bar():
        from aerogel.report import build

        page = build(folder)
    stdout().print(str(page), highlight=False, soft_wrap=True)


class _Display:
    """A bar for the study and one a running trial; off a terminal, a line a finished trial and one now and then."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.bars = bars()
        self.lines = lines(self.line)
        self.preparing = Step()
        self.state: State | None = None
        self.whole: TaskID | None = None
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self.bars.__enter__()
        self.lines.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.lines.__exit__(*error)  # type: ignore[arg-type]
        self.bars.__exit__(*error)  # type: ignore[arg-type]

    def line(self) -> str:
        """What runs, how many trials are done, and how long the rest would take at their pace."""
        if self.state is None:
            return str(self.preparing)
        ended, total = self.state.done + self.state.failed, self.state.total
        running = "; ".join(
            f"{trial.label}: {doing}{f', {done} of {steps}' if steps else ''}"
            for trial, doing, done, steps in ((of.trial, of.doing, of.done, of.total) for of in [*self.state.running])
        )
        so_far = time.monotonic() - self.started
        text = f"[{ended}/{total}] {running or 'between trials'}, {duration(so_far)} so far"
        here = ended - self.state.before
        return f"{text}, about {duration((total - ended) * so_far / here)} left" if here else text

    def prepare(self, doing: str, done: int, total: int) -> None:
        """What happens before the first trial: models are fetched, data is found."""
        self.preparing.update(doing, done, total)
        self.bar(doing, done, total)

    def bar(self, doing: str, done: int, total: int) -> None:
        if self.whole is None:
            self.whole = self.bars.add_task(doing)
        self.bars.update(self.whole, description=doing, completed=done, total=total or None)

    def show(self, state: State) -> None:
        self.state = state
        if state.finished:
            trial, result = state.finished
            outcome = f"{result.seconds:.1f} s" if result.status == "done" else f"failed: {result.error}"
            if result.status == "failed" or not self.bars.console.is_terminal:
                self.bars.console.print(
                    f"[{state.done + state.failed}/{state.total}] {trial.label}: {outcome}", markup=False
                )
        self.bar("trials", state.done + state.failed, state.total)
        running = {process.trial.key: process for process in state.running}
        for key in set(self.tasks) - set(running):
            self.bars.remove_task(self.tasks.pop(key))
        for key, process in running.items():
            if key not in self.tasks:
                self.tasks[key] = self.bars.add_task("", total=None)
            self.bars.update(
                self.tasks[key],
                description=f"{process.trial.label}: {process.doing}",
                completed=process.done,
                total=process.total or None,
            )
