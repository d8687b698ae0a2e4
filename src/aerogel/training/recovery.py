"""The way from a model to a recovered one: fine-tune it on the task, prune it, and train it further."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import files, models
from aerogel.files import cache_home
from aerogel.models import Head
from aerogel.models.location import folder_files
from aerogel.pruning import Calibration, PruneConfig, RoundedValues, prune
from aerogel.structure import Structure, StructureConfig
from aerogel.structure.latency import Measure
from aerogel.tasks import TaskData, TaskSource, load_task
from aerogel.training.config import RECOVERY_EPOCHS, TrainingConfig
from aerogel.training.finetuning import TrainingResult, finetune
from aerogel.training.gradual import GradualPruning
from aerogel.training.structured import remove_in_steps, steps
from aerogel.training.trainer import Validate

SELF = "self"  # as a teacher: the model itself, fine-tuned on the task if its data has labels
WINDOWS = 64  # of the training split, to calibrate a method that prunes before training
STRUCTURE_WINDOWS = 256  # likewise, to remove structures

Load = Callable[[str, Head], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class Recovery:
    """How a model is pruned and recovered.

    Attributes:
        pruning: `PruneConfig` prunes before training, `GradualPruning` during it; `None` keeps the zeros of the model.
        teacher: a model to learn from, by name; "self" is the model itself, fine-tuned on the task if its data has
            labels (`TaskKind.has_labels`).
        finetune_first: start from the dense model fine-tuned on the task. Teacher "self" implies it.
        epochs: of training, 0 for none. `None` is 10 with `GradualPruning`, else those of the `TrainingConfig`.
        patience: of that training, see `TrainingConfig`.
        structure: removes heads and neurons first, see `aerogel.structure`: for a speed-up above 2 in steps, with a
            part of the training after each. The teacher stays whole.
        measure: how the time is measured for a speed-up, see `prune_structure`.
        values: "int8" makes the last quarter of that training quantization-aware, see `SparsityCallback`. Without
            training, the weights are rounded on the training split's text, see `aerogel.pruning.rounding`.
    """

    pruning: PruneConfig | GradualPruning | None = None
    teacher: str | None = None
    finetune_first: bool = False
    epochs: float | None = None
    patience: int | None = None
    values: RoundedValues | None = None
    structure: StructureConfig | None = None
    measure: Measure | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Recovered:
    """A recovered model.

    Attributes:
        training: the result of its last training.
        dense_seconds: of the dense fine-tuning that it started from.
        structure: what was removed last.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    training: TrainingResult
    dense_seconds: float | None = None
    checkpoints: Path | None = None
    structure: Structure | None = None

    def remove_checkpoints(self) -> None:
        """To call once the model is saved: until then an interrupted command resumes from them."""
        if self.checkpoints:
            shutil.rmtree(self.checkpoints)


