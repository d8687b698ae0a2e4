"""The folder of checkpoints that `finetune` writes, and the last checkpoint in it to resume from."""

import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel

from aerogel import files
from aerogel.errors import DataError
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.tasks import TaskData
from aerogel.training.checkpoint import STATE
from aerogel.training.config import TrainingConfig
from aerogel.training.distillation import Distillation
from aerogel.training.gradual import GradualPruning

SETTINGS = "settings.json"  # in a folder of checkpoints: the training that they belong to


def run_settings(
    model: PreTrainedModel,
    data: TaskData,
    config: TrainingConfig,
    pruning: GradualPruning | None,
    distillation: Distillation | None,
) -> str:
    """Settings that identify a training run, as JSON."""
    teacher = distillation.teacher if distillation else None
    settings = {
        "model": [model.name_or_path, _digest(prunable_weights(model))],
        "data": data.digest,
        "training": asdict(config),
        "pruning": asdict(pruning) if pruning else None,
        "teacher": [teacher.name_or_path, _digest(prunable_weights(teacher, to_read=True))] if teacher else None,
        "distillation": asdict(distillation.config) if distillation else None,
    }
    return json.dumps(settings, indent=2)


def last_checkpoint(folder: Path, settings: str) -> str | None:
    """The last complete checkpoint in `folder`; incomplete ones are removed.

    Raises `DataError` where the folder belongs to a training with other `settings`.
    """
    file = folder / SETTINGS
    if file.is_file() and file.read_text(encoding="utf-8") != settings:
        raise DataError(
            f"{folder} has checkpoints of another training (model, data or settings): remove it, or name another output"
        )
    files.write_text(file, settings)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in checkpoints if (path / STATE).is_file()]
    for path in set(checkpoints) - set(complete):
        shutil.rmtree(path)
    return str(complete[-1]) if complete else None


def _digest(weights: Sequence[PrunableWeight]) -> int:
    """Of the weights of the blocks only: a new head may be initialised again before a training resumes."""
    digest = 0
    for weight in weights:
        digest = zlib.crc32(weight.matrix.detach().float().cpu().numpy().tobytes(), digest)
    return digest
