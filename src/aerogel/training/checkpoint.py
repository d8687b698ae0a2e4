"""The file of a `SparsityCallback` in the checkpoints of transformers' Trainer, and the run that it belongs to.

The Trainer does not tell its callbacks where it writes a checkpoint or reads one: `run-3/checkpoint-20` in a search of
hyperparameters, any folder at all for `train(resume_from_checkpoint=...)`. So each run has an identity, in the state
that the Trainer writes into every checkpoint and in our file beside it, by which the folder is found.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from aerogel.errors import PruningError, first_line, writing

STATE = "sparsity.safetensors"  # written last, so that a checkpoint that has it is whole
KEY = "aerogel.SparsityCallback"  # of the identity among `TrainerState.stateful_callbacks`


def begin_run(args: TrainingArguments, state: TrainerState) -> None:
    """Gives the training an identity, which from now on is in all of its checkpoints."""
    origin = {"run": uuid.uuid4().hex, "output_dir": str(Path(args.output_dir).resolve())}
    state.stateful_callbacks[KEY] = {"args": {}, "attributes": origin}


def save_state(tensors: Mapping[str, Tensor], settings: str, args: TrainingArguments, state: TrainerState) -> None:
    """Writes our file into the checkpoint that the Trainer has just written, aside and renamed.

    `settings` are those of the callback, with which alone the training can be resumed.
    """
    run = _origin(state.stateful_callbacks)["run"]
    folders = list(_folders(args.output_dir, state))
    folder = next((folder for folder in folders if _run_of_trainer(folder / TRAINER_STATE_NAME) == run), None)
    if folder is None:
        raise PruningError(
            f"{folders[0]}: the Trainer wrote its checkpoint elsewhere, and the zeros can't go beside it"
        )
    file = folder / STATE
    with writing(file):
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, file.with_suffix(".part"), {"run": run, "settings": settings})
        file.with_suffix(".part").replace(file)


def load_state(settings: str, args: TrainingArguments, state: TrainerState) -> tuple[Path, dict[str, Tensor]]:
    """Our file of the checkpoint from which the Trainer resumes, and its tensors.

    It is looked for in `args.resume_from_checkpoint`, and in the output folders of this training and of the one that
    wrote the checkpoint. Raises `PruningError` where none of them has the file of that run, and where the callback had
    other `settings`.
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
        f"{folders[0] / STATE} is missing or belongs to another training than the one that is resumed: if its "
        "checkpoint was moved, also name it by TrainingArguments(resume_from_checkpoint=...)"
    )


def _check_settings(file: Path, written: str, settings: str) -> None:
    if written != settings:
        raise PruningError(f"{file}: the training had SparsityCallback({written}), and is resumed with ({settings})")


def check_zeros(name: str, held: Tensor, zeros: Tensor, file: Path) -> None:
    """Raises `PruningError` where weights that the file holds at zero are not zero in the model."""
    if alive := int((held & ~zeros).sum()):
        raise PruningError(
            f"{file}: layer {name} has {alive} weights that are not zero among the {int(held.sum())} that the "
            "checkpoint holds at zero: the file belongs to another model"
        )


def _folders(output_dir: str, state: TrainerState) -> Iterator[Path]:
    """The folders that may hold the checkpoint of this step: the Trainer's own, and those of a search."""
    output, checkpoint = Path(output_dir), f"checkpoint-{state.global_step}"
    yield output / checkpoint
    if state.trial_name:
        yield output / state.trial_name / checkpoint
    yield from sorted(output.glob(f"*/{checkpoint}"))


def _origin(callbacks: Any) -> dict[str, str]:
    """The identity and the output folder that the state of a Trainer has, empty in one without them."""
    stored = (callbacks or {}).get(KEY, {}).get("attributes", {})
    return {name: str(stored.get(name, "")) for name in ("run", "output_dir")}


def _run_of_trainer(file: Path) -> str:
    """The identity in the state that the Trainer wrote, empty where there is none."""
    try:
        return _origin(json.loads(file.read_text(encoding="utf-8")).get("stateful_callbacks"))["run"]
    except (OSError, ValueError, AttributeError, RecursionError):  # of any content
        return ""