def recover(
    name: str,
    data: TaskSource,
    training: TrainingConfig,
    recovery: Recovery,
    *,
    validate: Validate | None = None,
    checkpoints: Path | None = None,
    load: Load = models.load,
) -> Recovered:
    """Prunes and trains the model `name` on a task, which `load_task` takes, as `recovery` says.

    The dense fine-tuning and the training after it share the settings of `training`; the first of them is cached, see
    `cached_finetune`. `validate` scores the model after each epoch. `checkpoints` is a folder to write them to and
    resume from, as in `finetune`. Raises as `aerogel.load`, `prune` and `finetune` do.
    """
    data, pruning, teacher = load_task(data).divided(), recovery.pruning, recovery.teacher
    dense_seconds, start = None, name
    if starts_tuned(recovery, data):
        folder, dense_seconds = cached_finetune(name, data, training, validate, load)
        start = str(folder)
    torch.manual_seed(training.seed)  # for the initial weights of a new head
    model, tokenizer = load(start, data.task.head)
    gradual = pruning if isinstance(pruning, GradualPruning) else None
    one_shot = pruning if isinstance(pruning, PruneConfig) else None
    epochs = recovery.epochs
    if epochs is None:
        epochs = RECOVERY_EPOCHS if gradual else training.epochs
    teaching = _load_teacher(teacher, start, data.task.head) if epochs else None

    def train(model: PreTrainedModel, epochs: float, checkpoints: Path | None, **pruning: Any) -> TrainingResult:
        settings = replace(training, epochs=epochs, patience=recovery.patience)
        return finetune(
            model,
            tokenizer,
            data,
            settings,
            teacher=teaching,
            validate=validate,
            checkpoints=checkpoints,
            **pruning,
        )

    structure = None
    if recovery.structure:
        stages = steps(recovery.structure, epochs)
        model, structure = remove_in_steps(
            model,
            stages,
            Calibration(data, tokenizer, STRUCTURE_WINDOWS, training.max_length, recovery.structure.seed, at_most=True),
            recovery.measure,
            train,
            checkpoints,
            load=lambda folder: load(str(folder), data.task.head)[0],
            save=lambda model, folder: models.save(model, tokenizer, folder),
        )
        epochs = stages[-1].epochs
    if recovery.values and not epochs:
        one_shot = replace(one_shot or PruneConfig(sparsity=0.0), values=recovery.values)
    if one_shot:
        text = None
        if one_shot.needs_calibration or one_shot.values:
            text = Calibration(data, tokenizer, WINDOWS, training.max_length, one_shot.seed, at_most=True)
        prune(model, one_shot, text)
    result = TrainingResult(0.0, 0, ())
    if epochs:
        result = train(model, epochs, checkpoints, sparsity=gradual, values=recovery.values)
    return Recovered(
        model, tokenizer, result, dense_seconds, checkpoints if checkpoints and epochs else None, structure
    )


def starts_tuned(recovery: Recovery, data: TaskData) -> bool:
    """Whether the recovery starts from the dense model fine-tuned on the task, see `cached_finetune`."""
    return recovery.finetune_first or (recovery.teacher == SELF and data.task.kind.has_labels(data.split("train")))


def _load_teacher(teacher: str | None, start: str, head: Head) -> PreTrainedModel | None:
    if teacher is None:
        return None
    if teacher == SELF:
        return models.load_model(start, head)
    if head.kind == "embedding":  # taken from the model in a checkpoint, whatever head that has
        return models.load_model(teacher, head)
    return models.load(teacher)[0]


def cached_finetune(
    name: str, data: TaskData, config: TrainingConfig, validate: Validate | None = None, load: Load = models.load
) -> tuple[Path, float]:
    """Fine-tunes the model `name`, as `load` gives it, unless the cache has it.

    Returns its folder in the cache, see `tuned_folder`, and the seconds that its training took. Processes that need the
    same entry wait for the first of them. Raises as `aerogel.load` and `finetune` do.
    """
    data = data.divided()
    folder = tuned_folder(name, data, config)
    cost, checkpoints = cost_file(folder), Path(f"{folder}.checkpoints")
    with locked(folder):
        if not folder.is_dir():
            torch.manual_seed(config.seed)  # for the initial weights of a new head
            model, tokenizer = load(name, data.task.head)
            result = finetune(model, tokenizer, data, config, validate=validate, checkpoints=checkpoints)
            files.write_text(cost, json.dumps({"seconds": result.seconds}))
            models.save(model, tokenizer, folder)
            shutil.rmtree(checkpoints)
    return folder, json.loads(cost.read_text(encoding="utf-8"))["seconds"]


def tuned_folder(name: str, data: TaskData, config: TrainingConfig) -> Path:
    """The folder, in `tuned` of `AEROGEL_HOME`, of the model `name` fine-tuned on divided data.

    Its key is the model, the content of the data and the configuration.
    """
    model_files = folder_files(name)
    model_key = [str(Path(name).resolve()), *model_files] if model_files else [name]
    settings = [model_key, data.task.name, data.digest, asdict(config)]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return cache_home() / "tuned" / f"{Path(name).name}-{data.task.name}-{key}"


def cost_file(folder: Path) -> Path:
    """The file with the seconds that the training of a model in the cache took."""
    return Path(f"{folder}.json")


def locked(folder: Path) -> FileLock:
    """A lock of an entry of the cache, whether it is there or not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")
