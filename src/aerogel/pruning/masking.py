"""The scores of the dense model, and the KL divergence that masking its weights by them causes."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.models import PrunableWeight
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import Block, walk
from aerogel.pruning.kl import Reference
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

STRIDE = 4  # every fourth batch is enough for input norms that compare matrices


def plain_statistics(weight: PrunableWeight, seed: int) -> Statistics:
    """A generator of its own for each matrix, so that draws don't depend on the order and number of matrices."""
    hashed = zlib.crc32(f"{seed} {weight.name}".encode())  # the generator uses 32 bits of its seed
    return Statistics(generator=torch.Generator().manual_seed(hashed))


def block_statistics(block: Block, weight: PrunableWeight, gradients: Mapping[str, Tensor], seed: int) -> Statistics:
    """Those of a matrix in a block that `walk` yields; `gradients` are at its outputs, by weight name."""
    moments = block.moments[weight.name]
    hessian = moments if moments.dim() == 2 else None
    norms = (moments if hessian is None else moments.diagonal()).sqrt()
    return replace(plain_statistics(weight, seed), norms=norms, hessian=hessian, gradients=gradients.get(weight.name))


def dense_scores(
    model: PreTrainedModel,
    weights: Sequence[PrunableWeight],
    batches: Sequence[Batch],
    gradients: Mapping[str, Tensor],
    method: PruningMethod,
    seed: int,
) -> Callable[[PrunableWeight], Tensor]:
    """A function that returns the method's scores of a dense matrix, (d_out, d_in)."""
    statistics = {weight.name: plain_statistics(weight, seed) for weight in weights}
    if method.looks_at_text:
        for block in walk(model, weights, batches[::STRIDE], False, "comparing the matrices"):
            statistics |= {weight.name: block_statistics(block, weight, gradients, seed) for weight in block.weights}
    return lambda weight: method.score(weight.matrix.float(), statistics[weight.name])


@torch.no_grad()
def masked_kl(
    model: PreTrainedModel,
    shares: Mapping[str, float],
    weights: Sequence[PrunableWeight],
    score: Callable[[PrunableWeight], Tensor],
    pattern: Pattern,
    reference: Reference,
) -> float:
    """The KL divergence to the dense model with weights masked at the sparsities `shares`, by name.

    The weights are restored afterwards.
    """
    masked = [weight for weight in weights if shares.get(weight.name)]
    with restore_weights(masked):
        for weight in masked:
            weight.matrix.mul_(pattern.mask(score(weight), shares[weight.name]))
        return reference.kl(model)


@contextmanager
def restore_weights(weights: Sequence[PrunableWeight]) -> Iterator[None]:
    """Restores the weights at the end of the `with` block."""
    before = [weight.matrix.clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, before, strict=True):
                weight.matrix.copy_(values)
