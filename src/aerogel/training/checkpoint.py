"""The file of a `SparsityCallback` in the checkpoints of transformers' Trainer, and the checkpoint to resume from.

The Trainer does not pass the path of a checkpoint to its callbacks: it may be `run-3/checkpoint-20` in a search of
hyperparameters, or any folder with `train(resume_from_checkpoint=...)`. So each run has an identifier, which is in the
state that the Trainer writes into every checkpoint and in this file beside it, to find the folder.
"""

import json
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from aerogel import files
from aerogel.errors import DataError, PruningError, first_line, writing
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.pruning import RoundedValues
from aerogel.tasks import TaskData
from aerogel.training.config import TrainingConfig
from aerogel.training.distillation import Distillation
from aerogel.training.gradual import GradualPruning

STATE = "sparsity.safetensors"  # written last, so that a checkpoint that has it is complete
SETTINGS = "settings.json"  # in the folder of checkpoints of `finetune`: the training that they belong to
KEY = "aerogel.SparsityCallback"  # of the identifier in `TrainerState.stateful_callbacks`


def begin_run(args: TrainingArguments, state: TrainerState) -> None:
    """Gives the run an identifier, which all of its checkpoints will have."""
    origin = {"run": uuid.uuid4().hex, "output_dir": str(Path(args.output_dir).resolve())}
    state.stateful_callbacks[KEY] = {"args": {}, "attributes": origin}


def save_state(tensors: Mapping[str, Tensor], settings: str, args: TrainingArguments, state: TrainerState) -> None:
    """Writes the file into the checkpoint that the Trainer has just written.

    Training can only be resumed with the same `settings` of the callback.
    """
    run = _origin(state.stateful_callbacks)["run"]
    folders = list(_folders(args.output_dir, state))
    folder = next((folder for folder in folders if _run_of_trainer(folder / TRAINER_STATE_NAME) == run), None)
    if folder is None:
        raise PruningError(
            f"{folders[0]}: expected the checkpoint that the Trainer has just written, to save the zeros beside it"
        )
    file = folder / STATE
    with writing(file):
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, file.with_suffix(".part"), {"run": run, "settings": settings})
        file.with_suffix(".part").replace(file)


def load_state(settings: str, args: TrainingArguments, state: TrainerState) -> tuple[Path, dict[str, Tensor]]:
    """The file in the checkpoint from which the Trainer resumes, and its tensors.

    It is searched for in `args.resume_from_checkpoint`, and in the output folders of this run and of the one that wrote
    the checkpoint. Raises `PruningError` where none of them has the file of that run, and where the callback had other
    `settings`.
    """
    origin = _origin(state.stateful_callbacks)
    folders = [*_folders(args.output_dir, state), *_folders(origin["output_dir"], state)]
    if args.resume_from_checkpoint:
        folders.insert(0, Path(args.resume_from_checkpoint))
    for folder in folders:
        path = folder / STATE
        if path.is_file():
            try:
                with safe_open(path, framework="pt") as file:
                    written = file.metadata() or {}
                    if written.get("run", "") == origin["run"]:
                        _check_settings(path, written.get("settings", ""), settings)
                        return path, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise PruningError(f"{path}: the file is damaged or cut off ({first_line(error)})") from error
    raise PruningError(
        f"{folders[0] / STATE} is missing or belongs to another training: if the checkpoint was moved, also pass "
        "TrainingArguments(resume_from_checkpoint=...)"
    )


def _check_settings(file: Path, written: str, settings: str) -> None:
    if written != settings:
        raise PruningError(
            f"{file}: the training was started with SparsityCallback({written}) and can't be resumed with ({settings})"
        )


def _folders(output_dir: str, state: TrainerState) -> Iterator[Path]:
    """The folders that may be the checkpoint of this step: the Trainer's own, and those of a search."""
    output, checkpoint = Path(output_dir), f"checkpoint-{state.global_step}"
    yield output / checkpoint
    if state.trial_name:
        yield output / state.trial_name / checkpoint
    yield from sorted(output.glob(f"*/{checkpoint}"))


def _origin(callbacks: Any) -> dict[str, str]:
    """The identifier and the output folder in the state of a Trainer, empty where it has none."""
    stored = (callbacks or {}).get(KEY, {}).get("attributes", {})
    return {name: str(stored.get(name, "")) for name in ("run", "output_dir")}


def _run_of_trainer(file: Path) -> str:
    """The identifier in the state that the Trainer wrote, empty where there is none."""
    try:
        return _origin(json.loads(file.read_text(encoding="utf-8")).get("stateful_callbacks"))["run"]
    except (OSError, ValueError, AttributeError, RecursionError):  # the file may have any content
        return ""


def run_settings(
    model: PreTrainedModel,
    data: TaskData,
    config: TrainingConfig,
    pruning: GradualPruning | None,
    distillation: Distillation | None,
    values: RoundedValues | None,
) -> str:
    """Settings that identify a training run, as JSON."""
    teacher = distillation.teacher if distillation else None
    settings = {
        "model": [model.name_or_path, _digest(prunable_weights(model))],
        "data": data.digest,
        "training": asdict(config),
        "pruning": asdict(pruning) if pruning else None,
        "teacher": [teacher.name_or_path, _digest(prunable_weights(teacher, to_read=True))] if teacher else None,
        "distillation": asdict(distillation.config) if distillation else None,
        "values": values,
    }
    return json.dumps(settings, indent=2)


def last_checkpoint(folder: Path, settings: str) -> str | None:
    """The last complete checkpoint in `folder`; incomplete ones are removed.

    Raises `DataError` where it has checkpoints of a training with other `settings`.
    """
    file = folder / SETTINGS
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in checkpoints if (path / STATE).is_file()]
    incomplete = set(checkpoints) - set(complete)
    is_used = bool(set(folder.glob("*")) - incomplete - {file})
    if is_used and file.is_file() and file.read_text(encoding="utf-8") != settings:
        raise DataError(
            f"{folder} has checkpoints of another training (model, data or settings): remove it, or name another output"
        )
    files.write_text(file, settings)
    for path in incomplete:
        shutil.rmtree(path)
    return str(complete[-1]) if complete else None


def _digest(weights: Sequence[PrunableWeight]) -> int:
    """Of the weights of the blocks only: a new head may be initialised again before a training resumes."""
    digest = 0
    for weight in weights:
        digest = zlib.crc32(weight.matrix.detach().float().cpu().numpy().tobytes(), digest)
    return digest
