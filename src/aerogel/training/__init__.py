"""Recovery: fine-tuning with the zeros held."""

from aerogel.training.finetuning import TrainingConfig, TrainingResult, finetune
from aerogel.training.masks import SparsityCallback

__all__ = ["SparsityCallback", "TrainingConfig", "TrainingResult", "finetune"]
