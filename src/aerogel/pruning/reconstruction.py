"""Reconstruction: train the sub-modules of a pruned block towards their dense outputs, with the zeros fixed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aerogel import progress
from aerogel.models import PrunableWeight
from aerogel.models.mode import frozen
from aerogel.pruning.block_inputs import Arguments, first_tensor
from aerogel.pruning.blocks import Block
from aerogel.pruning.masking import restore_weights

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Stage:
    """A sub-module that holds a nonlinearity, and its weights that are trained for its output."""

    module: nn.Module
    weights: list[PrunableWeight]


def reconstruct(block: Block, dense: Mapping[str, Tensor], masks: Mapping[str, Tensor], epochs: int) -> None:
    """Trains the remaining weights of a block, sub-module by sub-module, towards the dense outputs.

    min ‖f(x; M ⊙ W) − f(x; W_dense)‖² over M ⊙ W, with x the output of the pruned blocks before, first for attention,
    then for the MLP (Guo et al. 2024, EBFT, by sub-modules instead of single matrices). AdamW, with a learning rate
    that falls to zero along a cosine. `dense` and `masks` are (d_out, d_in) by weight name.
    """
    with frozen(block.module):
        for stage in stages(block):
            _train(block, stage, dense, masks, epochs)


def stages(block: Block) -> list[Stage]:
    """The largest sub-modules with several, but not all, of the block's weights; then the block with the others."""
    result: list[Stage] = []
    remaining = list(block.weights)
    for module in _children(block.module):
        inside = {id(part) for part in module.modules()}
        held = [weight for weight in remaining if id(weight.module) in inside]
        if 1 < len(held) < len(block.weights):
            result.append(Stage(module, held))
            remaining = [weight for weight in remaining if id(weight.module) not in inside]
    return [*result, Stage(block.module, remaining)] if remaining else result


def _children(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _children(child)
        else:
            yield child


def _train(block: Block, stage: Stage, dense: Mapping[str, Tensor], masks: Mapping[str, Tensor], epochs: int) -> None:
    calls = [_arguments(stage.module, block, index) for index in range(len(block.calls))]
    with restore_weights(stage.weights), torch.no_grad():
        for weight in stage.weights:
            weight.matrix.copy_(dense[weight.name])
        targets = [_run(stage.module, call) for call in calls]
    scale = sum(float(target.square().mean()) for target in targets) / len(targets) or 1.0
    trained = [weight.parameter for weight in stage.weights]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, BETAS, weight_decay=0.0)
    steps = epochs * len(calls)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(0)) % len(calls)
    for parameter in trained:
        parameter.requires_grad_(True)
    for index in progress.track(order.tolist(), f"reconstructing: {block.name}"):
        tokens = block.calls[index].tokens
        with torch.enable_grad():
            error = (_run(stage.module, calls[index]) - targets[index])[tokens]
            (error.square().mean() / scale).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight in stage.weights:
                weight.matrix.mul_(masks[weight.name])
    for parameter in trained:
        parameter.requires_grad_(False)


@torch.no_grad()
def _arguments(module: nn.Module, block: Block, index: int) -> Arguments:
    """The arguments of a sub-module on one batch."""
    calls: list[Arguments] = []
    handle = module.register_forward_pre_hook(
        lambda module, arguments, keywords: calls.append((arguments, keywords)), with_kwargs=True
    )
    try:
        block.calls[index].run(block.module, block.states[index])
    finally:
        handle.remove()
    return calls[0]


def _run(module: nn.Module, call: Arguments) -> Tensor:
    arguments, keywords = call
    return first_tensor(module(*arguments, **keywords))
