"""The dense model fine-tuned on a task, which pruned models start from and learn from: trained once, and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import files, models
from aerogel.files import cache_home
from aerogel.models import ZOO, Head
from aerogel.tasks import TaskData
from aerogel.training.finetuning import TrainingConfig, finetune
from aerogel.training.trainer import Validate

Load = Callable[[str, Head], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class Tuned:
    """A dense model fine-tuned on a task: its `folder`, and the `seconds` that its training took."""

    folder: Path
    seconds: float


def cached_finetune(
    name: str, data: TaskData, config: TrainingConfig, validate: Validate | None = None, load: Load = models.load
) -> Tuned:
    """The model `name`, as `load` gives it, fine-tuned on the task: out of the cache, or trained and put there.

    The cache is `tuned` in `AEROGEL_HOME`. Its entries go by the model, the data's content and the configuration.
    Processes that want the same one wait for the first of them. Raises as `aerogel.load` and `finetune` do.
    """
    data, files_of = data.divided(), folder_files(name)
    asked = [
        [str(Path(name).resolve()), *files_of] if files_of else [name],
        data.task.name,
        data.digest,
        asdict(config),
    ]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    folder = cache_home() / "tuned" / f"{Path(name).name}-{data.task.name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    cost, lock, checkpoints = (
        folder.with_name(f"{folder.name}.{suffix}") for suffix in ("json", "lock", "checkpoints")
    )
    with FileLock(lock):
        if not folder.is_dir():
            torch.manual_seed(config.seed)  # a new head starts from it
            model, tokenizer = load(name, data.task.head)
            result = finetune(model, tokenizer, data, config, validate=validate, checkpoints=checkpoints)
            files.write_text(cost, json.dumps({"seconds": result.seconds}))
            models.save(model, tokenizer, folder)
            shutil.rmtree(checkpoints)
    return Tuned(folder, json.loads(cost.read_text(encoding="utf-8"))["seconds"])


def folder_files(name: str) -> tuple[tuple[str, int, int], ...]:
    """The files of a model's folder by name, size and time, to tell it from another model that has taken its place.

    There are none for a name that is no folder's.
    """
    if (name in ZOO and ZOO[name].offline) or not os.path.isdir(name):  # pathlib raises for some names
        return ()
    found = sorted(path for path in Path(name).iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)
