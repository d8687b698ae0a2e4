"""Speed and accuracy of one fine-tuned model in aerogel and other runtimes, dense and pruned, in one table.

MiniLM is fine-tuned on a task, and recovered with pruning from there, by `aerogel finetune`, with int8 values in the
last steps, so that all int8 runtimes get a model that was trained for int8; a folder that exists is used as it is. Each
runtime loads the dense and the pruned model, is timed on a batch of 16 as in `encoders.py`, and predicts the whole
validation split, and `DATA/TASK/test.tsv` if it exists. Quantization is calibrated on 256 training sentences.

Columns: `median` time; `dense / this`, the speed-up over the fastest dense runtime of any precision with the dense
model; `accuracy` on the validation split and the `test`, each with `KL`, the divergence in nats from PyTorch's float32
predictions of the same model; `file` and `others` as in `encoders.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from harness import files_of, measured, prepared, print_table, say, surroundings, write
from paused import Facts
from runtimes import RUNTIMES

BATCH = 16
LENGTHS = {"sst2": 64, "mrpc": 128}
EPOCHS = {"sst2": (3, 10), "mrpc": (5, 6)}  # of the dense model, and of recovery
DENSE = "dense"
COLUMNS = ("runtime", "median", "dense / this", "accuracy", "KL", "test", "KL", "file", "others", "model")


@click.command(help=__doc__.partition("\n")[0])
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(LENGTHS)), default=list(LENGTHS), show_default=True
)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sparsity", type=click.FloatRange(0, 1, max_open=True), default=0.9, show_default=True)
@click.option("--pattern", default="block:1x4", show_default=True)
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(RUNTIMES)), default=list(RUNTIMES))
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--models", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/accuracy"),
              help="Folder of the fine-tuned models.")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("runs/accuracy.json"))
def main(
    *,
    tasks: Sequence[str],
    data: Path,
    sparsity: float,
    pattern: str,
    runtimes: Sequence[str],
    rounds: int,
    threads: int,
    models: Path,
    output: Path,
) -> None:
    report: Facts = {"environment": surroundings(threads), "batch": BATCH, "rounds": rounds, "groups": []}
    for task in tasks:
        dense = finetuned("minilm", models / f"{task}-dense", task, data)
        kind = f"{sparsity:.0%} {pattern}"
        folder = models / f"{task}-{sparsity:g}-{pattern.replace(':', '-')}-int8"
        recovery = ["--sparsity", str(sparsity), "--pattern", pattern, "--values", "int8", "--teacher", str(dense)]
        sources = {DENSE: dense, kind: finetuned(str(dense), folder, task, data, recovery)}
        with tempfile.TemporaryDirectory(prefix="aerogel-bench-") as scratch:
            jobs: dict[str, tuple[str, Path]] = {}
            for form, source in sources.items():
                say(f"{task}, {form}: compressing and exporting")
                place = Path(scratch, form)
                place.mkdir()
                spec = {"model": str(source), "sparsity": 0.0, "batches": [BATCH], "threads": threads}
                spec |= {"task": task, "data": str(data), "length": LENGTHS[task], "folder": str(place)}
                prepared(spec | {"files": files_of(runtimes)})
                jobs |= {f"{name}, {form}": (name, place) for name in runtimes}
            group: Facts = {"task": task, "runtimes": measured(task, jobs, BATCH, rounds, threads)}
        report["groups"].append(group)
        write(report, output)
        title = f"MiniLM on {task}, batch {BATCH} of {LENGTHS[task]} tokens"
        print_table(title, COLUMNS, rows(group["runtimes"]), group["runtimes"])


def finetuned(model: str, output: Path, task: str, data: Path, recovery: Sequence[str] = ()) -> Path:
    """The folder `output`, fine-tuned first if it is missing; resumed if that was interrupted."""
    if not output.exists():
        say(f"{output}: fine-tuning")
        output.parent.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("aerogel")), "finetune", model, "--task", task]
        command += ["--data", str(data), "--max-length", str(LENGTHS[task]), "--precision", "bfloat16"]
        command += ["--epochs", str(EPOCHS[task][bool(recovery)]), "--learning-rate", "3e-4" if recovery else "1e-4"]
        subprocess.run([*command, *recovery, "--output", str(output)], check=True)
    return output


def rows(facts: dict[str, Facts]) -> list[tuple[str, ...]]:
    complete = {name: row for name, row in facts.items() if "median" in row}
    dense = [
        row["median"]
        for name, row in complete.items()
        if name.endswith(f", {DENSE}") and RUNTIMES[name.partition(",")[0]].dense
    ]
    return [
        (
            name.partition(", ")[0],
            f"{row['median'] * 1e3:,.1f} ms",
            f"{min(dense) / row['median']:.2f}" if dense else "",
            *scores(row, "validation"),
            *scores(row, "test"),
            f"{row['file_bytes'] / 1e6:,.1f} MB",
            f"{row['others']:.0%}",
            name.partition(", ")[2],
        )
        for name, row in sorted(complete.items(), key=lambda item: item[1]["median"])
    ]


def scores(row: Facts, split: str) -> tuple[str, str]:
    if split not in row["scores"]:
        return "", ""
    return f"{row['scores'][split]['accuracy']:.4f}", f"{row['scores'][split]['kl']:.4f}"


if __name__ == "__main__":
    main()
