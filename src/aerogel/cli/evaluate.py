"""`aerogel evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerogel.cli import options
from aerogel.cli.notes import note_next
from aerogel.cli.output import note, note_columns, print_json, print_table, progress_bar, stdout
from aerogel.models.zoo import check_path
from aerogel.tables import counted
from aerogel.tasks import check_task, load_task

if TYPE_CHECKING:
    from aerogel.evaluation import Evaluation


@click.command(
    epilog=options.examples(
        "aerogel evaluate sparse --task python-reference --reference tiny-gpt2",
        "aerogel evaluate tuned --task movie-reviews --limit 200",
    )
)
@click.argument("model")
@options.task("tasks", help=f"Tasks, separated by commas; each is {options.TASK}.")
@click.option(
    "--harness", metavar="TASKS", help="Instead of --task: tasks of lm-evaluation-harness, or their YAML files."
)
@options.data
@options.columns
@click.option("--reference", metavar="MODEL", help="Dense model to compare with: KL, agreement and flips.")
@options.max_length
@options.limit
@options.device
@options.as_json
def evaluate(
    model: str,
    *,
    tasks: str | None,
    harness: str | None,
    data: Path | None,
    columns: dict[str, str] | None,
    reference: str | None,
    max_length: int,
    limit: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Score MODEL on the validation split of each task. Packed models run on the CPU."""
    if (tasks is None) == (harness is None):
        raise click.UsageError("give either --task or --harness")
    if tasks is None:
        if data or columns or reference:
            raise click.UsageError("--harness reads its own data: leave out --data, --columns and --reference")
        _evaluate_harness(model, str(harness).split(","), limit, device, as_json)
        return
    names = [task.strip() for task in tasks.split(",")]
    for path in filter(None, (model, reference)):
        check_path(path)
    for task in names:
        check_task(task, data)
    with progress_bar():
        loaded = [load_task(task, data, columns=columns) for task in names]
        from aerogel import models
        from aerogel.errors import ModelError
        from aerogel.evaluation import evaluate as score_tasks
        from aerogel.evaluation.evaluation import COLUMNS
        from aerogel.models.tokenizer import make_same_inputs
        from aerogel.runtime.conversion import packed_types

        heads = {entry.task.head for entry in loaded}
        head = heads.pop() if heads == {models.Head("embedding")} else None  # of any model, whatever its head
        loaded_model, tokenizer = models.load(model, head)
        dense, dense_tokenizer = models.load(reference, head) if reference else (None, tokenizer)
        if not make_same_inputs(tokenizer, dense_tokenizer):
            raise ModelError(f"{reference} and {model} have different tokenizers: their predictions can't be compared")
        for scored in filter(None, (loaded_model, dense)):
            models.to_device(scored, device)
        results = score_tasks(loaded_model, tokenizer, loaded, limit=limit, reference=dense, max_length=max_length)
        packed = {model: packed_types(loaded_model)}
        if dense is not None:
            packed[str(reference)] = packed_types(dense)
    if as_json:
        numbers = results.to_dict()
        facts = {"packed": packed[model]}
        print_json({entry.task.name: {**numbers[entry.task.name], **facts, "data": entry.source} for entry in loaded})
        return
    width = len(COLUMNS) if reference else len(COLUMNS) - 1  # without the interval
    print_table(model, COLUMNS[:width], [row[:width] for row in results.rows()], text_columns=2)
    _print_meaning(results)
    for name, types in packed.items():
        for values, count in types.items():
            note(f"{name}: {counted(count, 'packed layer')}, with values in {values} in memory")
    for entry in loaded:
        note(f"{entry.task.name}: {entry.source}")
        note_columns(entry)
    note_next("bench", *([reference] if reference else []), model)


def _print_meaning(results: Evaluation) -> None:
    """Explains the terms, and prints a conclusion for each task."""
    from aerogel.evaluation import below_chance, conclusion, meaning

    terms = {name: meaning(name) for evaluation in results.values() for name in evaluation}
    print_table("Terms", ("", ""), [(name, text) for name, text in terms.items() if text], text_columns=2)
    for task, evaluation in results.items():
        sentences = [below_chance(evaluation.score)]
        if evaluation.comparison:
            sentences.append(conclusion(evaluation.score, evaluation.comparison))
        for sentence in filter(None, sentences):
            stdout().print(f"{task}: {sentence}", highlight=False)


def _evaluate_harness(model: str, tasks: list[str], limit: int | None, device: str | None, as_json: bool) -> None:
    check_path(model)
    with progress_bar():
        from aerogel import models
        from aerogel.evaluation.harness import COLUMNS, evaluate_harness

        loaded, tokenizer = models.load(model)
        scores = evaluate_harness(models.to_device(loaded, device), tokenizer, [task.strip() for task in tasks], limit)
    if as_json:
        print_json([asdict(score) for score in scores])
    else:
        print_table(model, COLUMNS, [score.row() for score in scores], text_columns=2)
