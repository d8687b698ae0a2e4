"""Structured pruning in steps, with training after each."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from aerogel.pruning import Calibration
from aerogel.structure import Structure, StructureConfig, prune_structure, removed
from aerogel.structure.latency import Measure

EARLY = 0.25  # share of the epochs that follow each step before the last

Load = Callable[[Path], PreTrainedModel]
Save = Callable[[PreTrainedModel, Path], object]
Train = Callable[[PreTrainedModel, float, Path | None], object]
"""Trains a model for some epochs, with a folder for its checkpoints."""


@dataclass(frozen=True)
class Step:
    """A removal of structures, and the epochs of training after it."""

    structure: StructureConfig
    epochs: float


def steps(structure: StructureConfig, epochs: float) -> list[Step]:
    """The removals of a recovery: each at most doubles the speed; a target of another kind takes one.

    ZipLM also alternates removals and training (Kurtic et al. 2023, section 4.1).

    >>> [(step.structure.speedup, step.epochs) for step in steps(StructureConfig(speedup=4), 8)]
    [(2.0, 2.0), (2.0, 6.0)]
    """
    if not structure.speedup or not epochs:
        return [Step(structure, epochs)]
    count = max(1, math.ceil(math.log2(structure.speedup) - 1e-9))
    each, early = replace(structure, speedup=structure.speedup ** (1 / count)), min(EARLY, 1 / count) * epochs
    return [*(Step(each, early) for _ in range(count - 1)), Step(each, epochs - early * (count - 1))]


def remove_in_steps(
    model: PreTrainedModel,
    stages: list[Step],
    text: Calibration,
    measure: Measure | None,
    train: Train,
    checkpoints: Path | None,
    load: Load,
    save: Save,
) -> tuple[PreTrainedModel, Structure]:
    """Removes structures step by step, and trains after each but the last.

    Returns the model, which is another if the steps were resumed, and what was removed. Each removal is saved in
    `checkpoints`: its timings, and so what it removes, would differ if it ran again.
    """
    structure = None
    folders = [checkpoints / f"structure-{number}" if checkpoints else None for number in range(1, len(stages) + 1)]
    for number, (step, folder) in enumerate(zip(stages, folders, strict=True), 1):
        if any(later and later.is_dir() for later in folders[number:]):
            continue
        if folder and folder.is_dir():
            model = load(folder)
        else:
            structure = prune_structure(model, step.structure, text, measure)
            if folder:  # always train the reloaded model: the name that it was loaded by is part of the settings
                save(model, folder)
                model = load(folder)
        if number < len(stages):
            training = folder / "training" if folder else None
            train(model, step.epochs, training)
            if training:
                shutil.rmtree(training)
    return model, structure or Structure(tuple(removed(model)))
