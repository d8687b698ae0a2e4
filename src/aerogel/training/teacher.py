"""The dense model fine-tuned on a task, which pruned models start from and learn from: trained once, and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock

from aerogel import files, models
from aerogel.data import TaskData
from aerogel.models.wheel import cache_home
from aerogel.training.finetuning import TrainingConfig, finetune
from aerogel.training.trainer import Validate


@dataclass(frozen=True)
class Tuned:
    """A dense model fine-tuned on a task: its `folder`, and the `seconds` that its training took."""

    folder: Path
    seconds: float


def tuned(name: str, data: TaskData, config: TrainingConfig, validate: Validate | None = None) -> Tuned:
    """The model `name` fine-tuned on the task: out of the cache, or trained and put there.

    The cache is `tuned` in `AEROGEL_HOME`. Its entries go by the model, the data's content and the configuration.
    Processes that want the same one wait for the first of them. Raises as `aerogel.load` and `finetune` do.
    """
    asked = [_identity(name), data.task.name, data.digest, asdict(config)]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    folder = cache_home() / "tuned" / f"{Path(name).name}-{data.task.name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    cost, lock, checkpoints = (
        folder.with_name(f"{folder.name}.{suffix}") for suffix in ("json", "lock", "checkpoints")
    )
    with FileLock(lock):
        if not folder.is_dir():
            torch.manual_seed(config.seed)  # a new head starts from it
            model, tokenizer = models.load(name, data.task.head)
            result = finetune(model, tokenizer, data, config, validate=validate, checkpoints=checkpoints)
            files.write_text(cost, json.dumps({"seconds": result.seconds}))
            models.save(model, tokenizer, folder)
            shutil.rmtree(checkpoints)
    return Tuned(folder, json.loads(cost.read_text(encoding="utf-8"))["seconds"])


def _identity(name: str) -> list[object]:
    """A folder is known by its files, so that another model under the same name is another."""
    if not Path(name).is_dir():
        return [name]
    found = sorted(path for path in Path(name).iterdir() if path.is_file())
    return [str(Path(name).resolve()), *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)]
