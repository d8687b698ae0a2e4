"""transformers' Trainer with some things changed: the loss, the learning rate, what is validated, how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from aerogel import progress
from aerogel.errors import writing
from aerogel.tasks import METRICS
from aerogel.training.distillation import Distillation
from aerogel.training.masks import SparsityCallback

Validate = Callable[[PreTrainedModel], Mapping[str, float]]
"""Scores a model on held-out data: metrics by name, the main one first."""
KEPT = "kept"  # the metric by which the best epoch is known: higher is better
DENSE = -1e12  # its value before the last pruning, plus the step: lower than any after it, and no trial of patience


class RecoveryTrainer(Trainer):
    """Learns from a teacher where there is one, by the learning rate of a sparsity schedule where there is one."""

    def __init__(
        self,
        *arguments: Any,
        sparsity: SparsityCallback,
        distillation: Distillation | None,
        validate: Validate | None,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, callbacks=[sparsity], **settings)
        self.sparsity, self.distillation, self.validate = sparsity, distillation, validate
        sparsity.best_is_pruned = True  # by the metric that `evaluate` gives
        if distillation:
            distillation.teacher.to(self.args.device).eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        if self.distillation is None:
            return super().compute_loss(model, inputs, return_outputs, **others)
        loss, output = self.distillation.loss(model, inputs)
        return (loss, output) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.sparsity.config is None:
            return super().create_scheduler(num_training_steps, optimizer)
        course = self.sparsity.config.course(num_training_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, course.learning_rate)
        return self.lr_scheduler

    def _run_epoch(self, *arguments: Any, **settings: Any) -> None:
        # transformers forgets, going on from a checkpoint, that training had ended there: by patience or in mid-epoch
        if self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **settings)

    def _save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        with writing(Path(self.args.output_dir)):
            try:
                super()._save_checkpoint(*arguments, **settings)
            except RuntimeError as error:  # torch.save has no better one, and no reason in it
                raise OSError("is the disk full?") from error

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        """The metrics of `validate`, and the one by which the best epoch is known."""
        assert self.validate
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with progress.listening(lambda *news: None):  # the bar is the training's
            metrics = dict(self.validate(model))
        model.train()
        main = next(iter(metrics))
        lower_is_better = main in METRICS and not METRICS[main].higher_is_better
        value = -metrics[main] if lower_is_better else metrics[main]
        named = {f"eval_{name}": value for name, value in metrics.items()}
        named[f"eval_{KEPT}"] = value if self.sparsity.is_final else DENSE + self.state.global_step
        self.log(named)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named
