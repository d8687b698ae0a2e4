"""A training resumes with the zeros of its own run, wherever the Trainer keeps its checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from aerogel.errors import PruningError
from aerogel.models import prunable_weights
from aerogel.pruning import prune
from aerogel.training import SparsityCallback
from builders import ARCHITECTURES, batches, train

FILE = "sparsity.safetensors"
OFTEN: dict[str, Any] = dict(save_strategy="steps", save_steps=2)


def pruned(seed: int) -> PreTrainedModel:
    model = ARCHITECTURES["bert"].build()
    prune(model, method="random", sparsity=0.5, seed=seed)
    return model


def zeros(model: PreTrainedModel) -> dict[str, Tensor]:
    return {weight.name: weight.zeros for weight in prunable_weights(model)}


def assert_alike(one: PreTrainedModel, other: PreTrainedModel) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_checkpoint_of_another_output_folder_restores_its_own_zeros(tmp_path: Path) -> None:
    whole, first, resumed = pruned(0), pruned(0), pruned(0)
    train(whole, tmp_path / "whole", SparsityCallback(), lr_scheduler_type="constant", **OFTEN)
    train(first, tmp_path / "a", SparsityCallback(), lr_scheduler_type="constant", max_steps=2, **OFTEN)
    train(pruned(1), tmp_path / "b", SparsityCallback(), max_steps=2, **OFTEN)  # the same step of another run
    checkpoint = str(tmp_path / "a" / "checkpoint-2")
    train(resumed, tmp_path / "b", SparsityCallback(), resume=checkpoint, lr_scheduler_type="constant", **OFTEN)
    assert all(torch.equal(found, zeros(resumed)[name]) for name, found in zeros(first).items())
    assert_alike(whole, resumed)


def test_a_checkpoint_that_was_moved_is_found_where_the_arguments_say(tmp_path: Path) -> None:
    train(pruned(0), tmp_path / "a", SparsityCallback(), max_steps=2, **OFTEN)
    train(pruned(1), tmp_path / "b", SparsityCallback(), max_steps=2, **OFTEN)
    moved = str(shutil.move(tmp_path / "a", tmp_path / "moved")) + "/checkpoint-2"
    with pytest.raises(PruningError, match=f"checkpoint-2/{FILE}.*resume_from_checkpoint"):
        train(pruned(0), tmp_path / "b", SparsityCallback(), resume=moved, **OFTEN)
    model = pruned(0)
    train(model, tmp_path / "b", SparsityCallback(), resume=moved, resume_from_checkpoint=moved, **OFTEN)
    assert all(torch.equal(found, zeros(model)[name]) for name, found in zeros(pruned(0)).items())


def test_training_resumes_from_an_output_folder_that_was_moved(tmp_path: Path) -> None:
    train(pruned(0), tmp_path / "a", SparsityCallback(), max_steps=2, **OFTEN)
    shutil.move(tmp_path / "a", tmp_path / "moved")
    model = pruned(0)
    train(model, tmp_path / "moved", SparsityCallback(), resume=True, **OFTEN)
    assert all(torch.equal(found, zeros(model)[name]) for name, found in zeros(pruned(0)).items())


def test_training_resumes_more_than_once(tmp_path: Path) -> None:
    for steps in (2, 4, 6):
        model = pruned(0)
        train(model, tmp_path, SparsityCallback(), resume=steps > 2, max_steps=steps, **OFTEN)
    assert all(torch.equal(found, zeros(model)[name]) for name, found in zeros(pruned(0)).items())


def test_training_resumes_with_its_own_configuration_only(tmp_path: Path) -> None:
    def callback(sparsity: float) -> SparsityCallback:
        return SparsityCallback(sparsity=sparsity, score="magnitude", schedule="constant")

    train(pruned(0), tmp_path, callback(0.8), max_steps=2, **OFTEN)
    with pytest.raises(PruningError, match=rf"checkpoint-2/{FILE}.*0\.8.*0\.9"):
        train(pruned(0), tmp_path, callback(0.9), resume=True, **OFTEN)
    with pytest.raises(PruningError, match=FILE):
        train(pruned(0), tmp_path, SparsityCallback(), resume=True, **OFTEN)
    train(pruned(0), tmp_path, callback(0.8), resume=True, **OFTEN)


@pytest.mark.parametrize("damage", ["cut", "missing", "another run", "another model"])
def test_a_file_that_does_not_belong_to_the_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    for place, seed in (("a", 0), ("b", 1)):
        train(pruned(seed), tmp_path / place, SparsityCallback(), max_steps=2, **OFTEN)
    ours, other = (tmp_path / place / "checkpoint-2" for place in ("a", "b"))
    if damage == "cut":
        (ours / FILE).write_bytes((ours / FILE).read_bytes()[:1000])
    elif damage == "missing":
        (ours / FILE).unlink()
    elif damage == "another run":
        shutil.copy(other / FILE, ours / FILE)
    else:
        shutil.copy(other / "model.safetensors", ours / "model.safetensors")
    with pytest.raises(PruningError, match=f"a/checkpoint-2/{FILE}"):
        train(pruned(0), tmp_path / "a", SparsityCallback(), resume=True, **OFTEN)


def test_searches_of_hyperparameters_keep_the_zeros_of_each_trial(tmp_path: Path) -> None:
    class Searching(Trainer):
        """Writes as in a search by optuna, which the tests do without: into a folder for each trial."""

        number = 0

        def _get_output_dir(self, trial: Any) -> str:
            return f"{self.args.output_dir}/run-{self.number}"

    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **OFTEN
    )
    callback = SparsityCallback()
    trainer = Searching(None, arguments, train_dataset=batches(), callbacks=[callback], model_init=lambda: pruned(0))
    for number in range(2):
        trainer.number = number
        trainer.train()
    for number in range(2):
        model = pruned(0)
        train(model, tmp_path / f"run-{number}", SparsityCallback(), resume=True, max_steps=4, **OFTEN)
        assert all(torch.equal(found, zeros(model)[name]) for name, found in zeros(pruned(0)).items())
