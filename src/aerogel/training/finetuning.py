"""Fine-tuning on a task with transformers' Trainer, with zeros kept or added."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import TRANSFORMERS_MODEL, DataError, ModelError, expect
from aerogel.models.tokenizer import check_tokenizer, padding_right
from aerogel.pruning import Calibration, RoundedValues
from aerogel.pruning.blocks import check_blocks
from aerogel.tasks import InputSettings, Task, TaskData, TaskSource, load_for
from aerogel.tasks.predictions import Inputs
from aerogel.training.checkpoint import last_checkpoint, run_settings
from aerogel.training.config import TrainingConfig
from aerogel.training.distillation import Distillation, DistillationConfig
from aerogel.training.gradual import GradualPruning
from aerogel.training.masks import SparsityCallback
from aerogel.training.schedule import WARM_UP
from aerogel.training.trainer import SELECTION_METRIC, OneDeviceArguments, RecoveryTrainer, Validate

CALIBRATION_TOKENS = 16_384  # of the training split, for methods that look at text


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training.

    Attributes:
        seconds: in the training loop.
        steps: of the optimizer.
        losses: as logged during training.
        validation: the metrics of each epoch.
        kept: the metrics of the epoch whose weights the model has: the last, or the best with patience.
        source: where the data came from, and which part of a lone file was held out of the training.
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
    data: TaskSource,
    config: TrainingConfig | None = None,
    *,
    sparsity: GradualPruning | None = None,
    teacher: PreTrainedModel | None = None,
    distillation: DistillationConfig | None = None,
    values: RoundedValues | None = None,
    validate: Validate | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
) -> TrainingResult:
    """Trains a model in place on a task's training split. Zeros of pruned weights stay zeros.

    `data` is from `aerogel.load_task`, or anything that it takes, which is then read for the model's head: texts with
    labels are plain text to a language model, and there is an `AerogelWarning`.
    If the data has one split, a fifth of it is held out for validation, see `aerogel.tasks.TaskData.divided`. With
    `sparsity` the model is pruned while it trains; with a `teacher` it learns the teacher's logits and hidden states
    as `distillation` says; with `values` it trains for int8, see `SparsityCallback`. `validate` scores the model, and a
    checkpoint is written to `checkpoints`, after each epoch. Training resumes from the last one; remove the folder once
    the model is saved. The same seed, machine and number of threads give the same weights, interrupted or not.

    The training runs on the model's device: `model.to("cuda")` for the first GPU, whose sums may differ in the last
    bits from run to run, and which draws dropout by itself. In a script that `accelerate launch` runs, each process has
    a part of every batch, and a GPU of its own; save the model in one of them.

    Raises `DataError` for a split that is too small, `ModelError` for a head or a teacher that does not fit, and
    `PruningError` if `sparsity` does not fit the model or the number of steps.

    >>> from aerogel import load, load_task
    >>> finetune(*load("tiny-gpt2"), load_task("python-reference"), TrainingConfig(epochs=1, limit=2)).steps
    1
    """
    optional = (config, TrainingConfig), (sparsity, GradualPruning), (distillation, DistillationConfig)
    _check_types(model, tokenizer, *optional, (teacher, PreTrainedModel))
    _check_device(model)
    tokenizer = padding_right(tokenizer)
    data = load_for(model, data).divided()
    data.task.check_head(model, "load the model with it, aerogel.load(name, data.task.head)")
    config = config or TrainingConfig()
    if config.patience is not None and validate is None:
        raise DataError("patience needs validate, a function that scores the model after each epoch")
    if teacher is None and not data.task.kind.has_labels(data.split("train")):
        raise DataError(
            f"{data.source} has no labels to learn: give a teacher (--teacher self or MODEL), or data with labels"
        )
    distilled = _distillation(model, data.task, teacher, distillation) if teacher else None
    inputs = data.task.kind.inputs(data.split("train"), tokenizer, model.config, _input_settings(config, distilled))
    steps = max(1, round(config.epochs * len(inputs.batches())))
    text = None
    if sparsity:
        weights, _ = sparsity.weights(model), sparsity.schedule_for(steps)  # raise before the first step
        if sparsity.pruning.needs_calibration:
            text = _calibration(data, tokenizer, config, inputs.rows)
            check_blocks(model, weights, text.batches(model))
    with tempfile.TemporaryDirectory(prefix="aerogel-") if checkpoints is None else nullcontext(checkpoints) as folder:
        trainer = RecoveryTrainer(
            model,
            _arguments(model, str(folder), config, inputs, steps, validates=bool(validate), saves=bool(checkpoints)),
            data_collator=inputs.collate,
            train_dataset=inputs.rows if inputs.augmented is None else inputs.augmented,
            eval_dataset=[],  # the Trainer requires one; `validate` has its own
            task=data.task,
            patience=config.patience,
            sparsity=SparsityCallback(sparsity, text, values=values),
            distillation=distilled,
            validate=validate,
        )
        settings = run_settings(model, data, config, sparsity, distilled, values) if checkpoints else ""
        trainer.train_from(last_checkpoint(Path(checkpoints), settings) if checkpoints else None)
    return _result(trainer, data.source)


def _distillation(
    model: PreTrainedModel, task: Task, teacher: PreTrainedModel, config: DistillationConfig | None
) -> Distillation:
    task.check_head(teacher, "use a teacher that was fine-tuned on the task")
    distillation = Distillation(teacher, config or DistillationConfig(), task.kind)
    distillation.check(model)
    return distillation


def _input_settings(config: TrainingConfig, distilled: Distillation | None) -> InputSettings:
    augmentation = distilled.config.augmentation if distilled and distilled.config.hardness == 1 else 0.0
    size, length = config.batch_size, config.max_length
    return InputSettings(config.limit, length, size, size * length, config.seed, augmentation)


def _result(trainer: RecoveryTrainer, source: str) -> TrainingResult:
    state, selection = trainer.state, f"eval_{SELECTION_METRIC}"
    losses = tuple(entry["loss"] for entry in state.log_history if "loss" in entry)
    validation = {
        entry["step"]: {
            name.removeprefix("eval_"): value for name, value in entry.items() if name not in ("step", selection)
        }
        for entry in state.log_history
        if selection in entry
    }
    kept = validation.get(state.best_global_step or state.global_step, {})
    seconds = trainer.reporter.seconds
    return TrainingResult(seconds, state.global_step, losses, tuple(validation.values()), kept, source)


def _arguments(
    model: PreTrainedModel,
    folder: str,
    config: TrainingConfig,
    inputs: Inputs,
    steps: int,
    *,
    validates: bool,
    saves: bool,
) -> OneDeviceArguments:
    on_cpu = model.device.type == "cpu"
    has_bfloat16 = model.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return OneDeviceArguments(
        output_dir=folder,
        per_device_train_batch_size=-(-inputs.batch_size // process_count()),
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(WARM_UP * steps),
        train_sampling_strategy="group_by_length" if inputs.by_length else "random",
        logging_steps=max(1, steps // 50),
        eval_strategy="epoch" if validates else "no",
        save_strategy="epoch" if saves or config.patience else "no",
        save_total_limit=2,  # a complete one stays while the next is written
        load_best_model_at_end=config.patience is not None,
        metric_for_best_model=SELECTION_METRIC if config.patience else None,
        restore_callback_states_from_checkpoint=True,
        bf16=config.precision == "bfloat16" or (config.precision is None and has_bfloat16),
        use_cpu=on_cpu,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=False,
        remove_unused_columns=False,  # a row has the inputs that its kind of task uses
    )


def process_count() -> int:
    """Of the processes that `accelerate launch` or `torchrun` have started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_device(model: PreTrainedModel) -> None:
    """Raises `ModelError` for a GPU that the Trainer would not use: it takes the first, or that of the process."""
    if model.device.index and process_count() == 1:
        raise ModelError(
            f"the model is on {model.device}, and training runs on {model.device.type}:0, the first that torch sees: "
            f"move the model there, and select the GPU by the environment, CUDA_VISIBLE_DEVICES={model.device.index}"
        )


def _check_types(model: Any, tokenizer: object, *optional: tuple[object, type]) -> None:
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    check_tokenizer(tokenizer, model)
    for value, kind in optional:
        expect(value, kind | None, DataError, f"{kind.__name__} or None")


def _calibration(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig, rows: Sequence[dict[str, Any]]
) -> Calibration:
    """Up to 16,384 tokens of the training split, or as many images as windows of these."""
    tokens = CALIBRATION_TOKENS
    if "input_ids" in rows[0]:
        tokens = min(tokens, sum(_count(row["input_ids"]) for row in rows))
    samples, length = max(1, tokens // config.max_length), config.max_length
    return Calibration(data, tokenizer, samples, length, config.seed, at_most=True)


def _count(ids: Any) -> int:
    """Tokens of an example, or of all its choices."""
    return sum(map(len, ids)) if isinstance(ids[0], list) else len(ids)
