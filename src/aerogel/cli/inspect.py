"""`aerogel inspect`."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from aerogel import files
from aerogel.cli import options
from aerogel.cli.notes import note_next, note_next_prune
from aerogel.cli.output import note, note_columns, print_json, print_table, progress_bar
from aerogel.models.zoo import check_path
from aerogel.tasks import check_task


@click.command(
    epilog=options.examples(
        "aerogel inspect tiny-bert", "aerogel inspect tiny-gpt2 --sensitivity python-reference --output weights"
    )
)
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for weights.json and the charts.")
@options.include
@click.option(
    "--sensitivity",
    "text",
    metavar="NAME|FILE",
    help="Prune each layer, and each kind of matrix, on its own, and compare the predictions on this text.",
)
@click.option(
    "--method", default="magnitude", show_default=True, type=options.METHOD, help="Pruning method of --sensitivity."
)
@options.data
@options.columns
@options.device
@options.as_json
def inspect(
    model: str,
    *,
    output: Path | None,
    include: tuple[str, ...],
    text: str | None,
    method: str,
    data: Path | None,
    columns: dict[str, str] | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show the weight distribution and zeros of MODEL.

    By layer and by kind of matrix. For a packed model it also shows the types of the values in its files; int8
    weights are dequantized. For a model that has lost heads or neurons it also shows how many each layer keeps.
    """
    if device and not text:
        raise click.UsageError("--device needs --sensitivity: nothing else computes on it")
    if output:
        files.check_new(output)
    check_path(model)
    if text:
        check_task(text, data)
    with progress_bar():
        import torch

        from aerogel.analysis import inspect as inspect_model
        from aerogel.analysis.plot import distribution, heat_map, kept_structures, layers
        from aerogel.analysis.weights import COLUMNS
        from aerogel.models import load_model, load_tokenizer, stored_dtypes, to_device
        from aerogel.models.location import local_folder
        from aerogel.pruning.calibration import calibration as read_calibration
        from aerogel.pruning.sensitivity import sensitivity
        from aerogel.runtime.conversion import packed_types, stored_types
        from aerogel.structure import removed
        from aerogel.tasks import load_task

        stored = stored_dtypes(model)
        # weights in the dtype of the files stay in them until they are read, also those of a model larger than memory
        loaded = load_model(model, dtype=torch.float32 if text or stored.others else stored.main)
        report = inspect_model(loaded, model, ("blocks", *include))
        local = local_folder(model)
        packed = stored_types(loaded, local) if local else packed_types(loaded)
        structure, parts = removed(loaded), None
        if text:
            source = load_task(text, data, columns=columns)
            note_columns(source)
            calibration = replace(read_calibration(source, load_tokenizer(model), samples=16), at_most=True)
            parts = sensitivity(to_device(loaded, device), calibration, model, method)
        if output:
            with files.new_folder(output) as folder:
                (folder / "weights.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
                distribution(report).savefig(folder / "distribution.svg")
                layers(report).savefig(folder / "layers.svg")
                if structure:
                    kept = [(entry.name, entry.kind, entry.kept, entry.original) for entry in structure]
                    kept_structures(kept, f"{model}, structures kept").savefig(folder / "structure.svg")
                if parts:
                    (folder / "sensitivity.json").write_text(json.dumps(asdict(parts)), encoding="utf-8")
                    groups, title = [*parts.layers, *parts.kinds], f"{model}, pruned by {method}"
                    chart = heat_map(groups, parts.sparsities, title, split=len(parts.layers))
                    chart.savefig(folder / "sensitivity.svg")
    if as_json:
        removal = {"structure": [asdict(entry) for entry in structure]} if structure else {}
        print_json(report.to_dict() | {"packed": packed} | removal | ({"sensitivity": asdict(parts)} if parts else {}))
        return
    print_table(f"{model}, by layer", COLUMNS, [group.row() for group in (report.whole, *report.layers)])
    print_table("By kind of matrix", COLUMNS, [group.row() for group in report.kinds])
    print_table(
        "Sparsity",
        ("", "weights", "zeros"),
        [
            ("of the prunable weights", f"{report.prunable:,}", f"{report.sparsity:.2%}"),
            ("of all weights", f"{report.parameters:,}", f"{report.model_sparsity:.2%}"),
        ],
    )
    if structure:
        print_table(
            "Structures",
            ("sub-layer", "", "kept", "before"),
            [(entry.name, entry.kind, f"{entry.kept:,}", f"{entry.original:,}") for entry in structure],
        )
    if packed:
        print_table("Packed layers", ("values", "layers"), [(values, str(count)) for values, count in packed.items()])
    if parts:
        heading = ("pruned alone", *(f"{sparsity:.0%}" for sparsity in parts.sparsities))
        rows = [(name, *(f"{value:.3g}" for value in values)) for name, values in (*parts.layers, *parts.kinds)]
        print_table(f"KL to the dense model on {text}, pruned by {method}", heading, rows)
    if output:
        charts = ["layers", *(["structure"] if structure else []), *(["sensitivity"] if parts else [])]
        note(f"wrote {output}/weights.json, distribution.svg, {', '.join(f'{chart}.svg' for chart in charts)}")
    if packed:
        note_next("bench", model)
    else:
        note_next_prune(model)
