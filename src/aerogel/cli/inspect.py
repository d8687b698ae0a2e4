"""`aerogel inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerogel import files
from aerogel.cli import options
from aerogel.cli.output import note, print_json, print_table, progress_bar
from aerogel.models.zoo import check_path
from aerogel.tasks import check_task

if TYPE_CHECKING:
    from aerogel.analysis import WeightStatistics


@click.command()
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for weights.json and the charts.")
@click.option("--include", multiple=True, type=click.Choice(["embeddings", "heads"]), help="Look at these weights too.")
@click.option("--sensitivity", "text", metavar="NAME|FILE", help="What pruning each part alone does, on this text.")
@click.option(
    "--method", default="magnitude", show_default=True, type=options.METHOD, help="That prunes for --sensitivity."
)
@options.data
@options.as_json
def inspect(
    model: str,
    output: Path | None,
    include: tuple[str, ...],
    text: str | None,
    method: str,
    data: Path | None,
    as_json: bool,
) -> None:
    """Describe the weights of MODEL: distribution, zeros, by layer and by kind of matrix."""
    if output:
        files.check_new(output)
    check_path(model)
    if text:
        check_task(text, data)
    with progress_bar():
        from aerogel.analysis import inspect as describe
        from aerogel.analysis.plot import distribution, heat_map, layers
        from aerogel.models import load_model, load_tokenizer
        from aerogel.pruning.calibration import calibration as read_calibration
        from aerogel.pruning.sensitivity import sensitivity

        loaded = load_model(model)
        report = describe(loaded, model, ("blocks", *include))
        found = None
        if text:
            calibration = read_calibration(text, load_tokenizer(model), data, samples=16)
            found = sensitivity(loaded, calibration, model, method)
        if output:
            with files.new_folder(output) as folder:
                (folder / "weights.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
                distribution(report).savefig(folder / "distribution.svg")
                layers(report).savefig(folder / "layers.svg")
                if found:
                    (folder / "sensitivity.json").write_text(json.dumps(found.to_dict()), encoding="utf-8")
                    groups, title = [*found.layers, *found.kinds], f"{model}, pruned by {method}"
                    chart = heat_map(groups, found.sparsities, title, split=len(found.layers))
                    chart.savefig(folder / "sensitivity.svg")
    if as_json:
        print_json(report.to_dict() | ({"sensitivity": found.to_dict()} if found else {}))
        return

    def row(statistics: WeightStatistics) -> tuple[str, ...]:
        return (
            statistics.name,
            f"{statistics.count:,}",
            f"{statistics.mean:+.2e}",
            f"{statistics.std:.4f}",
            f"{statistics.kurtosis:+.2f}",
            f"{statistics.quantiles[3]:.4f}",
            f"{statistics.below_1e_3:.1%}",
            f"{statistics.below_1e_2:.1%}",
            f"{statistics.zeros:.2%}",
        )

    columns = ("", "weights", "mean", "std", "kurtosis", "median |w|", "< 1e-3", "< 1e-2", "zeros")
    print_table(f"{model}, by layer", columns, [row(group) for group in (report.whole, *report.layers)])
    print_table("By kind of matrix", columns, [row(group) for group in report.kinds])
    print_table(
        "Sparsity",
        ("", "weights", "zeros"),
        [
            ("of the prunable weights", f"{report.prunable:,}", f"{report.sparsity:.2%}"),
            ("of all weights", f"{report.parameters:,}", f"{report.model_sparsity:.2%}"),
        ],
    )
    if found:
        heads = ("pruned alone", *(f"{share:.0%}" for share in found.sparsities))
        rows = [(name, *(f"{value:.3g}" for value in values)) for name, values in (*found.layers, *found.kinds)]
        print_table(f"KL to the dense model on {text}, pruned by {method}", heads, rows)
    if output:
        drawn = ", layers.svg and sensitivity.svg" if found else " and layers.svg"
        note(f"wrote {output}/weights.json, distribution.svg{drawn}")
