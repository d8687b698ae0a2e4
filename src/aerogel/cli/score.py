"""`aerogel evaluate` and `aerogel bench`: commands that measure."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from aerogel.cli import options
from aerogel.cli.output import note, print_json, print_table, progress_bar, size
from aerogel.models.zoo import check_path
from aerogel.tasks import check_task, load_task


@click.command()
@click.argument("model")
@click.option("--tasks", required=True, help="Task names or files, separated by commas.")
@options.data
@click.option("--reference", metavar="MODEL", help="The dense model: also say how far the answers moved from its own.")
@options.limit
@options.as_json
def evaluate(
    model: str, tasks: str, data: Path | None, reference: str | None, limit: int | None, as_json: bool
) -> None:
    """Score MODEL on the validation split of tasks."""
    names = [task.strip() for task in tasks.split(",")]
    for path in filter(None, (model, reference)):
        check_path(path)
    for task in names:
        check_task(task, data)
    with progress_bar():
        loaded = [load_task(task, data) for task in names]
        from aerogel import models
        from aerogel.errors import ModelError
        from aerogel.evaluation import evaluate as score_tasks

        subject, tokenizer = models.load(model)
        other, its = models.load(reference) if reference else (None, tokenizer)
        if its.get_vocab() != tokenizer.get_vocab():
            raise ModelError(f"{reference} has another tokenizer than {model}: their answers can't be compared")
        results = score_tasks(subject, tokenizer, loaded, limit=limit, reference=other)
    if as_json:
        sources = {found.task.name: {"data": found.source} for found in loaded}
        print_json({task: {**metrics, **sources[task]} for task, metrics in results.items()})
        return
    rows = [
        (task, metric, _shown(metric, value), _interval(metrics, metric))
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if not metric.endswith(("_low", "_high"))
    ]
    columns = ("task", "metric", "value", "95% interval")
    print_table(model, columns if reference else columns[:3], [row[: 4 if reference else 3] for row in rows], 2)
    for found in loaded:
        note(f"{found.task.name}: {found.source}")


def _shown(metric: str, value: float) -> str:
    whole = metric in ("examples", "tokens", "flipped", "lost", "gained")
    return f"{value:,.0f}" if whole else f"{value:.4f}"


def _interval(metrics: dict[str, float], metric: str) -> str:
    if f"{metric}_low" not in metrics:
        return ""
    return f"{metrics[f'{metric}_low']:.4f} to {metrics[f'{metric}_high']:.4f}"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--batch-size", default=128, show_default=True, type=options.SIZE)
@click.option("--sequence-length", default=64, show_default=True, type=options.SIZE)
@click.option("--rounds", default=7, show_default=True, type=options.SIZE, help="Timed passes of inference.")
@click.option("--training-steps", default=3, show_default=True, type=options.SIZE)
@click.option("--threads", type=options.THREADS, help="Threads of each model [default: PyTorch's].")
@options.as_json
def bench(
    models: tuple[str, ...],
    batch_size: int,
    sequence_length: int,
    rounds: int,
    training_steps: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure time and memory of MODELS side by side, each in a fresh process, rounds interleaved.

    A pruned model is measured dense and compressed.
    """
    for model in models:
        check_path(model)
    with progress_bar():
        from aerogel.benchmark import BenchConfig, Subject, environment
        from aerogel.benchmark import bench as measure
        from aerogel.models import prepare

        config = BenchConfig(batch_size, sequence_length, rounds, training_steps, threads)
        kinds = {model: prepare(model) for model in models}
        measured = measure([Subject(model) for model in models], config)
        machine = environment()
    if as_json:
        derived = ("median", "p90", "throughput", "training_median")
        entries = [asdict(entry) | {name: getattr(entry, name) for name in derived} for entry in measured]
        print_json({"config": config, "environment": machine, "measurements": entries})
        return
    rows = [
        (
            f"{entry.name}, compressed" if entry.compressed else entry.name,
            f"{entry.median:.3f} s",
            f"{entry.p90:.3f} s",
            f"{entry.throughput:.1f}/s",
            f"{measured[0].median / entry.median:.2f}x",
            "" if entry.training_median is None else f"{entry.training_median:.3f} s",
            size(entry.inference_memory),
            "" if entry.training_memory is None else size(entry.training_memory),
            size(entry.parameter_bytes),
            size(entry.file_bytes),
        )
        for entry in measured
    ]
    columns = ("model", "median", "p90", "sequences", "speed", "training step")
    memory = ("memory", "training memory", "weights", "files")
    print_table(f"Batch {batch_size}, sequence length {sequence_length}", (*columns, *memory), rows)
    if len(set(kinds.values())) > 1:
        classes = ", ".join(f"{model} is a {kind}" for model, kind in kinds.items())
        note(f"other heads take other times: {classes}")
    versions = machine["versions"]
    note(
        f"{machine['processor']}, {config.threads or machine['threads']} threads, {machine['instructions']}, "
        f"torch {versions['torch']}, transformers {versions['transformers']}; "
        "memory is the peak over the process's start"
    )
