"""Zeros stay zeros in transformers' own Trainer, whatever changes the weights."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from aerogel.errors import PruningError
from aerogel.models import load, prunable_weights
from aerogel.pruning import Calibration, PruneConfig, all_methods, prune
from aerogel.pruning.calibration import calibration
from aerogel.training import GradualPruning, SparsityCallback
from aerogel.training.schedule import PRUNINGS
from builders import ARCHITECTURES, batches, prose, text_data, train


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {weight.name: weight.matrix == 0 for weight in prunable_weights(model, ("blocks", "embeddings", "heads"))}


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_zeros_are_kept_and_other_weights_are_trained(tmp_path: Path, name: str) -> None:
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


def test_without_the_callback_the_zeros_are_trained(tmp_path: Path) -> None:
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
def test_zeros_are_kept_with_all_optimizers(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = ARCHITECTURES["gpt2"].build()
    prune(model, pattern="2:4", targets=("blocks", "embeddings"))
    before = zeros(model)
    train(model, tmp_path, SparsityCallback(), **settings)
    after = zeros(model)
    for name, found in before.items():
        assert torch.equal(found & after[name], found), name


def test_a_dense_model_is_trained_as_without_the_callback(tmp_path: Path) -> None:
    held, free = (ARCHITECTURES["gpt2"].build() for _ in range(2))
    train(held, tmp_path, SparsityCallback())
    train(free, tmp_path)
    assert all(torch.equal(value, free.state_dict()[name]) for name, value in held.state_dict().items())


def test_zeros_that_something_else_changes_are_reported(tmp_path: Path) -> None:
    class Meddler(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
            with torch.no_grad():
                prunable_weights(model)[5].matrix.add_(1e-3)

    model = ARCHITECTURES["bert"].build()
    prune(model, sparsity=0.5)
    name = prunable_weights(model)[5].name
    with pytest.raises(PruningError, match=name):
        train(model, tmp_path, SparsityCallback(), Meddler())


# gradual pruning


class Counting(TrainerCallback):
    """What is zero after each step, for all weights together and for each."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.found: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        self.found.append({weight.name: weight.matrix == 0 for weight in prunable_weights(model)})
        total = sum(zeros.numel() for zeros in self.found[-1].values())
        self.shares.append(sum(int(zeros.sum()) for zeros in self.found[-1].values()) / total)


SHAPES = ["unstructured", "2:4", "block:4x1"]


