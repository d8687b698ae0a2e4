"""Fine-tuning on a task with transformers' Trainer, the zeros of a pruned model held or made on the way."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from aerogel import files, progress
from aerogel.bounds import check_seed
from aerogel.errors import TRANSFORMERS_MODEL, DataError, ModelError, expect, unknown_name
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.models.quiet import quiet_transformers
from aerogel.pruning import Calibration
from aerogel.pruning.blocks import check_blocks
from aerogel.tasks import InputSettings, TaskData
from aerogel.training.checkpoint import STATE
from aerogel.training.distillation import Distillation, DistillationConfig
from aerogel.training.masks import SparsityCallback
from aerogel.training.schedule import WARM_UP
from aerogel.training.sparsity import SparsityConfig
from aerogel.training.trainer import KEPT, RecoveryTrainer, Validate

SETTINGS = "settings.json"  # in a folder of checkpoints: what they are of
Precision = Literal["float32", "bfloat16"]
CALIBRATION_TOKENS = 16_384  # of the training text, for scores that look at text


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training split, or over its first `limit` examples or windows.
        batch_size: sentences of up to `max_length` tokens a step; for language modelling as many tokens in windows.
        learning_rate: the peak; it rises over the first 6% of the steps and falls linearly to zero, or as the
            schedule of a sparsity has it.
        patience: epochs without a better validation metric after which training stops and the best epoch is kept.
        precision: of the products; "bfloat16" keeps the weights in float32. `None` is "bfloat16" on a GPU that has it.

    Raises `DataError` for epochs, rates and counts that are not above 0, another precision, and a seed outside 0 to
    2³² − 1.
    """

    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    max_length: int = 128
    limit: int | None = None
    seed: int = 0
    patience: int | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for what, found in (
            ("epochs", self.epochs),
            ("learning rate", self.learning_rate),
            ("batch size", self.batch_size),
            ("length", self.max_length),
            ("patience", self.patience),
        ):
            if found is not None:
                expect(found, Real, DataError, f"a number for the {what}")
            if found is not None and not 0 < found < math.inf:
                raise DataError(f"{what} {found}: expected a number above 0")
        if self.precision is not None and self.precision not in get_args(Precision):
            raise DataError(unknown_name("precision", self.precision, get_args(Precision)))
        check_seed(self.seed, DataError)


@dataclass(frozen=True)
class TrainingResult:
    """What training took: `seconds` in the loop, `steps`, the `losses` logged along the way, and the `validation`
    metrics of each epoch, among them those `kept`: of the last, or with patience the best, whose weights the model has.
    `source` says where the data came from, and which part of a lone file was held out of the training.
    """

    seconds: float
    steps: int
    losses: tuple[float, ...]
    validation: tuple[dict[str, float], ...] = ()
    kept: dict[str, float] = field(default_factory=dict)
    source: str = ""


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    config: TrainingConfig | None = None,
    *,
    sparsity: SparsityConfig | None = None,
    teacher: PreTrainedModel | None = None,
    distillation: DistillationConfig | None = None,
    validate: Validate | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
) -> TrainingResult:
    """Trains a model in place on a task's training split; zeros of pruned weights stay zeros.

    Of data with one split a fifth is held out for validation, see `aerogel.tasks.TaskData.divided`. With `sparsity`
    more weights become zeros on the way; with a `teacher` the model learns its answers and hidden states as
    `distillation` says. `validate` scores the model after each epoch. A folder of `checkpoints` gets one each
    epoch, and training goes on from the last whole one that it finds there. Remove it when the model is safe.
    Batches gather examples of like length. The same seed gives the same weights on the same machine and number of
    threads, interrupted or not. Raises `DataError` where the split is too small, `ModelError` where the model has
    another head than the task's, or the teacher another than the model, and `PruningError` where `sparsity` can't
    be had.
    """
    _check_types(model, tokenizer, data, config, sparsity, teacher, distillation)
    data = data.divided()
    data.task.check_head(model, "load the model with it, aerogel.load(name, data.task.head)")
    config = config or TrainingConfig()
    if config.patience is not None and validate is None:
        raise DataError("patience needs validate, a function that scores the model after each epoch")
    lesson = Distillation(teacher, distillation or DistillationConfig(), data.task.kind) if teacher else None
    if lesson:
        data.task.check_head(lesson.teacher, "take a teacher that was fine-tuned on the task")
        lesson.check(model)
    augmentation = lesson.config.augmentation if lesson and lesson.config.hardness == 1 else 0.0
    settings = InputSettings(
        config.limit,
        config.max_length,
        config.batch_size,
        config.batch_size * config.max_length,
        config.seed,
        augmentation,
    )
    inputs = data.task.kind.inputs(data.split("train"), tokenizer, model.config, settings)
    steps = max(1, round(config.epochs * len(inputs.batches())))
    if sparsity:
        sparsity.weights(model)
        sparsity.course(steps)
    with tempfile.TemporaryDirectory(prefix="aerogel-") if checkpoints is None else nullcontext(checkpoints) as folder:
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=inputs.batch_size,
            max_steps=steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=round(WARM_UP * steps),
            train_sampling_strategy="group_by_length" if inputs.by_length else "random",
            logging_steps=max(1, steps // 50),
            eval_strategy="epoch" if validate else "no",
            save_strategy="epoch" if checkpoints or config.patience else "no",
            save_total_limit=2,  # a whole one stays while the next is being written
            load_best_model_at_end=config.patience is not None,
            metric_for_best_model=KEPT if config.patience else None,
            restore_callback_states_from_checkpoint=True,
            bf16=_in_bfloat16(config),
            use_cpu=not torch.accelerator.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
            dataloader_pin_memory=False,
        )
        text = _calibration(data, tokenizer, config, inputs.rows) if sparsity and sparsity.calibrates else None
        if sparsity and text:
            check_blocks(model, sparsity.weights(model), text.batches(model))
        holding = SparsityCallback(sparsity, text)
        trainer = RecoveryTrainer(
            model,
            arguments,
            data_collator=inputs.collate,
            train_dataset=inputs.rows if inputs.augmented is None else inputs.augmented,
            eval_dataset=[],  # the Trainer wants one, and `validate` has its own
            sparsity=holding,
            distillation=lesson,
            validate=validate,
        )
        telling = _Telling(data.task.name, holding)
        trainer.add_callback(telling)
        if config.patience:
            trainer.add_callback(EarlyStoppingCallback(config.patience))
        trainer.remove_callback(PrinterCallback)
        last = None
        if checkpoints:
            last = _last_whole(Path(checkpoints), _settings(model, data, config, sparsity, lesson))
        try:
            with quiet_transformers():  # it has a bar for each checkpoint that it writes
                trainer.train(resume_from_checkpoint=last)
        finally:  # it would go on in bfloat16 without being asked
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            model.eval()
    history = trainer.state.log_history
    losses = tuple(entry["loss"] for entry in history if "loss" in entry)
    validation = {
        entry["step"]: {
            name.removeprefix("eval_"): value for name, value in entry.items() if name not in ("step", f"eval_{KEPT}")
        }
        for entry in history
        if f"eval_{KEPT}" in entry
    }
    kept = validation.get(trainer.state.best_global_step or trainer.state.global_step, {})
    return TrainingResult(
        telling.seconds, trainer.state.global_step, losses, tuple(validation.values()), kept, data.source
    )


