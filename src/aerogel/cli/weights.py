"""`aerogel prune`, `aerogel unpack` and `aerogel finetune`: commands that write models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aerogel import bounds, files
from aerogel.cli import options
from aerogel.cli.output import note, progress_bar, size
from aerogel.models.zoo import check_path
from aerogel.pruning import ALLOCATIONS, METHODS, SCOPES, SCORES
from aerogel.tasks import check_task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from aerogel.pruning import Allocation, Scope

TUNING_EPOCHS, RECOVERY_EPOCHS = 3.0, 10.0
VALIDATION_WINDOWS = 32  # of running text, after each epoch


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
@click.option("--include", multiple=True, type=click.Choice(["embeddings", "heads"]), help="Prune these too.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave weights of these names dense.")
@options.seed
@click.option("--dense", is_flag=True, help="Save zeros like other weights, to fine-tune the model further.")
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
    dense: bool,
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
        from aerogel.runtime import compress
        from aerogel.runtime.conversion import LEAST_SPARSITY
        from aerogel.runtime.layers import sparse_layers

        config = PruneConfig(
            method, sparsity, pattern, scope, ("blocks", *include), exclude, seed, allocation, swap, reconstruct
        )
        Pattern.parse(pattern).settle(sparsity)
        if config.needs_calibration and calibration is None:
            raise PruningError(f"method {method} as asked needs text: name a task or a file by --calibration")
        text = None
        if calibration:
            loaded, tokenizer = models.load(model)
            text = read_calibration(calibration, tokenizer, data, samples, seed=seed)
        else:
            loaded = models.load_model(model)
            tokenizer = models.load_tokenizer(model) if models.has_tokenizer(model) else None
        prune_in_place(loaded, config, text)
        models.stored_dtypes(model).apply(loaded)
        zeros = ZeroCount.of(loaded, config.targets, exclude)
        if not dense:
            compress(loaded)
        provenance = models.Provenance(method=method, pattern=pattern, sparsity=zeros.sparsity)
        left_out = models.save(loaded, tokenizer, output, model, provenance)
    note(str(zeros))
    _note_left_out(left_out, model)
    if not dense and not sparse_layers(loaded):
        note(f"no linear layer that can be packed has {LEAST_SPARSITY:.0%} zeros, from which it gains: saved dense")
    note(f"wrote {output}, {_weight_files(output)}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@options.output
def unpack(folder: Path, output: Path) -> None:
    """Write the packed model in FOLDER as an ordinary dense checkpoint, bit for bit as it was."""
    files.check_new(output)
    check_path(str(folder))
    with progress_bar():
        import torch

        from aerogel import models
        from aerogel.errors import ModelError
        from aerogel.runtime import decompress
        from aerogel.runtime.layers import sparse_layers

        stored = models.stored_dtypes(str(folder))
        loaded = models.load_model(str(folder), dtype=torch.float32 if stored.others else stored.main)
        if not sparse_layers(loaded):
            raise ModelError(f"{folder} is not a packed checkpoint; nothing to unpack")
        stored.apply(decompress(loaded))
        left_out = models.save(loaded, None, output, str(folder))
    _note_left_out(left_out, str(folder))
    note(f"wrote {output}, {_weight_files(output)}")


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
    metavar="dense|MODEL",
    help="Learn from this model; dense: from MODEL itself, fine-tuned first (for 3 epochs, or found in the cache).",
)
@click.option("--patience", type=options.SIZE, help="Stop after so many epochs without a better score.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="[default: bfloat16 on a GPU that has it]"
)
@options.seed
@click.option("--dense", is_flag=True, help="Save what --sparsity pruned like other weights.")
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
    dense: bool,
) -> None:
    """Fine-tune MODEL on a task; the zeros of a pruned model stay zeros.

    With --sparsity it is pruned on the way, and saved packed. The same command goes on where an interrupted one was.
    """
    files.check_new(output)
    for name in filter(None, (model, teacher)):
        check_path(name)
    check_task(task, data)
    with progress_bar():
        found = load_task(task, data).divided()
        import torch

        from aerogel import models, training
        from aerogel.evaluation import score as score_task
        from aerogel.runtime import compress

        asked = {"sparsity": sparsity, "schedule": schedule, "score": score, "pattern": pattern}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        becoming = training.SparsityConfig(**given) if given else None
        config = training.TrainingConfig(
            TUNING_EPOCHS, batch_size, learning_rate, max_length=max_length, limit=limit, seed=seed, precision=precision
        )
        tokenizer = models.load_tokenizer(model)

        def validate(trained: PreTrainedModel) -> Mapping[str, float]:
            windows = VALIDATION_WINDOWS if found.task.is_language_modelling else None
            return score_task(trained, tokenizer, found, windows, max_length).metrics

        start = model
        if teacher == "dense":
            teacher = start = str(training.cached_finetune(model, found, config, validate).folder)
        torch.manual_seed(seed)  # a new head starts from it
        loaded, tokenizer = models.load(start, found.task.head)
        checkpoints = Path(f"{output.resolve()}.checkpoints")
        result = training.finetune(
            loaded,
            tokenizer,
            found,
            replace(config, epochs=epochs or (RECOVERY_EPOCHS if becoming else TUNING_EPOCHS), patience=patience),
            sparsity=becoming,
            teacher=models.load(teacher)[0] if teacher else None,
            validate=validate,
            checkpoints=checkpoints,
        )
        stored = models.stored_dtypes(model)
        stored.apply(loaded)
        zeros = ZeroCount.of(loaded)
        if becoming and not dense:
            compress(loaded)
        provenance = models.Provenance(
            method=f"{becoming.schedule} pruning by {becoming.score}" if becoming else None,
            pattern=becoming.pattern if becoming else None,
            sparsity=zeros.sparsity,
            metrics=result.kept,
        )
        left_out = models.save(loaded, tokenizer, output, model, provenance)
        shutil.rmtree(checkpoints)
    last = f", loss {result.losses[-1]:.3f}" if result.losses else ""
    note(f"{result.steps} steps in {result.seconds:.0f} s{last}; data: {found.source}")
    for name, value in list(result.kept.items())[: len(found.task.metrics) or 1]:
        note(f"{name} {value:.4f} on the validation split")
    note(str(zeros))
    if stored.main != torch.float32:
        note(f"weights are saved in {str(stored.main).removeprefix('torch.')}, as {model} has them")
    _note_left_out(left_out, model)
    note(f"wrote {output}, {_weight_files(output)}")


@dataclass(frozen=True)
class ZeroCount:
    """Zeros among the prunable weights of a model, and how many weights there are in all."""

    zeros: int
    prunable: int
    weights: int

    @classmethod
    def of(cls, model: PreTrainedModel, targets: Sequence[str] = ("blocks",), exclude: Sequence[str] = ()) -> ZeroCount:
        from aerogel import models

        masks = [weight.zeros for weight in models.prunable_weights(model, targets, exclude)]
        zeros = sum(int(mask.sum()) for mask in masks)
        return cls(zeros, sum(mask.numel() for mask in masks), models.parameter_count(model))

    @property
    def sparsity(self) -> float:
        return self.zeros / self.prunable

    def __str__(self) -> str:
        whole = self.zeros / self.weights
        return (
            f"{self.zeros:,} zeros: {self.sparsity:.2%} of {self.prunable:,} prunable weights, {whole:.2%} of the model"
        )


def _note_left_out(names: Sequence[str], model: str) -> None:
    for name in names:
        note(f"{name} of {model} was not copied: too large, not readable, or a link that leads out of the folder")


def _weight_files(folder: Path) -> str:
    return f"{size(sum(file.stat().st_size for file in files.resolved(folder).glob('*.safetensors')))} of weights"
