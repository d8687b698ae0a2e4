"""`aerogel prune`, `aerogel unpack` and `aerogel finetune`: commands that write models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aerogel import bounds, files
from aerogel.cli import options
from aerogel.cli.notes import note_saved, note_training, note_written
from aerogel.cli.output import note, note_columns, progress_bar
from aerogel.models.zoo import check_path
from aerogel.pruning import ALLOCATIONS, METHODS, ROUNDED_VALUES, SCOPES, SCORES
from aerogel.runtime.values import INT8_PATTERN, INT8_SPEED, check_head_values
from aerogel.tasks import check_task, load_task
from aerogel.training.config import PRECISIONS, RECOVERY_EPOCHS, TUNING_EPOCHS
from aerogel.training.schedule import QUANTIZED, SCHEDULES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aerogel.pruning import RoundedValues
    from aerogel.runtime.values import HeadChoice, ValueChoice
    from aerogel.training.schedule import ScheduleName


@click.command()
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
@options.values
@options.head_values
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
    no_pack: bool,
    **settings: Any,  # the other fields of PruneConfig
) -> None:
    """Prune MODEL and save it packed: smaller, and it runs sparse."""
    if values and no_pack:
        raise click.UsageError("--values rounds packed values: leave out --no-pack")
    check_head_values(head_values, values)
    files.check_new(output)
    check_path(model)
    if calibration:
        check_task(calibration, data)
    with progress_bar():
        from aerogel import models
        from aerogel.errors import PruningError
        from aerogel.pruning import PruneConfig, prune as prune_in_place
        from aerogel.pruning.calibration import calibration as read_calibration
        from aerogel.runtime.fused.head import head_weight
        from aerogel.runtime.writing import save_pruned

        rounded = values if values in ROUNDED_VALUES else None
        config = PruneConfig(targets=("blocks", *include), values=rounded, **settings)
        config.resolved()  # raises before the model is loaded
        if config.needs_calibration and calibration is None:
            needy = f"method {config.method} needs text with these options"
            raise PruningError(f"{needy}: name a task or a file by --calibration")
        text = None
        if calibration:
            calibration_data = load_task(calibration, data, columns=columns)
            note_columns(calibration_data)
            loaded, tokenizer = models.load(model)
            text = read_calibration(calibration_data, tokenizer, samples=samples, seed=config.seed)
        else:
            loaded = models.load_model(model)
            tokenizer = models.load_tokenizer(model) if models.has_tokenizer(model) else None
        if head_values:
            head_weight(loaded)  # raises before the model is pruned
        prune_in_place(loaded, config, text)
        provenance, packs = models.Provenance(method=config.method, pattern=config.pattern), not no_pack
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
    note_saved(saved, model, output, packs, values)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@options.output
def unpack(folder: Path, output: Path) -> None:
    """Write the packed model in FOLDER as an ordinary dense checkpoint.

    Weights have the same bits; those in int8 are dequantized, to integers times the scale of their output.
    """
    files.check_new(output)
    check_path(str(folder))
    with progress_bar():
        from aerogel.runtime.writing import unpack as write_unpacked

        unpacked = write_unpacked(str(folder), output)
    if unpacked.dequantized:
        note(f"{unpacked.dequantized} layers have int8 values: their weights are written dequantized")
    note_written(unpacked.left_out, str(folder), output)


@click.command()
@click.argument("model")
@click.option("--task", required=True, help=f"{options.TASK[0].upper()}{options.TASK[1:]}.")
@options.output
@options.data
@options.columns
@click.option(
    "--epochs",
    type=options.EPOCHS,
    help=f"Of training [default: {TUNING_EPOCHS:g}, or {RECOVERY_EPOCHS:g} with --sparsity].",
)
@click.option("--learning-rate", default=5e-5, show_default=True, type=options.LEARNING_RATE)
@click.option("--batch-size", default=32, show_default=True, type=options.SIZE)
@options.max_length
@options.limit
@click.option(
    "--sparsity", type=options.SPARSITY, help="Prune during training: the share of zeros at the end, in [0, 1)."
)
@click.option("--schedule", type=click.Choice(SCHEDULES), help="Prune in five steps [default], or at once.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    help="The method that chooses the weights to remove; best [default] looks at the training text.",
)
@click.option(
    "--pattern", help=f"unstructured [default], N:M or block:RxC; {INT8_PATTERN} is the fastest with --values int8."
)
@click.option(
    "--teacher",
    metavar="self|MODEL",
    help="Learn from this model; self: from MODEL itself, fine-tuned on the task first (or found in the cache) if its "
    "data has labels.",
)
@click.option(
    "--values",
    type=click.Choice(ROUNDED_VALUES),
    help=f"Round weights and inputs to int8 in the last {QUANTIZED:.0%} of the steps, and pack the weights as int8. "
    f"Fastest with --pattern {INT8_PATTERN}: {INT8_SPEED}.",
)
@options.head_values
@click.option("--patience", type=options.SIZE, help="Stop after this many epochs without a better validation score.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: bfloat16 on a GPU that has it]")
@options.seed
@click.option("--no-pack", is_flag=True, help="Save zeros like other weights.")
def finetune(
    model: str,
    *,
    task: str,
    output: Path,
    data: Path | None,
    columns: dict[str, str] | None,
    epochs: float | None,
    sparsity: float | None,
    schedule: ScheduleName | None,
    score: str | None,
    pattern: str | None,
    teacher: str | None,
    values: RoundedValues | None,
    head_values: HeadChoice | None,
    patience: int | None,
    no_pack: bool,
    **settings: Any,  # of TrainingConfig
) -> None:
    """Fine-tune MODEL on a task; the zeros of a pruned model stay zeros.

    With --sparsity it is pruned while it trains, and with --values trained for int8; then it is saved packed. Run an
    interrupted command again to resume it.
    """
    check_head_values(head_values, values)
    if head_values and no_pack:
        raise click.UsageError("--head-values rounds a packed model: leave out --no-pack")
    files.check_new(output)
    for name in filter(None, (model, teacher)):
        check_path(name)
    check_task(task, data)
    with progress_bar():
        task_data = load_task(task, data, columns=columns).divided()
        note_columns(task_data)
        from aerogel import models, training
        from aerogel.evaluation import score as score_task
        from aerogel.runtime.writing import save_pruned

        if head_values and (kind := task_data.task.head.kind) != "language-modelling":
            raise click.UsageError(f"--head-values needs a language-model head, and task {task} has one of {kind}")
        pruning: dict[str, Any] = {"sparsity": sparsity, "schedule": schedule, "score": score, "pattern": pattern}
        pruning = {name: value for name, value in pruning.items() if value is not None}
        config = training.TrainingConfig(**settings)
        gradual = training.GradualPruning.of(**pruning, seed=config.seed) if pruning else None
        tokenizer = models.load_tokenizer(model)

        def validate(trained: PreTrainedModel) -> Mapping[str, float]:
            limit = task_data.task.kind.validation_limit
            return score_task(trained, tokenizer, task_data, limit, config.max_length).metrics

        recovery = training.Recovery(gradual, teacher, epochs=epochs, patience=patience, values=values)
        checkpoints = Path(f"{output.resolve()}.checkpoints")
        recovered = training.recover(model, task_data, config, recovery, validate=validate, checkpoints=checkpoints)
        provenance = models.Provenance(
            method=f"{gradual.schedule} pruning by {gradual.pruning.method}" if gradual else None,
            pattern=gradual.pruning.pattern if gradual else None,
            metrics=recovered.training.kept,
        )
        packs = (gradual is not None or values is not None) and not no_pack
        saved = save_pruned(
            recovered.model,
            recovered.tokenizer,
            output,
            model,
            provenance,
            pack=packs,
            values=values,
            head_values=head_values,
        )
        recovered.remove_checkpoints()
    note_training(recovered.training, task_data)
    note_saved(saved, model, output, packs, values)
