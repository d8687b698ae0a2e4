"""Recovery: fine-tuning with zeros kept or added, and distillation from a dense model.

Names are imported when they are first used: listing schedules and precisions needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.training.config import PRECISIONS, RECOVERY_EPOCHS, TUNING_EPOCHS, Precision, TrainingConfig
    from aerogel.training.distillation import DistillationConfig
    from aerogel.training.finetuning import TrainingResult, finetune
    from aerogel.training.gradual import GradualPruning
    from aerogel.training.masks import SparsityCallback
    from aerogel.training.merging import merge
    from aerogel.training.recovery import SELF, Recovered, Recovery, cached_finetune, recover
    from aerogel.training.schedule import SCHEDULES, ScheduleName

_HOMES = {
    "PRECISIONS": "config",
    "RECOVERY_EPOCHS": "config",
    "SCHEDULES": "schedule",
    "SELF": "recovery",
    "TUNING_EPOCHS": "config",
    "DistillationConfig": "distillation",
    "GradualPruning": "gradual",
    "Precision": "config",
    "Recovered": "recovery",
    "Recovery": "recovery",
    "ScheduleName": "schedule",
    "SparsityCallback": "masks",
    "TrainingConfig": "config",
    "TrainingResult": "finetuning",
    "cached_finetune": "recovery",
    "finetune": "finetuning",
    "merge": "merging",
    "recover": "recovery",
}
__all__ = [
    "PRECISIONS",
    "RECOVERY_EPOCHS",
    "SCHEDULES",
    "SELF",
    "TUNING_EPOCHS",
    "DistillationConfig",
    "GradualPruning",
    "Precision",
    "Recovered",
    "Recovery",
    "ScheduleName",
    "SparsityCallback",
    "TrainingConfig",
    "TrainingResult",
    "cached_finetune",
    "finetune",
    "merge",
    "recover",
]

__getattr__ = lazy_names(__name__, _HOMES)
