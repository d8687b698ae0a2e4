"""Bringing the sub-modules of a pruned block back to what they gave when dense, the zeros held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aerogel import progress
from aerogel.models import PrunableWeight
from aerogel.pruning.blocks import Block
from aerogel.pruning.masking import put_back

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Stage:
    """A sub-module that holds a nonlinearity, and the weights of it that are trained for its output."""

    module: nn.Module
    weights: list[PrunableWeight]


def reconstruct(block: Block, dense: Mapping[str, Tensor], masks: Mapping[str, Tensor], epochs: int) -> None:
    """Trains the surviving weights of a block, sub-module by sub-module, towards the dense outputs.

    min over M ⊙ W of ‖f(x; M ⊙ W) − f(x; W_dense)‖², with x what the pruned blocks before give, for attention and
    then for the MLP (Guo et al. 2024, EBFT; by sub-modules, which do better than single matrices). AdamW, its
    learning rate falling to zero along a cosine. `dense` and `masks` are (d_out, d_in) by weight name.
    """
    parameters = list(block.module.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        for stage in stages(block):
            _train(block, stage, dense, masks, epochs)
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)


def stages(block: Block) -> list[Stage]:
    """The largest sub-modules with several, but not all, of the block's weights; then the block with the others."""
    found: list[Stage] = []
    left = list(block.weights)
    for module in _children(block.module):
        inside = {id(part) for part in module.modules()}
        held = [weight for weight in left if id(weight.module) in inside]
        if 1 < len(held) < len(block.weights):
            found.append(Stage(module, held))
            left = [weight for weight in left if all(weight is not other for other in held)]
    return [*found, Stage(block.module, left)] if left else found


def _children(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _children(child)
        else:
            yield child


def _train(block: Block, stage: Stage, dense: Mapping[str, Tensor], masks: Mapping[str, Tensor], epochs: int) -> None:
    calls = [_call_of(stage.module, block, place) for place in range(len(block.calls))]
    with put_back(stage.weights), torch.no_grad():
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
    for place in progress.track(order.tolist(), f"reconstructing {block.name}"):
        tokens = block.calls[place].tokens
        with torch.enable_grad():
            missed = (_run(stage.module, calls[place]) - targets[place])[tokens]
            (missed.square().mean() / scale).backward()
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
def _call_of(module: nn.Module, block: Block, place: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a sub-module is called with on one batch."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = module.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append((arguments, keywords)), with_kwargs=True
    )
    try:
        block.calls[place].run(block.module, block.states[place])
    finally:
        handle.remove()
    return seen[0]


def _run(module: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    arguments, keywords = call
    output = module(*arguments, **keywords)
    return output if isinstance(output, Tensor) else output[0]
