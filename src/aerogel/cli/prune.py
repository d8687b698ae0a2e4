"""`aerogel prune` and `aerogel unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aerogel import bounds, files
from aerogel.cli import options
from aerogel.cli.notes import note_loss, note_next, note_saved, note_structure, note_written
from aerogel.cli.output import note, note_columns, progress_bar, resumable
from aerogel.models.zoo import check_path
from aerogel.pruning import ALLOCATIONS, METHODS, ROUNDED_VALUES, SCOPES
from aerogel.runtime.values import INT8_PATTERN, check_head_values
from aerogel.tables import counted
from aerogel.tasks import check_task, load_task

if TYPE_CHECKING:
    from aerogel.runtime.values import HeadChoice, ValueChoice


@click.command(
    epilog=options.examples(
        "aerogel prune tiny-gpt2 --sparsity 0.5 --method best --calibration python-reference --output sparse",
        "aerogel prune tiny-bert --sparsity 0.5 --pattern block:1x4 --values int8 --method best "
        "--calibration python-reference --output fast",
    )
)
@click.argument("model")
@options.output
@click.option("--sparsity", type=options.SPARSITY, help="Share of zeros among the prunable weights, in [0, 1).")
@click.option(
    "--method",
    default="magnitude",
    show_default=True,
    type=options.METHOD,
    help=f"Pruning method: {', '.join(METHODS)}.",
)
@click.option(
    "--pattern",
    default="unstructured",
    show_default=True,
    help=f"unstructured, N:M or block:RxC; {INT8_PATTERN} is the fastest with --values int8.",
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    help="Which weights are ranked together: those of a matrix (layer), of an output row, or all (global) "
    "[default: the method's own].",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    help="How the sparsity is distributed over the matrices [default: the method's own].",
)
@click.option("--swap", is_flag=True, help="Improve each mask by exchanging kept and removed weights.")
@click.option(
    "--reconstruct",
    default=0,
    metavar="EPOCHS",
    type=click.IntRange(0, bounds.SIZE),
    help="After pruning, train each attention and MLP to reproduce its dense outputs.",
)
@click.option("--calibration", metavar="NAME|FILE", help=f"Calibration text: the training split of {options.TASK}.")
@click.option("--samples", default=64, show_default=True, type=options.SIZE, help="Windows of calibration text.")
@options.data
@options.columns
@options.include
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave weights with these names dense.")
@options.seed
@options.device
@options.values
@options.head_values
@options.structured
@click.option(
    "--no-pack", is_flag=True, help="Save an ordinary dense checkpoint with zeros, for example to fine-tune it."
)
def prune(
    model: str,
    *,
    output: Path,
    calibration: str | None,
    samples: int,
    data: Path | None,
    columns: dict[str, str] | None,
    include: tuple[str, ...],
    values: ValueChoice | None,
    head_values: HeadChoice | None,
    sparsity: float | None,
    structured: options.Structured,
    no_pack: bool,
    device: str | None,
    **settings: Any,  # the other fields of PruneConfig
) -> None:
    """Prune MODEL and save it packed.

    The packed model is smaller and faster. --structure removes whole heads and neurons, which makes it faster in every
    runtime.
    """
    if values and no_pack:
        raise click.UsageError("--values needs packed weights: leave out --no-pack")
    check_head_values(head_values, values)
    files.check_new(output)
    check_path(model)
    if calibration:
        check_task(calibration, data)
    removal, zeros = structured.config(sparsity, settings["seed"])
    only_structure = removal is not None and zeros is None and settings["pattern"] == "unstructured"
    packs = not no_pack and not (only_structure and values is None)
    with progress_bar():
        from aerogel import models
        from aerogel.benchmark.forward import measure_in
        from aerogel.cli.streaming import streams
        from aerogel.errors import PruningError
        from aerogel.pruning import PruneConfig, prune as prune_in_place
        from aerogel.pruning.calibration import calibration as read_calibration
        from aerogel.runtime import prune_checkpoint
        from aerogel.runtime.fused.head import head_weight
        from aerogel.runtime.writing import save_pruned
        from aerogel.structure import prune_structure

        rounded = values if values in ROUNDED_VALUES else None
        config = PruneConfig(
            sparsity=0.0 if only_structure else zeros, targets=("blocks", *include), values=rounded, **settings
        )
        config.resolved()  # raises before the model is loaded
        if (removal or config.needs_calibration) and calibration is None:
            needy = "--structure" if removal else config.needs_text_for
            raise PruningError(f"{needy} needs calibration text: choose a task or a file with --calibration")
        text = structure = None
        tokenizer = models.load_tokenizer(model) if calibration or models.has_tokenizer(model) else None
        if calibration and tokenizer is not None:
            calibration_data = load_task(calibration, data, columns=columns)
            note_columns(calibration_data)
            text = read_calibration(calibration_data, tokenizer, samples=samples, seed=config.seed)
        if streams(model, output, config, removal is not None):
            with resumable("at the block that it was in"):
                saved = prune_checkpoint(
                    model, output, config, text, pack=packs, values=values, head_values=head_values
                )
        else:
            loaded = models.load(model)[0] if text else models.load_model(model)
            if head_values:
                head_weight(loaded)  # raises before the model is pruned
            models.to_device(loaded, device)
            if removal and text:
                served = structured.runtime or ("aerogel" if packs else "torch")
                measure = measure_in(served, config if packs else None, values)
                structure = prune_structure(loaded, removal, text, measure)
            if not only_structure or config.values:
                prune_in_place(loaded, config, text)
            provenance = models.Provenance(
                structure=str(removal) if removal else None,
                method=None if only_structure else config.method,
                pattern=None if only_structure else config.pattern,
            )
            saved = save_pruned(
                loaded,
                tokenizer,
                output,
                model,
                provenance,
                pack=packs,
                values=values,
                head_values=head_values,
                targets=config.targets,
                exclude=config.exclude,
            )
    if structure:
        note_structure(structure)
    note_saved(saved, model, output, packs, values, None if only_structure else config.method)
    if not only_structure:
        note_loss(config)
    reading = options.data_options(data, columns)
    note_next("evaluate", output, "--task", calibration or "TASK", *reading, "--reference", model)


@click.command(
    epilog=options.examples("aerogel unpack sparse --output dense", "aerogel unpack fast --output dense-fast")
)
@click.argument("folder", type=click.Path(path_type=Path))
@options.output
def unpack(folder: Path, output: Path) -> None:
    """Write a packed model as an ordinary dense checkpoint.

    Float weights keep their bits. int8 weights are dequantized.
    """
    files.check_new(output)
    check_path(str(folder))
    with progress_bar():
        from aerogel.runtime.unpacking import unpack as write_unpacked

        unpacked = write_unpacked(str(folder), output)
    if unpacked.dequantized:
        note(f"the int8 values of {counted(unpacked.dequantized, 'layer')} are written dequantized")
    note_written(unpacked.left_out, str(folder), output)
    note_next("inspect", output)
