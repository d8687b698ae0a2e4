"""Time of one forward pass of whole models, in aerogel and other runtimes, each in the precisions that it offers.

Each model (BERT-base, GPT-2 and BART-base with random weights, MiniLM pretrained) is pruned by magnitude layer by layer
and runs on sequences of 64 tokens in every runtime, each in a fresh process (`paused.py`). Rounds are interleaved:
compare times within one table only. Dense runtimes, which take as long whatever the zeros, run the dense model: all of
them in the first table, and the two fastest of any precision in the others. DeepSparse and aerogel run the pruned one.

Columns: `median` time; `dense / this`, the speed-up over the fastest dense runtime of the table, of any precision;
`error`, the relative error (norm) to PyTorch's float32 result of the same model; `memory`, peak memory until the end of
the first pass; `file`, the size of the loaded file; `others`, the share of the machine that other processes used during
the rounds: above a few percent, measure again on an idle machine. The JSON file has all times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from harness import files_of, measured, prepared, print_table, say, surroundings, write
from paused import Facts, ProcessError
from runtimes import RUNTIMES
from subjects import ENCODERS, SEQUENCE

DENSE = [name for name, runtime in RUNTIMES.items() if runtime.dense]
PATTERNS = ("unstructured", "block:1x4")
COLUMNS = ("runtime", "median", "dense / this", "error", "memory", "file", "others")


@click.command(help=__doc__.partition("\n")[0])
@click.option(
    "--model", "models", multiple=True, type=click.Choice(ENCODERS), default=["bert", "minilm"], show_default=True
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=[1, 16, 128], show_default=True)
@click.option("--sparsity", "sparsities", multiple=True, type=click.FloatRange(0, 1, max_open=True),
              default=[0, 0.5, 0.8, 0.9, 0.95], show_default=True)  # fmt: skip
@click.option("--pattern", "patterns", multiple=True, default=PATTERNS, show_default=True)
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(RUNTIMES)), default=list(RUNTIMES))
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("runs/encoders.json"))
def main(
    *,
    models: Sequence[str],
    batches: Sequence[int],
    sparsities: Sequence[float],
    patterns: Sequence[str],
    runtimes: Sequence[str],
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
        with tempfile.TemporaryDirectory(prefix="aerogel-bench-") as scratch:
            spec = {"model": model, "batches": batches, "threads": threads}
            dense = prepare(spec, 0.0, {"": ""}, runtimes, Path(scratch), report)
            for sparsity in sorted(sparsities) if dense else ():
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    sparse = [name for name in runtimes if name not in DENSE]
                    forms = {f", {pattern}": pattern for pattern in patterns}
                    pruned = prepare(spec, sparsity, forms, sparse, Path(folder), report) if sparsity else dense
                    for batch in batches:
                        jobs = {name: (name, dense[""]) for name in baselines(report["groups"], model, batch, runtimes)}
                        jobs |= {name + form: (name, place) for name in sparse for form, place in pruned.items()}
                        title = f"{model}, batch {batch}, {sparsity:.0%} pruned"
                        group: Facts = {"model": model, "batch": batch, "sparsity": sparsity}
                        group["runtimes"] = measured(title, jobs, batch, rounds, threads)
                        report["groups"].append(group)
                        write(report, output)
                        print_table(title, COLUMNS, rows(group["runtimes"]), group["runtimes"])
    for name, others in (("fastest dense", DENSE), ("DeepSparse", [name for name in RUNTIMES if "deepsparse" in name])):
        print_summary(report["groups"], name, others)


def prepare(
    spec: Facts, sparsity: float, patterns: dict[str, str], runtimes: Iterable[str], scratch: Path, report: Facts
) -> dict[str, Path]:
    """Build and export the model in each pattern that can. Returns their folders."""
    folders = {}
    for form, pattern in patterns.items():
        what = f"{spec['model']} at {sparsity:.0%}{form}"
        say(f"{what}: building, pruning, compressing and exporting")
        folder = Path(tempfile.mkdtemp(dir=scratch))
        files = files_of(runtimes)
        try:
            facts = prepared(spec | {"sparsity": sparsity, "pattern": pattern, "folder": str(folder), "files": files})
        except ProcessError as error:
            report["failures"][what] = str(error)
            say(f"{what} failed: {error}")
            continue
        for packed, outcome in facts["compress"].items():
            if "failed" in outcome:
                report["failures"][f"{what}, {packed}"] = outcome["failed"]
                say(f"{what}, {packed} failed: {outcome['failed']}")
        folders[form] = folder
    return folders


def baselines(groups: Iterable[Facts], model: str, batch: int, runtimes: Iterable[str]) -> list[str]:
    """The dense runtimes to measure: all, then the two that were fastest for this model and batch size."""
    for group in groups:
        if (group["model"], group["batch"]) == (model, batch):
            medians = {name: facts["median"] for name, facts in group["runtimes"].items() if "median" in facts}
            return sorted((name for name in medians if name in DENSE), key=lambda name: medians[name])[:2]
    return [name for name in runtimes if name in DENSE]


def best(facts: dict[str, Facts], names: Iterable[str]) -> float | None:
    """The smallest median of the rows with these runtimes, or `None`."""
    names = set(names)
    medians = [row["median"] for name, row in facts.items() if name.partition(",")[0] in names and "median" in row]
    return min(medians, default=None)


def rows(facts: dict[str, Facts]) -> list[tuple[str, ...]]:
    dense = best(facts, DENSE)
    complete = {name: row for name, row in facts.items() if "median" in row}
    return [
        (
            name,
            f"{row['median'] * 1e3:,.1f} ms",
            f"{dense / row['median']:.2f}" if dense else "",
            f"{row['relative_error']:.1e}",
            f"{row['peak_memory'] / 1e6:,.0f} MB",
            f"{row['file_bytes'] / 1e6:,.1f} MB",
            f"{row['others']:.0%}",
        )
        for name, row in sorted(complete.items(), key=lambda item: item[1]["median"])
    ]


def print_summary(groups: Sequence[Facts], title: str, others: Iterable[str]) -> None:
    """Print the speed-up of each form of aerogel over the fastest of the others, by model, batch and sparsity."""
    sparsities = sorted({group["sparsity"] for group in groups})
    ratios: dict[tuple[str, ...], dict[float, str]] = {}
    for group in groups:
        theirs = best(group["runtimes"], others)
        for name, row in group["runtimes"].items():
            if name.startswith("aerogel") and "median" in row and theirs:
                key = name, group["model"], str(group["batch"])
                ratios.setdefault(key, {})[group["sparsity"]] = f"{theirs / row['median']:.2f}"
    columns = ("", "model", "batch", *(f"{sparsity:.0%}" for sparsity in sparsities))
    table = [(*key, *(row.get(sparsity, "") for sparsity in sparsities)) for key, row in sorted(ratios.items())]
    print_table(f"{title} / aerogel", columns, table, {})


if __name__ == "__main__":
    main()
