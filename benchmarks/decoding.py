"""Speed of `model.generate`, one token at a time, dense and compressed.

GPT-2 (random weights) and SmolLM2-135M (pretrained) are pruned by magnitude layer by layer and generate 64 tokens
after a prompt of 16 in float32, greedily, with batch size 1 and the key-value cache. The dense and the compressed
model run in fresh processes, with interleaved rounds (`paused.py`).

Columns: `tokens/s` at the median time, including the prompt; `speed-up` over the dense model with the same zeros, and
whether both generated the `same tokens`; `head`, `linear` and `attention` are shares of the time, from a separate run
with a timer around each module ("-" if a fused block hides its modules). The head stays dense, and attention without
its linear layers has no weights to prune, so these two limit the speed-up. `memory` is peak memory until the end of
the first run; `others` is the share of the machine that other processes used.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from generation import TOKENS
from harness import HERE, prepared, results, say, side_by_side, surroundings, write
from paused import Facts, ProcessError
from rich.table import Table
from subjects import DECODERS

FORMS = ("dense", "compressed")
SHARES = ("head", "linear", "attention")


@click.command(help=__doc__.partition("\n")[0])
@click.option("--model", "models", multiple=True, type=click.Choice(list(DECODERS)), default=list(DECODERS))
@click.option("--sparsity", "sparsities", multiple=True, type=click.FloatRange(0, 1, max_open=True),
              default=[0.5, 0.8, 0.9], show_default=True)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("runs/decoding.json"))
def main(models: Sequence[str], sparsities: Sequence[float], rounds: int, threads: int, output: Path) -> None:
    report: Facts = {"environment": surroundings(threads), "rounds": rounds, "groups": [], "failures": {}}
    for model in models:
        for sparsity in sparsities:
            with tempfile.TemporaryDirectory(prefix="aerogel-bench-") as folder:
                say(f"{model} at {sparsity:.0%}: building, pruning and compressing")
                spec = {"model": model, "sparsity": sparsity, "decoder": True, "folder": folder, "threads": threads}
                spec["files"] = ["packed"]
                try:
                    subject = prepared(spec)
                except ProcessError as error:
                    report["failures"][f"{model} at {sparsity:.0%}"] = str(error)
                    say(f"{model} at {sparsity:.0%} failed: {error}")
                    continue
                group = {"model": model, "sparsity": sparsity, "subject": subject}
                group["forms"] = measure(group, {"folder": folder, "prunable": subject["prunable"]}, rounds, threads)
            report["groups"].append(group)
            write(report, output)
            results.print(table(group))


def measure(group: Facts, spec: Facts, rounds: int, threads: int) -> dict[str, Facts]:
    """The facts of both forms: times, tokens and shares, or why it failed."""
    title = f"{group['model']} at {group['sparsity']:.0%}"
    command = [sys.executable, str(HERE / "generation.py")]
    jobs = {form: (command, spec | {"form": form, "threads": threads}) for form in FORMS}
    measured = side_by_side(title, jobs, rounds, threads)
    for facts in measured.values():
        if "failed" not in facts:
            facts["tokens_per_second"] = TOKENS / statistics.median(facts["seconds"])
    return measured


def table(group: Facts) -> Table:
    table = Table("model", title=f"{group['model']}, {group['sparsity']:.0%} pruned", title_justify="left")
    for heading in ("tokens/s", "speed-up", *SHARES, "same tokens", "memory", "others"):
        table.add_column(heading, justify="right")
    table.caption = "\n".join(
        f"{form}: {facts['failed']}" for form, facts in group["forms"].items() if "failed" in facts
    )
    dense = group["forms"]["dense"]
    for form in FORMS:
        facts = group["forms"][form]
        if "failed" in facts:
            continue
        compared = "tokens" in dense
        table.add_row(
            form,
            f"{facts['tokens_per_second']:.1f}",
            f"{facts['tokens_per_second'] / dense['tokens_per_second']:.2f}" if compared else "",
            *[f"{facts['shares'][kind]:.0%}" if kind in facts["shares"] else "-" for kind in SHARES],
            ("yes" if facts["tokens"] == dense["tokens"] else "no") if compared else "",
            f"{facts['peak_memory'] / 1e6:,.0f} MB",
            f"{facts['others']:.0%}",
        )
    return table


if __name__ == "__main__":
    main()
