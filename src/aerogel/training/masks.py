"""Zeros that stay zeros while a model trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from aerogel.errors import PruningError
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.models.prunable import TARGETS


class SparsityCallback(TrainerCallback):
    """Holds the zeros of a pruned model through training with transformers' Trainer.

    The zeros found when training begins are put back after every optimizer step, since momentum and
    weight decay revive them, and are checked once more at the end.

        Trainer(model, arguments, train_dataset=..., callbacks=[SparsityCallback()]).train()
    """

    def __init__(self) -> None:
        self.held: list[tuple[PrunableWeight, Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        found = [(weight, weight.matrix == 0) for weight in prunable_weights(model, TARGETS)]
        self.held = [(weight, zeros) for weight, zeros in found if zeros.any()]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for weight, zeros in self.held:
            weight.matrix.masked_fill_(zeros, 0)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for weight, zeros in self.held:
            if weight.matrix[zeros].any():
                raise PruningError(f"layer {weight.name}: zeros came alive in training")
