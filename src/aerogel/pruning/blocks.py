"""A model block by block: the inputs of each block on the calibration text, after the blocks before it are pruned."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError, PruningError
from aerogel.models import PrunableWeight
from aerogel.pruning.batches import Batch
from aerogel.pruning.block_inputs import IN_MEMORY, ActivationStore, Call, capture, evaluating_without_cache


@dataclass
class Block:
    """A block to prune: its `weights`, the moments and sums of their inputs by weight name, and the block's inputs.

    Moments are over the calibration tokens: XᵀX (d_in, d_in), or only its diagonal (d_in). `sums` are of the inputs
    themselves, (d_in). On batch i the block is called with the hidden states `states[i]` (batch, sequence, d) and
    `calls[i]`.
    """

    name: str
    module: nn.Module
    weights: list[PrunableWeight]
    moments: dict[str, Tensor]
    sums: dict[str, Tensor]
    states: list[Tensor]
    calls: list[Call]


class BlockLoader:
    """What a walk does to have the weights of a block in memory: nothing, for a model that is there as a whole.

    Attributes:
        in_memory: bytes of activations that stay in memory.
        scratch: the folder for the rest, by default that of temporary files.
    """

    in_memory: int = IN_MEMORY
    scratch: Path | None = None

    def inputs(self, blocks: nn.ModuleList) -> AbstractContextManager[None]:
        """Around the capture of the inputs of the first block, which runs it and what is before the blocks."""
        return nullcontext()

    def first(self, names: Sequence[str], states: Sequence[Tensor]) -> int:
        """The first of these blocks to visit. The inputs of another than block 0 are copied to `states`."""
        return 0

    def block(self, name: str, states: Sequence[Tensor], calls: Sequence[Call]) -> AbstractContextManager[None]:
        """Around a block's visit. At the end `states` are the outputs of the pruned block, except of the last one."""
        return nullcontext()


@torch.no_grad()
def walk(
    model: PreTrainedModel,
    weights: Sequence[PrunableWeight],
    batches: Sequence[Batch],
    hessian: bool,
    doing: str,
    *,
    loader: BlockLoader | None = None,
) -> Iterator[Block]:
    """Yields every block that holds some of `weights`, in the order of the forward pass, to be pruned in place.

    Before the next block is yielded, the outputs of this one are computed again, so the inputs of each block are the
    outputs of pruned blocks. The sums of one block are held at a time. Activations beyond `loader.in_memory` go to
    disk. Raises `ModelError` for weights outside lists of blocks and as `capture`, and `PruningError`, naming the
    layer, for an input that is not finite.
    """
    loader = loader or BlockLoader()
    lists = block_lists(model, weights)
    total = sum(len(blocks) for _, blocks in lists)
    done = 0
    with evaluating_without_cache(model), tempfile.TemporaryDirectory(prefix="aerogel-", dir=loader.scratch) as scratch:
        for list_name, blocks in lists:
            with loader.inputs(blocks):
                states, calls = capture(model, list_name, blocks, batches, ActivationStore(scratch, loader.in_memory))
            first = loader.first([f"{list_name}.{index}" for index in range(len(blocks))], states)
            done += first
            for index, block in list(enumerate(blocks))[first:]:
                name = f"{list_name}.{index}"
                progress.update(f"{doing}: {name}", done, total)
                with loader.block(name, states, calls[index]):
                    inside = [weight for weight in weights if weight.name.startswith(f"{name}.")]
                    if inside:
                        yield observed(name, block, inside, states, calls[index], hessian)
                    if index + 1 < len(blocks):
                        advance(block, states, calls[index])
                done += 1
                progress.update(f"{doing}: {name}", done, total)


@torch.no_grad()
def advance(block: nn.Module, states: Sequence[Tensor], calls: Sequence[Call]) -> None:
    """Replaces the inputs of a block by its outputs."""
    for hidden, call in zip(states, calls, strict=True):
        hidden.copy_(call.run(block, hidden))


