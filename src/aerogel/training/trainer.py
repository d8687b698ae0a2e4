"""transformers' Trainer with another loss, learning rate, validation and resumption.

The overrides of its private methods, `_run_epoch` and `_save_checkpoint`, stand in this module alone.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from aerogel import progress
from aerogel.errors import writing
from aerogel.models.quiet import quiet_transformers
from aerogel.tasks import Task
from aerogel.training.distillation import Distillation
from aerogel.training.masks import SparsityCallback

Validate = Callable[[PreTrainedModel], Mapping[str, float]]
"""Scores a model on held-out data: metrics by name, the main one first."""
SELECTION_METRIC = "kept"  # selects the best epoch: higher is better


class OneDeviceArguments(TrainingArguments):
    """Arguments of a training on one device a process.

    The Trainer would split each batch over all GPUs that it sees, and so make the batches larger.
    """

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


class RecoveryTrainer(Trainer):
    """Learns from a teacher, if any, with the learning rate of the schedule of gradual pruning, if any."""

    def __init__(
        self,
        *arguments: Any,
        task: Task,
        patience: int | None,
        sparsity: SparsityCallback,
        distillation: Distillation | None,
        validate: Validate | None,
        **settings: Any,
    ) -> None:
        self.task, self.reporter = task, ProgressReporter(sparsity)
        stopping = [EarlyStoppingCallback(patience)] if patience else []
        super().__init__(*arguments, callbacks=[sparsity, self.reporter, *stopping], **settings)
        self.remove_callback(PrinterCallback)
        self.sparsity, self.distillation, self.validate = sparsity, distillation, validate
        if distillation:
            distillation.teacher.to(self.args.device).eval()

    def train_from(self, checkpoint: str | None) -> None:
        """Trains, from a checkpoint where there is one, and leaves the model in evaluation mode."""
        try:
            with quiet_transformers():  # it shows a progress bar for each checkpoint
                self.train(resume_from_checkpoint=checkpoint)
        finally:
            model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # else it stays in bfloat16
            model.eval()
            self.sparsity.quantized.end()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        if self.distillation is None:
            output = self.task.kind.outputs(model, inputs)
            loss = self.task.kind.loss(output, inputs, self.accelerator.unwrap_model(model))
        else:
            loss, output = self.distillation.loss(model, inputs)
        return (loss, output) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.sparsity.config is None:
            return super().create_scheduler(num_training_steps, optimizer)
        schedule = self.sparsity.config.schedule_for(num_training_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, schedule.learning_rate)
        return self.lr_scheduler

    def _run_epoch(self, *arguments: Any, **settings: Any) -> None:
        # transformers trains on from a checkpoint at which training had ended, by patience or within an epoch
        if self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **settings)

    def _save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        with writing(Path(self.args.output_dir)):
            try:
                super()._save_checkpoint(*arguments, **settings)
            except RuntimeError as error:  # what torch.save raises, without the reason
                raise OSError("is the disk full?") from error

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        """The metrics of `validate`, and the one that selects the best epoch."""
        assert self.validate
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with progress.listening(lambda *progress: None):  # show that of the training alone
            metrics = dict(self.validate(model))
        model.train()
        main = next(iter(metrics))
        metric = self.task.metric(main)
        value = metrics[main] if metric is None or metric.higher_is_better else -metrics[main]
        named = {f"eval_{name}": value for name, value in metrics.items()}
        named[f"eval_{SELECTION_METRIC}"] = value
        self.log(named)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named


class ProgressReporter(TrainerCallback):
    """Reports progress, and measures the seconds of training, including those before an interruption."""

    def __init__(self, sparsity: SparsityCallback) -> None:
        self.sparsity = sparsity
        self.details: dict[str, float] = {}
        self.before, self.started = 0.0, 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.before = max((entry["seconds"] for entry in state.log_history if "seconds" in entry), default=0.0)
        self.started = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        state.log_history.append({"seconds": self.seconds})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **others: Any) -> None:
        metrics = [(name.removeprefix("eval_"), value) for name, value in logs.items() if name.startswith("eval_")]
        self.details |= dict(metrics[:1]) | {name: value for name, value in logs.items() if name == "loss"}

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        details = [f"{name} {value:.3f}" for name, value in self.details.items()]
        if self.sparsity.pruned:
            details.insert(1, f"{self.sparsity.sparsity:.0%} zeros")  # after the loss
        progress.update(", ".join(["training", *details]), state.global_step, state.max_steps)
