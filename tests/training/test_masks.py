"""Zeros stay zeros in transformers' own Trainer, whatever moves the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from aerogel.errors import PruningError
from aerogel.models import prunable_weights
from aerogel.pruning import prune
from aerogel.training import SparsityCallback
from builders import ARCHITECTURES


def batches(count: int = 12) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 8000, (count, 16), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def train(model: PreTrainedModel, folder: Path, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        weight_decay=0.1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"max_steps": 4, **settings},
    )
    trainer = Trainer(model, arguments, train_dataset=batches(), callbacks=list(callbacks))
    trainer.train()
    return trainer


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {weight.name: weight.matrix == 0 for weight in prunable_weights(model, ("blocks", "embeddings", "heads"))}


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_zeros_are_held_and_the_rest_learns(tmp_path: Path, name: str) -> None:
    model = ARCHITECTURES[name].build()
    masks = prune(model, sparsity=0.8)
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    train(model, tmp_path, SparsityCallback())
    for weight in prunable_weights(model):
        mask = masks[weight.name]
        assert not weight.matrix[~mask].any()
        assert not torch.signbit(weight.matrix[~mask]).any()
        moved = (weight.matrix != before[weight.name])[mask]
        assert float(moved.float().mean()) > 0.99


def test_without_the_callback_the_zeros_come_alive(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    prune(model, sparsity=0.8)
    before = sum(int(found.sum()) for found in zeros(model).values())
    train(model, tmp_path)
    assert sum(int(found.sum()) for found in zeros(model).values()) < 0.5 * before


@pytest.mark.parametrize(
    "settings",
    [
        dict(gradient_accumulation_steps=2),
        dict(optim="sgd", optim_args="momentum=0.9"),
        dict(optim="adafactor"),
        dict(max_grad_norm=0.0),
        dict(max_steps=-1, num_train_epochs=2),
    ],
    ids=lambda settings: ",".join(settings),
)
def test_zeros_are_held_however_it_is_trained(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = ARCHITECTURES["gpt2"].build()
    prune(model, pattern="2:4", targets=("blocks", "embeddings"))
    before = zeros(model)
    train(model, tmp_path, SparsityCallback(), **settings)
    after = zeros(model)
    for name, found in before.items():
        assert torch.equal(found & after[name], found), name


def test_momentum_from_before_the_pruning_revives_nothing(tmp_path: Path) -> None:
    class PruneHalfWay(TrainerCallback):
        """As gradual pruning would: the optimiser has momentum for the weights that go."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
            if state.global_step == 2:
                prune(model, sparsity=0.9)
                holding.on_train_begin(args, state, control, model)

    holding = SparsityCallback()
    model = ARCHITECTURES["bert"].build()
    train(model, tmp_path, holding, PruneHalfWay(), max_steps=6)
    for weight in prunable_weights(model):
        assert int((weight.matrix == 0).sum()) == round(0.9 * weight.matrix.numel())


def test_a_dense_model_is_left_alone(tmp_path: Path) -> None:
    held, free = (ARCHITECTURES["gpt2"].build() for _ in range(2))
    train(held, tmp_path, SparsityCallback())
    train(free, tmp_path)
    assert all(torch.equal(value, free.state_dict()[name]) for name, value in held.state_dict().items())


def test_zeros_that_come_alive_all_the_same_are_reported(tmp_path: Path) -> None:
    class Meddler(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
            with torch.no_grad():
                prunable_weights(model)[5].matrix.add_(1e-3)

    model = ARCHITECTURES["bert"].build()
    prune(model, sparsity=0.5)
    name = prunable_weights(model)[5].name
    with pytest.raises(PruningError, match=f"layer {name}: zeros came alive in training"):
        train(model, tmp_path, SparsityCallback(), Meddler())
