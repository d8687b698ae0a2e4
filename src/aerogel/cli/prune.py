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
    help=f"How to choose the weights to remove: {', '.join(METHODS)}.",
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
    help="Which weights compete: of a matrix, of an output row, or all [default: as the method defines].",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    help="How the sparsity is distributed over the matrices [default: as the method defines].",
)
@click.option("--swap", is_flag=True, help="Refine each mask by swaps.")
@click.option(
    "--reconstruct",
    default=0,
    metavar="EPOCHS",
    type=click.IntRange(0, bounds.SIZE),
    help="Train attention and MLP towards their dense outputs after pruning.",
)
@click.option("--calibration", metavar="NAME|FILE", help=f"Text to calibrate on, the training split of {options.TASK}.")
@click.option("--samples", default=64, show_default=True, type=options.SIZE, help="Windows of that text.")
@options.data
@options.columns
@options.include
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave weights of these names dense.")
@options.seed
@options.device
@options.values
@options.head_values
@options.structured
@click.option("--no-pack", is_flag=True, help="Save zeros like other weights, for example to fine-tune the model.")
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
    """Prune MODEL and save it packed: smaller, and it runs sparse.

    With --structure whole heads and neurons are removed, so that every runtime gains.
    """
    if values and no_pack:
        raise click.UsageError("--values rounds packed values: leave out --no-pack")
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
            raise PruningError(f"{needy} needs text: name a task or a file by --calibration")
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

    Weights have the same bits; those in int8 are dequantized, to integers times the scale of their output.
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
