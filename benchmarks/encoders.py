"""Time of one forward pass of whole models, in aerogel and other runtimes.

Each model (BERT-base, GPT-2 and BART-base with random weights, MiniLM pretrained) is pruned by magnitude layer by layer
and runs in float32 on sequences of 64 tokens in every runtime, each in a fresh process (`paused.py`). Rounds are
interleaved: compare times within one table only. The time of dense runtimes does not depend on the zeros; all of them
are measured at 0% and 90%, and the two fastest ones at the other sparsities.

Columns: `median` time; `dense / this`, the speed-up over the fastest dense runtime of the table; `error`, the relative
error (norm) to PyTorch with the dense pruned model; `memory`, peak memory until the end of the first pass; `file`, the
size of the loaded file; `others`, the share of the machine that other processes used during the rounds: above a few
percent, measure again on an idle machine. The JSON file has all times.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from harness import DEEPSPARSE, HERE, prepared, results, say, side_by_side, surroundings, write
from paused import Facts, ProcessError
from rich.table import Table
from runtimes import RUNTIMES
from subjects import ENCODERS, SEQUENCE, file_bytes, is_packed

DENSE = ("torch", "torch.compile", "onnxruntime", "openvino", "openvino sparse")
ALL_DENSE = (0.0, 0.9)  # the sparsities at which all dense runtimes are measured


@click.command(help=__doc__.partition("\n")[0])
@click.option("--model", "models", multiple=True, type=click.Choice(list(ENCODERS)), default=list(ENCODERS))
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=[16, 128], show_default=True)
@click.option("--sparsity", "sparsities", multiple=True, type=click.FloatRange(0, 1, max_open=True),
              default=[0, 0.5, 0.8, 0.9, 0.95, 0.99], show_default=True)  # fmt: skip
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(RUNTIMES)), default=list(RUNTIMES))
@click.option("--all-dense", is_flag=True, help="Measure every dense runtime at every sparsity.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("runs/encoders.json"))
def main(
    *,
    models: Sequence[str],
    batches: Sequence[int],
    sparsities: Sequence[float],
    runtimes: Sequence[str],
    all_dense: bool,
    rounds: int,
    threads: int,
    output: Path,
) -> None:
    report: Facts = {
        "environment": surroundings(threads),
        "sequence": SEQUENCE,
        "rounds": rounds,
        "groups": [],
        "failures": {},
    }
    for model in models:
        # first the sparsities that show which dense runtimes are fastest
        for sparsity in sorted(sparsities, key=lambda sparsity: (sparsity not in ALL_DENSE, sparsity)):
            with tempfile.TemporaryDirectory(prefix="aerogel-bench-") as folder:
                say(f"{model} at {sparsity:.0%}: building, pruning, compressing and exporting")
                spec = {"model": model, "sparsity": sparsity, "batches": batches, "decoder": False}
                try:
                    subject = prepared(spec | {"folder": folder, "threads": threads})
                except ProcessError as error:
                    report["failures"][f"{model} at {sparsity:.0%}"] = str(error)
                    say(f"{model} at {sparsity:.0%} failed: {error}")
                    continue
                for batch in batches:
                    chosen = [name for name in runtimes if sparsity or name != "torch csr"]
                    if not all_dense and sparsity not in ALL_DENSE:
                        baselines = fastest_dense(report["groups"], model, batch) or DENSE
                        chosen = [name for name in chosen if name not in DENSE or name in baselines]
                    group = {"model": model, "batch": batch, "sparsity": sparsity, "subject": subject}
                    group["runtimes"] = measure(Path(folder), group, chosen, rounds, threads)
                    report["groups"].append(group)
                    write(report, output)
                    results.print(group_table(group))
    results.print(summary(report["groups"], "fastest dense", DENSE))
    results.print(summary(report["groups"], "DeepSparse", ("deepsparse",)))


def measure(folder: Path, group: Facts, runtimes: Iterable[str], rounds: int, threads: int) -> dict[str, Facts]:
    """The facts of every runtime: times and what its process reported, or why it failed."""
    title = f"{group['model']}, batch {group['batch']}, {group['sparsity']:.0%}"
    missing: dict[str, Facts] = {}
    jobs = {}
    for name in runtimes:
        python = DEEPSPARSE if name == "deepsparse" else Path(sys.executable)
        if not python.exists():
            missing[name] = {"failed": "no environment: `make bench` creates one if Python 3.11 is installed"}
            continue
        spec = {"runtime": name, "folder": str(folder), "batch": group["batch"], "threads": threads}
        jobs[name] = [str(python), str(HERE / "runtimes.py")], spec
    measured = side_by_side(title, jobs, rounds, threads)
    for name, facts in measured.items():
        if "failed" not in facts:
            facts["median"] = statistics.median(facts["seconds"])
            facts["file_bytes"] = file_bytes(weights_of(name, folder, group["batch"]))
    return missing | measured


def weights_of(runtime: str, folder: Path, batch: int) -> Path:
    """The files that this runtime loads."""
    if runtime == "aerogel" and is_packed(folder):
        return folder / "packed"
    return folder / ("dense" if runtime == "aerogel" or runtime.startswith("torch") else f"{batch}.onnx")


def fastest_dense(groups: Iterable[Facts], model: str, batch: int) -> list[str]:
    """The two fastest dense runtimes for this model and batch size."""
    medians: dict[str, float] = {}
    for group in groups:
        if (group["model"], group["batch"]) == (model, batch) and group["sparsity"] in ALL_DENSE:
            medians |= {name: facts["median"] for name, facts in group["runtimes"].items() if "median" in facts}
    return sorted((name for name in medians if name in DENSE), key=lambda name: medians[name])[:2]


def best(group: Facts, names: Iterable[str]) -> float | None:
    """The smallest median of these runtimes, or `None`."""
    medians = [group["runtimes"][name].get("median") for name in names if name in group["runtimes"]]
    return min((median for median in medians if median is not None), default=None)


def group_table(group: Facts) -> Table:
    table = Table(
        title=f"{group['model']}, batch {group['batch']}, {group['sparsity']:.0%} pruned", title_justify="left"
    )
    table.add_column("runtime")
    for heading in ("median", "quickest", "dense / this", "error", "memory", "file", "others"):
        table.add_column(heading, justify="right")
    table.caption = "\n".join(
        f"{name}: {facts['failed']}" for name, facts in group["runtimes"].items() if "failed" in facts
    )
    dense = best(group, DENSE)
    for name, facts in sorted(group["runtimes"].items(), key=lambda item: item[1].get("median", float("inf"))):
        if "failed" in facts:
            continue
        table.add_row(
            name,
            f"{facts['median'] * 1e3:,.1f} ms",
            f"{min(facts['seconds']) * 1e3:,.1f} ms",
            f"{dense / facts['median']:.2f}" if dense else "",
            f"{facts['relative_error']:.1e}",
            f"{facts['peak_memory'] / 1e6:,.0f} MB",
            f"{facts['file_bytes'] / 1e6:,.0f} MB",
            f"{facts['others']:.0%}",
        )
    return table


def summary(groups: Sequence[Facts], title: str, names: Iterable[str]) -> Table:
    """The speed-up of aerogel over the fastest of these, by model and sparsity."""
    sparsities = sorted({group["sparsity"] for group in groups})
    table = Table("model", "batch", title=f"{title} / aerogel", title_justify="left")
    for sparsity in sparsities:
        table.add_column(f"{sparsity:.0%}", justify="right")
    ratios: dict[tuple[str, int], dict[float, str]] = {}
    for group in groups:
        theirs, ours = best(group, names), best(group, ["aerogel"])
        row = ratios.setdefault((group["model"], group["batch"]), {})
        row[group["sparsity"]] = f"{theirs / ours:.2f}" if theirs and ours else "-"
    for (model, batch), row in ratios.items():
        table.add_row(model, str(batch), *[row.get(sparsity, "") for sparsity in sparsities])
    return table


if __name__ == "__main__":
    main()
