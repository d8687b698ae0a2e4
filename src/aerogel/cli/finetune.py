"""`aerogel finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aerogel import files
from aerogel.cli import options
from aerogel.cli.notes import note_next, note_saved, note_structure, note_training
from aerogel.cli.output import note, note_columns, progress_bar, resumable
from aerogel.models.zoo import check_path
from aerogel.pruning import ROUNDED_VALUES, SCORES
from aerogel.runtime.values import INT8_PATTERN, INT8_SPEED, check_head_values
from aerogel.tasks import check_task, load_task
from aerogel.training.config import PRECISIONS, RECOVERY_EPOCHS, TUNING_EPOCHS
from aerogel.training.schedule import QUANTIZED, SCHEDULES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from aerogel.pruning import RoundedValues
    from aerogel.runtime.values import HeadChoice
    from aerogel.training.schedule import ScheduleName


@click.command(
    epilog=options.examples(
        "aerogel finetune tiny-bert --task movie-reviews --learning-rate 5e-4 --output tuned",
        "aerogel finetune tuned --task movie-reviews --teacher tuned --sparsity 0.9 --pattern block:1x4 --values int8 "
        "--learning-rate 5e-4 --output small",
    )
)
@click.argument("model")
@options.task("task", required=True, help=f"{options.TASK[0].upper()}{options.TASK[1:]}.")
@options.output
@options.data
@options.columns
@click.option(
    "--epochs",
    type=options.EPOCHS,
    help=f"Epochs of training [default: {TUNING_EPOCHS:g}, or {RECOVERY_EPOCHS:g} with --sparsity].",
)
@click.option("--learning-rate", default=5e-5, show_default=True, type=options.LEARNING_RATE)
@click.option("--batch-size", default=32, show_default=True, type=options.SIZE)
@options.max_length
@options.limit
@click.option(
    "--sparsity", type=options.SPARSITY, help="Prune during training: the share of zeros at the end, in [0, 1)."
)
@click.option(
    "--schedule", type=click.Choice(SCHEDULES), help="gradual: prune in five steps [default]. constant: prune once."
)
@click.option(
    "--score",
    type=click.Choice(SCORES),
    help="Method that chooses the weights to remove; best [default] is calibrated on the training text.",
)
@click.option(
    "--pattern", help=f"unstructured [default], N:M or block:RxC; {INT8_PATTERN} is the fastest with --values int8."
)
@click.option(
    "--teacher",
    metavar="self|MODEL",
    help="Distil from this model. self: from MODEL itself, first fine-tuned on the task if the data has labels (and "
    "cached).",
)
@click.option(
    "--values",
    type=click.Choice(ROUNDED_VALUES),
    help=f"Round weights and inputs to int8 in the last {QUANTIZED:.0%} of the steps, and pack the weights as int8. "
    f"Fastest with --pattern {INT8_PATTERN}: {INT8_SPEED}.",
)
@options.head_values
@options.structured
@click.option("--patience", type=options.SIZE, help="Stop after this many epochs without a better validation score.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: bfloat16 on a GPU that has it]")
@options.seed
@options.device
@click.option("--no-pack", is_flag=True, help="Save an ordinary dense checkpoint with zeros.")
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
    structured: options.Structured,
    no_pack: bool,
    device: str | None,
    **settings: Any,  # of TrainingConfig
) -> None:
    """Fine-tune MODEL on a task, or prune it while it trains.

    The zeros of a pruned model are kept. --structure first removes heads and neurons, --sparsity prunes during
    training, and --values trains for int8. With the last two, the model is saved packed. Run an interrupted command
    again to resume it.
    """
    check_head_values(head_values, values)
    if head_values and no_pack:
        raise click.UsageError("--head-values needs packed weights: leave out --no-pack")
    removal, sparsity = structured.config(sparsity, settings["seed"])
    files.check_new(output)
    for name in filter(None, (model, teacher)):
        check_path(name)
    check_task(task, data)
    with progress_bar():
        task_data = load_task(task, data, columns=columns).divided()
        note_columns(task_data)
        from aerogel import models, training
        from aerogel.benchmark.forward import measure_in
        from aerogel.evaluation import below_chance, score as score_task
        from aerogel.runtime.writing import save_pruned

        if head_values and (kind := task_data.task.head.kind) != "language-modelling":
            raise click.UsageError(f"--head-values needs a language-model head, and task {task} has a head for {kind}")
        pruning: dict[str, Any] = {"sparsity": sparsity, "schedule": schedule, "score": score, "pattern": pattern}
        pruning = {name: value for name, value in pruning.items() if value is not None}
        config = training.TrainingConfig(**settings)
        gradual = training.GradualPruning.of(**pruning, seed=config.seed) if pruning else None
        tokenizer = models.load_tokenizer(model)

        warning: str | None = None

        def validate(trained: PreTrainedModel) -> Mapping[str, float]:
            nonlocal warning
            limit = task_data.task.kind.validation_limit
            score = score_task(trained, tokenizer, task_data, limit, config.max_length)
            warning = below_chance(score)
            return score.metrics

        def load(name: str, head: models.Head) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
            loaded, tokenizer = models.load(name, head)
            return models.to_device(loaded, device), tokenizer

        packs = (gradual is not None or values is not None) and not no_pack
        zeros = gradual.pruning if gradual else None
        measure = measure_in(structured.runtime or ("aerogel" if packs else "torch"), zeros, values)
        recovery = training.Recovery(
            gradual, teacher, epochs=epochs, patience=patience, values=values, structure=removal, measure=measure
        )
        checkpoints = Path(f"{output.resolve()}.checkpoints")
        with resumable("after the last whole epoch, or from the start if there is none"):
            recovered = training.recover(
                model, task_data, config, recovery, validate=validate, checkpoints=checkpoints, load=load
            )
        provenance = models.Provenance(
            structure=str(removal) if removal else None,
            method=f"{gradual.schedule} pruning by {gradual.pruning.method}" if gradual else None,
            pattern=gradual.pruning.pattern if gradual else None,
            metrics=recovered.training.kept,
        )
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
    if warning:
        note(f"{warning}: try more epochs or another learning rate")
    if recovered.structure:
        note_structure(recovered.structure)
    note_saved(saved, model, output, packs, values, gradual.pruning.method if gradual else None)
    reading = options.data_options(data, columns)
    if config.max_length != training.TrainingConfig.max_length:
        reading += ["--max-length", str(config.max_length)]
    if removal or packs:
        reference = [] if teacher in (None, training.recovery.SELF) else ["--reference", teacher]
        note_next("evaluate", output, "--task", task, *reading, *reference)
    else:
        if config.learning_rate != training.TrainingConfig.learning_rate:
            reading += ["--learning-rate", f"{config.learning_rate:g}"]
        pruning_options = ("--sparsity", "0.9", "--pattern", INT8_PATTERN, "--values", "int8", "--teacher", output)
        note_next("finetune", output, "--task", task, *pruning_options, *reading, "--output", f"{output}-small")