@pytest.mark.parametrize("score", [name for name, entry in all_methods().items() if not entry.looks_at_text])
@pytest.mark.parametrize("pattern", SHAPES)
def test_the_sparsity_rises_step_by_step(tmp_path: Path, score: str, pattern: str) -> None:
    model = ARCHITECTURES["gpt2" if pattern == "2:4" else "bert"].build()
    sparsity = None if pattern == "2:4" else 0.8
    callback = SparsityCallback(sparsity=sparsity, score=score, pattern=pattern)
    counting = Counting()
    train(model, tmp_path, callback, counting, max_steps=16, learning_rate=1e-3)
    assert callback.is_final
    goal = sparsity or 0.5
    assert callback.sparsity == pytest.approx(goal, abs=1e-3)
    assert counting.shares[-1] == pytest.approx(goal, abs=1e-3)
    levels = sorted(set(counting.shares))
    assert counting.shares == sorted(counting.shares)
    assert len(levels) == PRUNINGS + 1  # one of them before the first
    for before, after in pairwise(counting.found):
        assert all(torch.equal(zeros & after[name], zeros) for name, zeros in before.items())
    for weight in prunable_weights(model):
        if pattern == "2:4":
            assert ((weight.matrix == 0).reshape(-1, 4).sum(1) == 2).all()
        elif pattern == "block:4x1":
            blocks = (weight.matrix == 0).reshape(len(weight.matrix) // 4, 4, -1).sum(1)
            assert ((blocks == 0) | (blocks == 4)).all()


def test_a_block_with_one_zero_is_not_a_zero_block(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    weight = prunable_weights(model)[0].matrix
    with torch.no_grad():
        weight[:4] = 10.0
        weight[0] = 0.0
    train(model, tmp_path, SparsityCallback(sparsity=0.5, score="magnitude", pattern="block:4x1"), max_steps=16)
    assert (weight[1:4] != 0).all()


@pytest.mark.parametrize("score", ["movement", "platon", "obs"])
def test_a_score_without_gradients_is_refused(tmp_path: Path, score: str) -> None:
    model = ARCHITECTURES["bert"].build()
    callback = SparsityCallback(sparsity=0.5, score=score, schedule="constant")
    with pytest.raises(PruningError, match=rf"bert\.encoder\.layer\.0\..*{score}"):
        train(model, tmp_path, callback)


def pruned_with(folder: Path, callback: SparsityCallback) -> dict[str, Tensor]:
    """The zeros of each matrix after a training, (d_out, d_in)."""
    model = ARCHITECTURES["bert"].build()
    train(model, folder, callback, max_steps=16)
    return {weight.name: weight.zeros for weight in prunable_weights(model)}


def shares(masks: dict[str, Tensor]) -> set[float]:
    return {round(float(mask.float().mean()), 2) for mask in masks.values()}


def test_scope_and_allocation_say_how_the_sparsity_is_distributed(tmp_path: Path) -> None:
    def masks(**settings: Any) -> dict[str, Tensor]:
        return pruned_with(tmp_path, SparsityCallback(sparsity=0.75, score="magnitude", **settings))

    layer, row, default = masks(scope="layer"), masks(scope="row"), masks()
    assert shares(layer) == shares(row) == {0.75}
    assert all(len(mask.sum(1).unique()) == 1 for mask in row.values())
    assert any(len(mask.sum(1).unique()) > 1 for mask in layer.values())
    for settings in (dict(scope="global"), dict(allocation="global")):
        assert all(torch.equal(mask, default[name]) for name, mask in masks(**settings).items())
    totals = set()
    for allocation in ("global", "mixed", "owl"):
        unequal = masks(allocation=allocation)
        assert len(shares(unequal)) > 1
        totals.add(sum(int(mask.sum()) for mask in unequal.values()))
    assert totals == {sum(int(mask.sum()) for mask in row.values())}


def test_the_seed_draws_the_weights_of_a_random_score(tmp_path: Path) -> None:
    first, again, other = (
        pruned_with(tmp_path, SparsityCallback(sparsity=0.5, score="random", scope="layer", seed=seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(mask, again[name]) for name, mask in first.items())
    assert not any(torch.equal(mask, other[name]) for name, mask in first.items())


def test_targets_and_exclusions_say_what_is_pruned(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(sparsity=0.5, score="magnitude", scope="layer")
    callback = SparsityCallback(**settings, targets=("blocks", "embeddings"), exclude=("*layer.0*",))
    masks = pruned_with(tmp_path, callback)
    assert {round(float(mask.float().mean()), 2) for name, mask in masks.items() if "layer.0" in name} == {0}
    assert {round(float(mask.float().mean()), 2) for name, mask in masks.items() if "layer.1" in name} == {0.5}
    embeddings = {weight.name for weight in callback.pruned if weight.target == "embeddings"}
    assert embeddings
    assert all(callback.zero_masks[name].float().mean() == pytest.approx(0.5, abs=0.01) for name in embeddings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(score="wanda"),
        dict(score="best", allocation="uniform"),
        dict(score="magnitude", swap=True),
        dict(score="magnitude", reconstruct=1),
        dict(score="magnitude", allocation="search", schedule="constant"),
        dict(score="wanda", pattern="2:4", sparsity=None),
    ],
    ids=str,
)
def test_a_calibrated_step_prunes_as_one_shot_pruning_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With a learning rate of zero the last step prunes the weights that the steps before it have left."""
    _, tokenizer = load("tiny-bert")
    text = Calibration(text_data(prose(200)), tokenizer, 4, 32)
    settings = {"sparsity": 0.6, **settings}
    callback = SparsityCallback(calibration=text, **settings)
    assert callback.config
    model = ARCHITECTURES["bert"].build()
    train(model, tmp_path, callback, max_steps=16, learning_rate=0.0)
    other = ARCHITECTURES["bert"].build()
    schedule = callback.config.schedule_for(16)
    for index in range(schedule.prunings):
        prune(other, replace(callback.config.pruning, sparsity=schedule.sparsity_at(index)), text)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_texts_are_encoded_by_the_tokenizer_of_the_model(tmp_path: Path) -> None:
    texts = prose(20).splitlines()
    model, tokenizer = load("tiny-bert")
    settings: dict[str, Any] = dict(sparsity=0.6, score="wanda", schedule="constant")
    train(model, tmp_path, SparsityCallback(calibration=texts, **settings))
    other, _ = load("tiny-bert")
    train(other, tmp_path, SparsityCallback(calibration=calibration(texts, tokenizer), **settings))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_keywords_are_those_of_the_configuration() -> None:
    config = GradualPruning(
        PruneConfig("magnitude", 0.9, "block:4x1", "row", ("blocks", "heads"), ("*.0.*",), 3, "owl")
    )
    settings: dict[str, Any] = dict(sparsity=0.9, pattern="block:4x1", scope="row", targets=("blocks", "heads"))
    settings |= dict(exclude=("*.0.*",), seed=3, allocation="owl")
    assert SparsityCallback(score="magnitude", **settings).config == config
    assert SparsityCallback(method="magnitude", schedule="gradual", **settings).config == config
    assert SparsityCallback(config).config == config
    assert SparsityCallback(config, schedule="constant", seed=4).config == GradualPruning(
        replace(config.pruning, seed=4), "constant"
    )
    assert SparsityCallback().config is None
    assert GradualPruning.of(sparsity=0.5).pruning.method == "best"
    with pytest.raises(TypeError, match="momentum"):
        SparsityCallback(sparsity=0.5, momentum=0.9)


@pytest.mark.parametrize("score", ["movement", "obs", "random"])
def test_training_resumes_bit_exactly(tmp_path: Path, score: str) -> None:
    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = state.global_step == 9

    settings = dict(max_steps=30, save_strategy="steps", save_steps=9, lr_scheduler_type="constant")
    whole, parts = (ARCHITECTURES["bert"].build() for _ in range(2))
    train(whole, tmp_path / "whole", SparsityCallback(sparsity=0.9, score=score), **settings)
    with pytest.raises(PruningError, match="step 9"):
        train(parts, tmp_path / "parts", SparsityCallback(sparsity=0.9, score=score), Stop(), **settings)
    resumed = ARCHITECTURES["bert"].build()
    train(resumed, tmp_path / "parts", SparsityCallback(sparsity=0.9, score=score), resume=True, **settings)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_checkpoint_without_its_sparsity_is_refused(tmp_path: Path) -> None:
    settings = dict(max_steps=30, save_strategy="steps", save_steps=20)
    model = ARCHITECTURES["bert"].build()
    train(model, tmp_path, SparsityCallback(sparsity=0.9, score="magnitude"), **settings)
    for folder in tmp_path.glob("checkpoint-*"):
        (folder / "sparsity.safetensors").unlink()
    with pytest.raises(PruningError, match=r"checkpoint-30/sparsity\.safetensors"):
        train(model, tmp_path, SparsityCallback(sparsity=0.9, score="magnitude"), resume=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(sparsity=1.0), r"sparsity 1 .*\[0, 1\)"),
        (dict(score="momentum", sparsity=0.5), "momentum.*movement"),
        (dict(schedule="sudden", sparsity=0.5), "sudden"),
        (dict(scope="column", sparsity=0.5), "scope.*column"),
        (dict(pattern="block:4x1"), "block:4x1.*sparsity"),
        (dict(pattern="2:4", sparsity=0.9), "0.9.*2:4"),
        (dict(pattern="2:4", allocation="owl"), "2:4.*owl"),
        (dict(pattern="block:7x1", sparsity=0.9), r"layer\.0.*block:7x1"),
        (dict(sparsity=0.9, steps=5), "5 steps"),
        (dict(sparsity=0.9, score="best"), "best.*calibration="),
        (dict(sparsity=0.9, swap=True), "swap .*calibration="),
        (dict(sparsity=0.9, allocation="search"), "allocation search .*calibration="),
        (dict(sparsity=0.9, score="movement", allocation="search"), "movement.*search"),
        (dict(sparsity=0.9, score="obs", swap=True), "obs.*swap"),
        (dict(sparsity=0.9, score="platon", reconstruct=1), "platon.*reconstruct"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    model = ARCHITECTURES["bert"].build()
    steps = settings.pop("steps", 40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PruningError, match=message):
        train(model, tmp_path, SparsityCallback(**{"score": "magnitude", **settings}), max_steps=steps)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Scripted(Trainer):
    """Finds the given losses at its evaluations, one after another."""

    losses: Sequence[float]

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        metrics = {"eval_loss": self.losses[self.state.global_step // 2 - 1]}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def scripted(folder: Path, losses: Sequence[float], *callbacks: TrainerCallback) -> Scripted:
    """A training that evaluates every second of its 40 steps, and keeps the best of them."""
    often: Any = dict(eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, max_steps=40)
    quiet: Any = dict(report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
    arguments = TrainingArguments(str(folder), load_best_model_at_end=True, learning_rate=1e-3, **often, **quiet)
    model = ARCHITECTURES["bert"].build()
    trainer = Scripted(model, arguments, train_dataset=batches(), eval_dataset=batches(), callbacks=list(callbacks))
    trainer.losses = losses
    return trainer


RISING = [float(step) for step in range(20)]  # the earlier the better


@pytest.mark.parametrize(("values", "first"), [(None, 22), ("int8", 32)])
def test_the_best_is_selected_after_the_last_pruning(tmp_path: Path, values: Any, first: int) -> None:
    """The last of the prunings is before step 21, and the steps from the 31st have int8 values."""
    callback = SparsityCallback(sparsity=0.9, score="magnitude", values=values)
    trainer = scripted(tmp_path, RISING, callback)
    trainer.train()
    assert trainer.state.best_global_step == first
    assert callback.sparsity == pytest.approx(0.9, abs=1e-3)
    best = type(trainer.model).from_pretrained(tmp_path / f"checkpoint-{first}")
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in trainer.model.state_dict().items())
    for weight in prunable_weights(trainer.model):
        assert torch.equal(weight.zeros, callback.zero_masks[weight.name])


def test_early_stopping_counts_from_the_last_pruning(tmp_path: Path) -> None:
    callback = SparsityCallback(sparsity=0.9, score="magnitude")
    trainer = scripted(tmp_path, RISING, EarlyStoppingCallback(3), callback)
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.global_step) == (22, 28)


def test_a_resumed_training_forgets_the_best_before_the_last_pruning(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = state.global_step == 10

    with pytest.raises(PruningError, match="step 10"):
        scripted(tmp_path, RISING, SparsityCallback(sparsity=0.9, score="magnitude"), Stop()).train()
    trainer = scripted(tmp_path, RISING, SparsityCallback(sparsity=0.9, score="magnitude"))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert trainer.state.best_global_step == 22


def test_a_model_that_keeps_its_zeros_may_be_best_at_any_step(tmp_path: Path) -> None:
    trainer = scripted(tmp_path, RISING, SparsityCallback())
    trainer.train()
    assert trainer.state.best_global_step == 2