@torch.no_grad()
def check_blocks(model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch]) -> None:
    """Raises `ModelError` where `walk` would, after one batch."""
    with evaluating_without_cache(model), tempfile.TemporaryDirectory(prefix="aerogel-") as scratch:
        for name, blocks in block_lists(model, weights):
            capture(model, name, blocks, batches[:1], ActivationStore(scratch))


def block_lists(model: nn.Module, weights: Sequence[PrunableWeight]) -> list[tuple[str, nn.ModuleList]]:
    """The outermost lists of blocks of one class that hold the weights, by name, in the model's order."""
    outermost: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer, _ in outermost):
            outermost.append((name, module))
    lists = [
        (name, blocks)
        for name, blocks in outermost
        if any(weight.name.startswith(f"{name}.") for weight in weights) and len({type(block) for block in blocks}) == 1
    ]
    for weight in weights:
        if not any(weight.name.startswith(f"{name}.") for name, _ in lists):
            raise ModelError(
                f"layer {weight.name} is not in an nn.ModuleList of blocks of one class, which calibration needs: "
                "exclude it, or take a method without calibration"
            )
    return lists


def observed(
    name: str,
    module: nn.Module,
    weights: list[PrunableWeight],
    states: list[Tensor],
    calls: list[Call],
    hessian: bool,
) -> Block:
    """The block with the moments and sums of the inputs of `weights`."""
    return Block(name, module, weights, *input_moments(module, weights, states, calls, hessian), states, calls)


def input_moments(
    block: nn.Module, weights: Sequence[PrunableWeight], states: Sequence[Tensor], calls: Sequence[Call], hessian: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Runs the block on all batches and returns the moments and the sums of its linear layers' inputs, by weight name.

    Layers with the same input (query, key and value) share theirs, those of the first of them.
    """
    leaders: dict[str, str] = {}
    moments: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    for call, hidden in zip(calls, states, strict=True):
        with _recorded_inputs(weights) as inputs:
            call.run(block, hidden)
        for name in (weight.name for weight in weights):
            if name not in inputs:
                raise ModelError(f"layer {name} does not run on the calibration text")
            if name not in leaders:
                leaders[name] = next((leader for leader in leaders if _same(inputs[leader], inputs[name])), name)
            if leaders[name] == name:
                try:
                    for tensor in inputs[name]:
                        tokens = call.without_padding(tensor)
                        _add(moments, name, tokens, hessian)
                        sums[name] = sums.get(name, 0) + tokens.sum(0)
                except PruningError as error:
                    raise PruningError(f"layer {name}: {error}") from error
    for name, total in moments.items():
        if not torch.isfinite(total).all():
            raise PruningError(f"layer {name}: its inputs on the calibration text are not all finite")
    names = {weight.name: leaders[weight.name] for weight in weights}
    return {name: moments[leader] for name, leader in names.items()}, {
        name: sums[leader] for name, leader in names.items()
    }


def _add(moments: dict[str, Tensor], name: str, inputs: Tensor, hessian: bool) -> None:
    width = inputs.shape[1]
    if name not in moments:
        moments[name] = inputs.new_zeros((width, width) if hessian else (width,))
    if hessian:
        moments[name].addmm_(inputs.T, inputs)
    else:
        moments[name] += inputs.square().sum(0)


@contextmanager
def _recorded_inputs(weights: Sequence[PrunableWeight]) -> Iterator[dict[str, list[Tensor]]]:
    """Collects the inputs of each linear layer in the `with` block, one a call: DeBERTa's layers run twice.

    All are held until the end, so that no memory is used twice and equal addresses mean equal tensors.
    """
    inputs: dict[str, list[Tensor]] = {}

    def register(weight: PrunableWeight) -> Any:
        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs.setdefault(weight.name, []).append(arguments[0])

        return weight.module.register_forward_pre_hook(keep)

    handles = [register(weight) for weight in weights]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        one.data_ptr() == other.data_ptr() and one.shape == other.shape
        for one, other in zip(first, second, strict=True)
    )
