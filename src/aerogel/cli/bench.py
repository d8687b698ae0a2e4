"""`aerogel bench`."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import click

from aerogel.benchmark.process import start_server
from aerogel.benchmark.runtimes import RUNTIMES
from aerogel.cli import options
from aerogel.cli.notes import note_next_prune
from aerogel.cli.output import note, print_json, print_table, progress_bar
from aerogel.models.zoo import check_path
from aerogel.tables import counted


@click.command(
    epilog=options.examples("aerogel bench tiny-gpt2 sparse", "aerogel bench tiny-bert --batch-size 1 --threads 1")
)
@click.argument("models", nargs=-1, required=True)
@click.option("--batch-size", default=128, show_default=True, type=options.SIZE)
@click.option("--sequence-length", default=64, show_default=True, type=options.SIZE,
              help="Tokens of a text, or frames of a waveform, usually 20 ms each. Images and spectrograms have the "
                   "size that the model expects.")  # fmt: skip
@click.option("--rounds", default=7, show_default=True, type=options.SIZE, help="Timed batches of inference.")
@click.option("--training-steps", default=3, show_default=True, type=options.SIZE)
@click.option("--threads", type=options.THREADS, help="Threads of each model [default: PyTorch's].")
@click.option("--beside", multiple=True, type=options.RUNTIME,
              help=f"Also measure the dense model in this runtime: {' or '.join(RUNTIMES)}.")  # fmt: skip
@options.as_json
def bench(models: tuple[str, ...], *, beside: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """Measure time and memory of MODELS.

    Each model runs in a fresh process, in interleaved rounds. A pruned model is measured dense and compressed.
    OpenVINO uses bfloat16 if the processor has it. For openvino-int8, NNCF quantizes the model on random tokens,
    which is enough to measure its speed but not its accuracy.
    """
    for model in models:
        check_path(model)
    start_server("aerogel.benchmark.subject")
    with progress_bar():
        from aerogel.benchmark import BenchConfig, Subject, bench as measure, environment, has_amx
        from aerogel.benchmark.measure import COLUMNS
        from aerogel.models import prepare

        config = BenchConfig(**settings)
        classes = {model: prepare(model) for model in models}
        measurements = measure([Subject(model) for model in models], config, beside=beside)
        machine = environment()
        others = {package: version(package) for runtime in beside for package in RUNTIMES[runtime]}
        machine["versions"] |= others
    if as_json:
        derived = ("median", "p90", "throughput", "training_median")
        entries = [asdict(entry) | {name: getattr(entry, name) for name in derived} for entry in measurements]
        print_json({"config": asdict(config), "environment": machine, "measurements": entries})
        return
    title = f"Batch {config.batch_size}, sequence length {config.sequence_length}"
    print_table(title, COLUMNS, measurements.rows())
    if len(set(classes.values())) > 1:
        heads = ", ".join(f"{model} is a {name}" for model, name in classes.items())
        note(f"models with different heads take different times: {heads}")
    versions = machine["versions"]
    threads = counted(config.threads or machine["threads"], "thread")
    note(
        f"{machine['processor']}, {threads}, {machine['instructions']}, "
        f"{', '.join(f'{name} {versions[name]}' for name in ('torch', 'transformers', *others))}; "
        "memory is the peak above the process's baseline"
    )
    if has_amx():
        note(
            "this processor has AMX, which makes dense models in bfloat16 or int8 much faster than AVX-512 in other "
            f"runtimes; aerogel does not use it: compare with --beside {' and '.join(RUNTIMES)}"
        )
    packed = [entry.name for entry in measurements if entry.compressed]
    if packed:
        name = packed[-1]
        load = f"transformers.{classes[name]}.from_pretrained({name!r})"
        note(f"next: load it in Python: import aerogel, transformers; model = {load}")
    else:
        note_next_prune(models[0])