def _check_types(
    model: object,
    tokenizer: object,
    data: object,
    config: object,
    sparsity: object,
    teacher: object,
    distillation: object,
) -> None:
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    expect(tokenizer, PreTrainedTokenizerBase, ModelError, "a tokenizer of transformers (aerogel.load gives one)")
    expect(data, TaskData, DataError, "TaskData (aerogel.load_task gives it)")
    for value, kind in (
        (config, TrainingConfig),
        (sparsity, SparsityConfig),
        (teacher, PreTrainedModel),
        (distillation, DistillationConfig),
    ):
        if value is not None:
            expect(value, kind, DataError, f"{kind.__name__} or None")


def _calibration(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig, rows: Sequence[dict[str, Any]]
) -> Calibration:
    """Up to 16,384 tokens of the training split."""
    tokens = min(CALIBRATION_TOKENS, sum(len(row["input_ids"]) for row in rows))
    samples, length = max(1, tokens // config.max_length), config.max_length
    return Calibration(data, tokenizer, samples, length, config.seed, at_most=True)


def _settings(
    model: PreTrainedModel,
    data: TaskData,
    config: TrainingConfig,
    sparsity: SparsityConfig | None,
    lesson: Distillation | None,
) -> str:
    """All that a training hangs on, to tell its checkpoints from another's."""
    settings = {
        "model": [model.name_or_path, _digest(prunable_weights(model))],
        "data": data.digest,
        "training": asdict(config),
        "sparsity": asdict(sparsity) if sparsity else None,
        "teacher": [lesson.teacher.name_or_path, _digest(prunable_weights(lesson.teacher, to_read=True))]
        if lesson
        else None,
        "distillation": asdict(lesson.config) if lesson else None,
    }
    return json.dumps(settings, indent=2)


def _digest(weights: Sequence[PrunableWeight]) -> int:
    """Of the weights of the blocks: a new head may be drawn anew before a training goes on."""
    digest = 0
    for weight in weights:
        digest = zlib.crc32(weight.matrix.detach().float().cpu().numpy().tobytes(), digest)
    return digest


def _in_bfloat16(config: TrainingConfig) -> bool:
    if config.precision is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def _last_whole(folder: Path, settings: str) -> str | None:
    """The last checkpoint that was written to its end. Raises `DataError` for those of another training."""
    file = folder / SETTINGS
    if file.is_file() and file.read_text(encoding="utf-8") != settings:
        raise DataError(
            f"{folder} has checkpoints of another training, by its model, data or settings: remove it, or name another "
            "output"
        )
    files.write_text(file, settings)
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / STATE).is_file()]
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return str(whole[-1]) if whole else None


class _Telling(TrainerCallback):
    """Tells how far training is, and keeps the time, that of earlier parts of an interrupted one included."""

    def __init__(self, task: str, holding: SparsityCallback) -> None:
        self.doing, self.holding = f"fine-tuning on {task}", holding
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
        if self.holding.pruned:
            details.append(f"{self.holding.sparsity:.0%} zeros")
        progress.update(", ".join([self.doing, *details]), state.global_step, state.max_steps)
