"""Fine-tuning on a task with transformers' Trainer, the zeros of a pruned model held."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from aerogel import progress
from aerogel.data import TaskData, encode_examples, language_windows
from aerogel.training.masks import SparsityCallback


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training split, or over its first `limit` examples or windows.
        batch_size: sentences of up to `max_length` tokens a step; for language modelling as many tokens in windows.
        learning_rate: the peak; it rises over the first 6% of the steps and falls linearly to zero.
    """

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    max_length: int = 128
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What training took: `seconds` in the loop, `steps`, and the `losses` logged along the way."""

    seconds: float
    steps: int
    losses: tuple[float, ...]


def finetune(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TaskData, config: TrainingConfig | None = None
) -> TrainingResult:
    """Trains a model in place on a task's training split; zeros among its weights stay zeros.

    Batches gather examples of like length. The same seed gives the same weights on the same machine and
    number of threads. Raises `DataError` where the split is too small, and `ModelError` where the model has
    another head than the task's.
    """
    data.task.check_head(model, "load the model with it, aerogel.load(name, data.task.head)")
    config = config or TrainingConfig()
    dataset: list[dict[str, Any]]
    if data.task.is_language_modelling:
        dataset = language_windows(data.text("train"), tokenizer, model.config, config.seed, limit=config.limit)
        window = len(dataset[0]["labels"])
        batch_size = max(1, config.batch_size * config.max_length // window)
        collate = default_data_collator
    else:
        dataset = encode_examples(
            data.examples("train").first(config.limit), tokenizer, model.config, config.max_length
        )
        batch_size = config.batch_size
        collate = DataCollatorWithPadding(tokenizer)
    with tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        steps = max(1, round(config.epochs * -(-len(dataset) // batch_size)))
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=round(0.06 * steps),
            train_sampling_strategy="random" if data.task.is_language_modelling else "group_by_length",
            logging_steps=max(1, steps // 50),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=collate,
            train_dataset=dataset,
            callbacks=[SparsityCallback(), _Telling(data.task.name)],
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    model.eval()
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return TrainingResult(seconds, trainer.state.global_step, losses)


class _Telling(TrainerCallback):
    def __init__(self, task: str) -> None:
        self.doing = f"fine-tuning on {task}"

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        progress.tell(self.doing, state.global_step, state.max_steps)
