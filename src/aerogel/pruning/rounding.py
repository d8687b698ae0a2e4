"""Round weights to int8 so that the outputs of each layer change as little as possible."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.errors import PruningError
from aerogel.models import prunable_weights
from aerogel.models.int8 import LARGEST, dequantize, quantize_rows
from aerogel.models.prunable import error_context
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import Block, block_lists, walk
from aerogel.pruning.least_squares import damped
from aerogel.pruning.smoothing import smooth

DAMPING = 0.01
SWEEPS = 4  # over all columns
COLUMNS = 128  # whose changes reach the later columns in one product


def check_rounding(model: PreTrainedModel) -> None:
    """Raises `ModelError` or `PruningError` where `round_blocks` would, if the model's outputs are finite."""
    weights = prunable_weights(model)
    block_lists(model, weights)
    for weight in weights:
        with error_context(weight):
            dtype = str(weight.matrix.dtype).removeprefix("torch.")
            if dtype not in ("float32", "float64"):  # which hold the products of integers and scales
                raise PruningError(f"rounding to int8 needs float32, found {dtype}: call model.float() first")
            if not torch.isfinite(weight.matrix).all():
                raise PruningError("its weights are not all finite")


@torch.no_grad()
def round_blocks(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Smooths and rounds the prunable weights of all blocks in place, each block on the outputs of the rounded ones."""
    modules = model.named_modules(remove_duplicate=False)
    uses = Counter(parameter for _, module in modules for parameter in module.parameters(recurse=False))
    for block in walk(model, prunable_weights(model), batches, True, "rounding to int8"):
        if all(uses[parameter] == 1 for parameter in block.module.parameters()):  # else another block depends on it
            smooth(block)
        round_block(block)


@torch.no_grad()
def round_block(block: Block) -> None:
    """Rounds the weights of a block in place."""
    for weight in block.weights:
        weight.matrix.copy_(round_on_support(weight.matrix, block.moments[weight.name]))


def round_on_support(weight: Tensor, hessian: Tensor) -> Tensor:
    """The weights s q whose outputs are nearest to those of `weight`: min ‖X (weight − s q)ᵀ‖², both (d_out, d_in).

    The scale s of a row and the first integers q are those of `aerogel.models.int8.quantize_rows`. Then coordinate
    descent (Behdin et al. 2023, QuantEase): each q in turn becomes the integer of the lowest error given all others of
    its row. Zeros stay zeros, and a q of ±127 stays, so that the rounded row has the same scale. `hessian` is XᵀX
    (d_in, d_in).
    """
    hessian = damped(hessian, DAMPING)
    integers, scales = quantize_rows(weight)
    target = weight.float().T
    free = (weight != 0) & (integers.abs() < LARGEST)
    values, free = dequantize(integers, scales).T.contiguous(), free.T.contiguous()
    gradient = hessian @ (target - values)
    steps = torch.where(scales == 0, 1.0, scales)
    for _ in range(SWEEPS):
        for start in range(0, len(values), COLUMNS):
            span = slice(start, start + COLUMNS)
            before = values[span].clone()
            local = gradient[span].clone()
            for column, inside in enumerate(range(start, min(start + COLUMNS, len(values)))):
                best = values[inside] + local[column] / hessian[inside, inside]
                rounded = (best / steps).round_().clamp_(-LARGEST, LARGEST) * steps
                rounded = torch.where(free[inside], rounded, values[inside])
                change = rounded - values[inside]
                values[inside] = rounded
                local.addr_(hessian[span, inside], change, alpha=-1)
            gradient.addmm_(hessian[:, span], values[span] - before, alpha=-1)
    return values.T
