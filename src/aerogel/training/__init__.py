"""Recovery: fine-tuning with the zeros held or made on the way, and learning from a dense model."""

from aerogel.training.distillation import DistillationConfig
from aerogel.training.finetuning import TrainingConfig, TrainingResult, finetune
from aerogel.training.masks import SparsityCallback
from aerogel.training.merging import merge
from aerogel.training.recovery import SELF, Recovered, Recovery, cached_finetune, recover
from aerogel.training.sparsity import SparsityConfig

__all__ = [
    "SELF",
    "DistillationConfig",
    "Recovered",
    "Recovery",
    "SparsityCallback",
    "SparsityConfig",
    "TrainingConfig",
    "TrainingResult",
    "cached_finetune",
    "finetune",
    "merge",
    "recover",
]
