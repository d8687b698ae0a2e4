"""`aerogel bench`."""

from __future__ import annotations

from dataclasses import asdict

import click

from aerogel.cli import options
from aerogel.cli.output import note, print_json, print_table, progress_bar, size
from aerogel.models.zoo import check_path


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
