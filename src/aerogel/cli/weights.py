"""`aerogel prune`, `aerogel unpack` and `aerogel finetune`: commands that write models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aerogel import bounds, files
from aerogel.cli import options
from aerogel.cli.output import note, progress_bar
from aerogel.models.zoo import check_path
from aerogel.pruning import ALLOCATIONS, METHODS, SCOPES, SCORES
from aerogel.tables import size
from aerogel.tasks import check_task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aerogel.pruning import Allocation, Scope
    from aerogel.runtime.writing import Saved

VALIDATION_LIMITS = {"examples": None, "windows": 32}  # after each epoch


@click.command()
@click.argument("model")
@options.output
@click.option("--sparsity", type=options.SPARSITY, help="Share of zeros among the prunable weights, in [0, 1).")
@click.option(
    "--method",
    default="magnitude",
    show_default=True,
    type=options.METHOD,
    help=f"How to choose the weights that go: {', '.join(METHODS)}.",
)
@click.option("--pattern", default="unstructured", show_default=True, help="unstructured, N:M or block:RxC.")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    help="Which weights compete: of a matrix, of an output row, or all [default: as the method defines].",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    help="How the sparsity is shared out among the matrices [default: as the method defines].",
)
@click.option("--swap", is_flag=True, help="Refine each mask by swaps.")
@click.option(
    "--reconstruct",
    default=0,
    metavar="EPOCHS",
    type=click.IntRange(0, bounds.SIZE),
    help="Bring attention and MLP back to their dense outputs after pruning.",
)
@click.option("--calibration", metavar="NAME|FILE", help="Text to calibrate on: a task's training split, or a file.")
@click.option("--samples", default=64, show_default=True, type=options.SIZE, help="Windows of that text.")
@options.data
@options.include
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave weights of these names dense.")
@options.seed
@click.option("--no-pack", is_flag=True, help="Save zeros like other weights, to fine-tune the model further.")
def prune(
    model: str,
    output: Path,
    sparsity: float | None,
    method: str,
    pattern: str,
    scope: Scope | None,
    allocation: Allocation | None,
    swap: bool,
    reconstruct: int,
    calibration: str | None,
    samples: int,
    data: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    seed: int,
    no_pack: bool,
) -> None:
    """Prune MODEL and save it packed: smaller, and it runs sparse."""
    files.check_new(output)
    check_path(model)
    if calibration:
        check_task(calibration, data)
    with progress_bar():
        from aerogel import models
        from aerogel.errors import PruningError
        from aerogel.pruning import Pattern, PruneConfig
        from aerogel.pruning import prune as prune_in_place
        from aerogel.pruning.calibration import calibration as read_calibration
        from aerogel.runtime.writing import save_pruned

        targets = ("blocks", *include)
        config = PruneConfig(method, sparsity, pattern, scope, targets, exclude, seed, allocation, swap, reconstruct)
        Pattern.parse(pattern).settle(sparsity)
        if config.needs_calibration and calibration is None:
            raise PruningError(f"method {method} needs text with these options: name a task or a file by --calibration")
        text = None
        if calibration:
            loaded, tokenizer = models.load(model)
            text = read_calibration(calibration, tokenizer, data, samples, seed=seed)
        else:
            loaded = models.load_model(model)
            tokenizer = models.load_tokenizer(model) if models.has_tokenizer(model) else None
        prune_in_place(loaded, config, text)
        provenance = models.Provenance(method=method, pattern=pattern)
        saved = save_pruned(
            loaded, tokenizer, output, model, provenance, pack=not no_pack, targets=targets, exclude=exclude
        )
    _note_saved(saved, model, output, packs=not no_pack)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@options.output
def unpack(folder: Path, output: Path) -> None:
    """Write the packed model in FOLDER as an ordinary dense checkpoint, bit for bit as it was."""
    files.check_new(output)
    check_path(str(folder))
    with progress_bar():
        from aerogel.runtime.writing import unpack as write_unpacked

        left_out = write_unpacked(str(folder), output)
    _note_written(left_out, str(folder), output)


@click.command()
@click.argument("model")
@click.option("--task", required=True, help="A task name, or a .tsv or .txt file.")
@options.output
@options.data
@click.option("--epochs", type=options.EPOCHS, help="Of training [default: 3, or 10 with --sparsity].")
@click.option("--learning-rate", default=5e-5, show_default=True, type=options.LEARNING_RATE)
@click.option("--batch-size", default=32, show_default=True, type=options.SIZE)
@click.option(
    "--max-length",
    default=128,
    show_default=True,
    type=click.IntRange(8, bounds.SIZE),
    help="Tokens of a sentence.",
)
@options.limit
@click.option("--sparsity", type=options.SPARSITY, help="Prune on the way: the share of zeros at the end, in [0, 1).")
@click.option("--schedule", type=click.Choice(["gradual", "constant"]), help="Step by step [default], or at once.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    help="Which weights go first; best [default] looks at the training text, as in aerogel prune.",
)
@click.option("--pattern", help="unstructured [default], N:M or block:RxC.")
@click.option(
    "--teacher",
    metavar="self|MODEL",
    help="Learn from this model; self: from MODEL itself, fine-tuned first (for 3 epochs, or found in the cache).",
)
@click.option("--patience", type=options.SIZE, help="Stop after so many epochs without a better score.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="[default: bfloat16 on a GPU that has it]"
)
@options.seed
@click.option("--no-pack", is_flag=True, help="Save what --sparsity pruned like other weights.")
def finetune(
    model: str,
    task: str,
    output: Path,
    data: Path | None,
    epochs: float | None,
    learning_rate: float,
    batch_size: int,
    max_length: int,
    limit: int | None,
    sparsity: float | None,
    schedule: Literal["gradual", "constant"] | None,
    score: str | None,
    pattern: str | None,
    teacher: str | None,
    patience: int | None,
    precision: Literal["float32", "bfloat16"] | None,
    seed: int,
    no_pack: bool,
) -> None:
    """Fine-tune MODEL on a task; the zeros of a pruned model stay zeros.

    With --sparsity it is pruned while it trains, and saved packed. An interrupted command resumes when it is run again.
    """
    files.check_new(output)
    for name in filter(None, (model, teacher)):
        check_path(name)
    check_task(task, data)
    with progress_bar():
        found = load_task(task, data).divided()
        from aerogel import models, training
        from aerogel.evaluation import score as score_task
        from aerogel.runtime.writing import save_pruned

        options_given = {"sparsity": sparsity, "schedule": schedule, "score": score, "pattern": pattern}
        settings: dict[str, Any] = {name: value for name, value in options_given.items() if value is not None}
        pruning = training.SparsityConfig(**settings) if settings else None
        config = training.TrainingConfig(
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_length=max_length,
            limit=limit,
            seed=seed,
            precision=precision,
        )
        tokenizer = models.load_tokenizer(model)

        def validate(trained: PreTrainedModel) -> Mapping[str, float]:
            return score_task(trained, tokenizer, found, VALIDATION_LIMITS[found.task.kind.unit], max_length).metrics

        recovery = training.Recovery(pruning, teacher, epochs=epochs, patience=patience)
        checkpoints = Path(f"{output.resolve()}.checkpoints")
        recovered = training.recover(model, found, config, recovery, validate=validate, checkpoints=checkpoints)
        result = recovered.training
        provenance = models.Provenance(
            method=f"{pruning.schedule} pruning by {pruning.score}" if pruning else None,
            pattern=pruning.pattern if pruning else None,
            metrics=result.kept,
        )
        packs = pruning is not None and not no_pack
        saved = save_pruned(recovered.model, recovered.tokenizer, output, model, provenance, pack=packs)
        shutil.rmtree(checkpoints)
    last = f", loss {result.losses[-1]:.3f}" if result.losses else ""
    note(f"{result.steps} steps in {result.seconds:.0f} s{last}; data: {found.source}")
    for name, value in list(result.kept.items())[: len(found.task.metrics) or 1]:
        note(f"{name} {value:.4f} on the validation split")
    _note_saved(saved, model, output, packs)


def _note_saved(saved: Saved, model: str, output: Path, packs: bool) -> None:
    from aerogel.runtime.conversion import LEAST_SPARSITY

    note(str(saved.zeros))
    if saved.dtype != "float32":
        note(f"weights are saved in {saved.dtype}, as {model} has them")
    if packs and not saved.is_packed:
        note(f"no linear layer that can be packed has {LEAST_SPARSITY:.0%} zeros, from which it gains: saved dense")
    _note_written(saved.left_out, model, output)


def _note_written(left_out: Sequence[str], model: str, output: Path) -> None:
    for name in left_out:
        note(f"{name} of {model} was not copied: too large, not readable, or a link that leads out of the folder")
    weights = sum(file.stat().st_size for file in files.resolved(output).glob("*.safetensors"))
    note(f"wrote {output}, {size(weights)} of weights")
