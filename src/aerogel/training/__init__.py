"""Recovery: fine-tuning with the zeros held or made on the way, and learning from a dense model."""

from aerogel.training.distillation import DistillationConfig
from aerogel.training.finetuning import TrainingConfig, TrainingResult, finetune
from aerogel.training.masks import SparsityCallback
from aerogel.training.merging import merge
from aerogel.training.sparsity import SparsityConfig
from aerogel.training.teacher import Tuned, cached_finetune

__all__ = [
    "DistillationConfig",
    "SparsityCallback",
    "SparsityConfig",
    "TrainingConfig",
    "TrainingResult",
    "Tuned",
    "cached_finetune",
    "finetune",
    "merge",
]
