"""The dense model before anything is pruned: what its scores are, and what masking its weights would do."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.models import PrunableWeight
from aerogel.pruning.blocks import walk
from aerogel.pruning.calibration import Batch
from aerogel.pruning.kl import Reference
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

SHARE = 4  # one batch in so many tells the norms of the dense model's inputs well enough to compare matrices


def plain_statistics(weight: PrunableWeight, seed: int) -> Statistics:
    """Each matrix draws from its own stream, so that the order and the number of matrices change nothing."""
    hashed = zlib.crc32(f"{seed} {weight.name}".encode())  # the generator looks at 32 bits of its seed
    return Statistics(generator=torch.Generator().manual_seed(hashed))


def dense_scores(
    model: PreTrainedModel,
    weights: Sequence[PrunableWeight],
    batches: Sequence[Batch],
    gradients: Mapping[str, Tensor],
    chosen: PruningMethod,
    seed: int,
) -> Callable[[PrunableWeight], Tensor]:
    """A function that gives the scores of a matrix, (d_out, d_in), by which the method would rank its dense weights."""
    statistics = {weight.name: plain_statistics(weight, seed) for weight in weights}
    if chosen.looks_at_text:
        for block in walk(model, weights, batches[::SHARE], False, "comparing the matrices"):
            for name, moments in block.moments.items():
                statistics[name] = replace(statistics[name], norms=moments.norms, gradients=gradients.get(name))
    return lambda weight: chosen.score(weight.matrix.float(), statistics[weight.name])


@torch.no_grad()
def masked_kl(
    model: PreTrainedModel,
    shares: Mapping[str, float],
    weights: Sequence[PrunableWeight],
    score: Callable[[PrunableWeight], Tensor],
    pattern: Pattern,
    reference: Reference,
) -> float:
    """The KL divergence to the dense model with weights masked at the sparsities of `shares`, by name.

    All weights are put back as they were.
    """
    chosen = [weight for weight in weights if shares.get(weight.name)]
    with put_back(chosen):
        for weight in chosen:
            weight.matrix.mul_(pattern.mask(score(weight), shares[weight.name]))
        return reference.divergence(model)


@contextmanager
def put_back(weights: Sequence[PrunableWeight]) -> Iterator[None]:
    """Whatever happens to the weights meanwhile, they are as before at the end."""
    before = [weight.matrix.clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, before, strict=True):
                weight.matrix.copy_(values)
