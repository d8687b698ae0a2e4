"""Notes that commands print about the models that they write."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aerogel import files
from aerogel.cli.output import note
from aerogel.models.zoo import ZOO
from aerogel.tables import counted, size

if TYPE_CHECKING:
    from aerogel.pruning import PruneConfig
    from aerogel.runtime.writing import Saved
    from aerogel.structure import Structure
    from aerogel.tasks import TaskData
    from aerogel.training import TrainingResult

PLAIN_LIMIT = 0.5  # zeros from which pruning without text loses much, see docs/results/one-shot.md
ONE_SHOT_LIMIT = 0.7  # zeros above which pruning without training does


def note_next(*arguments: object) -> None:
    """Say which command of aerogel to run next."""
    note(f"next: {shlex.join(['aerogel', *map(str, arguments)])}")


def note_next_prune(model: str) -> None:
    """Suggest to prune a dense model in one shot, to a sparsity that loses little."""
    text = "python-reference" if model in ZOO else "TEXT"
    note_next("prune", model, "--sparsity", 0.5, "--method", "best", "--calibration", text, "--output", "sparse")


def note_loss(config: PruneConfig) -> None:
    """Say when pruning in one shot usually loses quality, and what loses less."""
    sparsity = config.resolved().sparsity or 0.0
    if sparsity >= PLAIN_LIMIT and not config.needs_calibration:
        note(
            f"{config.method} usually loses quality at {sparsity:.0%} zeros: "
            "--method best --calibration TEXT loses far less"
        )
    if sparsity > ONE_SHOT_LIMIT:
        note(
            f"above {ONE_SHOT_LIMIT:.0%} zeros quality needs training: aerogel finetune prunes a model while it trains"
        )


def note_training(result: TrainingResult, data: TaskData) -> None:
    last = f", loss {result.losses[-1]:.3f}" if result.losses else ""
    note(f"{counted(result.steps, 'step')} in {result.seconds:.0f} s{last}; data: {data.source}")
    for name, value in list(result.kept.items())[: len(data.task.metrics) or 1]:
        note(f"{name} {value:.4f} on the validation split")


def note_structure(structure: Structure) -> None:
    for kind in ("heads", "neurons"):
        entries = [entry for entry in structure.removed if entry.kind == kind]
        kept, original = (sum(getattr(entry, name) for entry in entries) for name in ("kept", "original"))
        note(f"{kept:,} of {original:,} {kind} are left: aerogel inspect shows them by layer")
    if structure.speedup:
        note(f"measured {structure.speedup:.2f} times as fast as before")


def note_saved(
    saved: Saved, model: str, output: Path, packs: bool, values: str | None, method: str | None = None
) -> None:
    from aerogel.runtime.conversion import LEAST_SPARSITY

    note(f"pruned by {method}: {saved.zeros}" if method else str(saved.zeros))
    rounded = saved.is_packed and values is not None
    if rounded:
        note(f"packed weights are saved in {values}")
    if saved.dtype != "float32":
        note(f"{'other ' if rounded else ''}weights are saved in {saved.dtype}, the type of {model}")
    if packs and not saved.is_packed:
        note(f"saved dense: no layer that can be packed has at least {LEAST_SPARSITY:.0%} zeros")
    note_written(saved.left_out, model, output)


def note_written(left_out: Sequence[str], model: str, output: Path) -> None:
    for name in left_out:
        note(f"{name} of {model} was not copied: too large, not readable, or a link that leads out of the folder")
    weights = sum(file.stat().st_size for file in files.resolved(output).glob("*.safetensors"))
    note(f"wrote {output}, {size(weights)} of weights")
