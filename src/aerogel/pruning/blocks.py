"""A model block by block: what each is given on the calibration text, as the pruned blocks before it make it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError, PruningError
from aerogel.models import PrunableWeight
from aerogel.pruning.block_inputs import ActivationStore, Call, enter, plain
from aerogel.pruning.calibration import Batch


@dataclass
class Moments:
    """Sums over the calibration tokens of one input: XᵀX (d_in, d_in), or its diagonal (d_in) alone."""

    sums: Tensor

    @property
    def hessian(self) -> Tensor | None:
        return self.sums if self.sums.dim() == 2 else None

    @property
    def norms(self) -> Tensor:
        return (self.sums.diagonal() if self.sums.dim() == 2 else self.sums).sqrt()


@dataclass
class Block:
    """A block about to be pruned: its `weights`, the `moments` of their inputs by weight name, and what it is given.

    `states[i]` (batch, sequence, d) goes into the block on batch i together with `calls[i]`.
    """

    name: str
    module: nn.Module
    weights: list[PrunableWeight]
    moments: dict[str, Moments]
    states: list[Tensor]
    calls: list[Call]


@torch.no_grad()
def walk(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch], hessian: bool, doing: str
) -> Iterator[Block]:
    """Yields every block that holds some of `weights`, in the order that data takes, to be pruned in place.

    When the caller asks for the next block, the last one's outputs are computed anew, so each block's inputs come
    out of pruned blocks. Sums are streamed: at any time one block's are held. Activations beyond 2 GB go to disk.
    Raises `ModelError` where no list of blocks holds the weights, and `PruningError`, naming the layer, where an
    input is not finite.
    """
    lists = block_lists(model, weights)
    total = sum(len(blocks) for _, blocks in lists)
    done = 0
    with plain(model), tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        for name, blocks in lists:
            shelf = ActivationStore(scratch)
            states, calls = enter(model, name, blocks, batches, shelf)
            for place, block in enumerate(blocks):
                progress.update(f"{doing}: {name}.{place}", done, total)
                prefix = f"{name}.{place}."
                inside = [weight for weight in weights if weight.name.startswith(prefix)]
                if inside:
                    moments = observe(block, inside, states, calls[place], hessian)
                    yield Block(f"{name}.{place}", block, inside, moments, states, calls[place])
                if place + 1 < len(blocks):
                    for number, call in enumerate(calls[place]):
                        states[number].copy_(call.run(block, states[number]))
                done += 1
                progress.update(f"{doing}: {name}.{place}", done, total)


@torch.no_grad()
def check_followed(model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch]) -> None:
    """Raises `ModelError` as `walk` would for a model that it can't follow, without the work."""
    lists = block_lists(model, weights)
    with plain(model), tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        for name, blocks in lists:
            enter(model, name, blocks, batches[:1], ActivationStore(scratch))


def block_lists(model: nn.Module, weights: Sequence[PrunableWeight]) -> list[tuple[str, nn.ModuleList]]:
    """The outermost lists of like blocks that hold the weights, by name, in the model's order."""
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer, _ in lists):
            lists.append((name, module))
    held = [
        (name, blocks)
        for name, blocks in lists
        if any(weight.name.startswith(f"{name}.") for weight in weights) and len({type(block) for block in blocks}) == 1
    ]
    for weight in weights:
        if not any(weight.name.startswith(f"{name}.") for name, _ in held):
            raise ModelError(
                f"layer {weight.name}: calibration looks for an nn.ModuleList of blocks of one class, and this weight "
                "stands in none: leave it out, or take a method without calibration"
            )
    return held


def observe(
    block: nn.Module, weights: Sequence[PrunableWeight], states: Sequence[Tensor], calls: Sequence[Call], hessian: bool
) -> dict[str, Moments]:
    """Runs the block on all batches and sums what its linear layers are given, by weight name.

    Layers that are given the same tensor (query, key and value) share one sum.
    """
    leaders: dict[str, str] = {}
    sums: dict[str, Tensor] = {}
    for call, given in zip(calls, states, strict=True):
        with _watched(weights) as seen:
            call.run(block, given)
        for weight in weights:
            if weight.name not in seen:
                raise ModelError(f"layer {weight.name}: the calibration text never passes through it")
            own = seen[weight.name]
            leader = leaders.setdefault(
                weight.name, next((name for name in leaders if _same(seen[name], own)), weight.name)
            )
            if leader == weight.name:
                try:
                    for one in own:
                        _add(sums, leader, call.inputs(one), hessian)
                except PruningError as error:
                    raise PruningError(f"layer {weight.name}: {error}") from error
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise PruningError(f"layer {name}: its inputs on the calibration text are not all finite numbers")
    return {weight.name: Moments(sums[leaders[weight.name]]) for weight in weights}


def _add(sums: dict[str, Tensor], name: str, inputs: Tensor, hessian: bool) -> None:
    width = inputs.shape[1]
    if name not in sums:
        sums[name] = inputs.new_zeros((width, width) if hessian else (width,))
    if hessian:
        sums[name].addmm_(inputs.T, inputs)
    else:
        sums[name] += inputs.square().sum(0)


@contextmanager
def _watched(weights: Sequence[PrunableWeight]) -> Iterator[dict[str, list[Tensor]]]:
    """What each linear layer is given inside the block; held until the end, so that no memory is used twice.

    That is a tensor for each call: DeBERTa's layers see the text, and then the relative positions.
    """
    seen: dict[str, list[Tensor]] = {}

    def watch(weight: PrunableWeight) -> Any:
        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.setdefault(weight.name, []).append(arguments[0])

        return weight.module.register_forward_pre_hook(keep)

    handles = [watch(weight) for weight in weights]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        one is other
        or (one.data_ptr() == other.data_ptr() and one.shape == other.shape and one._version == other._version)
        for one, other in zip(first, second, strict=True)
    )
