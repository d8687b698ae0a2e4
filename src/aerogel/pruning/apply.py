"""Pruning a model in place: from a configuration to masks and zeros."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from aerogel import progress
from aerogel.errors import PruningError, unknown_name
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.pruning.method import PruningMethod, Statistics, method
from aerogel.pruning.pattern import Pattern, highest

Scope = Literal["layer", "row", "global"]
GLOBAL_FLOOR = 0.1  # of the density asked for: the least that scope "global" leaves in a matrix


@dataclass(frozen=True)
class PruneConfig:
    """What to prune, by which method, and how much.

    Attributes:
        sparsity: share of zeros among the targeted weights, in [0, 1); an N:M pattern fixes it by itself.
        pattern: "unstructured", "N:M" or "block:RxC".
        scope: which weights compete: those of one matrix ("layer"), of one output row ("row"), or all ("global").
        targets: kinds of weights, see `aerogel.models.prunable_weights`.
        exclude: shell patterns on names of weights to leave dense.
        seed: for methods that draw at random.
    """

    method: str = "magnitude"
    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: Scope = "layer"
    targets: tuple[str, ...] = ("blocks",)
    exclude: tuple[str, ...] = ()
    seed: int = 0


def prune(model: nn.Module, config: PruneConfig | None = None, **settings: Any) -> dict[str, Tensor]:
    """Prunes a model in place and returns the masks by weight name, (d_out, d_in), True where kept.

    Takes a `PruneConfig`, its fields as keywords, or both: `prune(model, method="magnitude", sparsity=0.9)`.
    Everything is checked before the first weight changes. Raises `PruningError` or `ModelError`.
    """
    config = replace(config or PruneConfig(), **settings)
    chosen = method(config.method)
    pattern = Pattern.parse(config.pattern)
    sparsity = pattern.fixed_sparsity if config.sparsity is None else config.sparsity
    if sparsity is None:
        raise PruningError(f"pattern {pattern} needs a sparsity, in [0, 1)")
    weights = prunable_weights(model, config.targets, config.exclude)
    for weight in weights:
        with _naming(weight):
            pattern.check(weight.matrix.shape, sparsity)
            if not torch.isfinite(weight.matrix).all():
                raise PruningError("its weights are not all finite numbers")
    if config.scope not in get_args(Scope):
        raise PruningError(unknown_name("scope", config.scope, get_args(Scope)))
    if config.scope == "row":
        pattern = pattern.within_rows()
    if config.scope == "global" and pattern.fixed_sparsity is None:
        sparsities = _allocate_globally(weights, chosen, pattern, sparsity, config)
    else:
        sparsities = [sparsity] * len(weights)
    masks = {}
    for weight, share in progress.track(list(zip(weights, sparsities, strict=True)), f"pruning ({config.method})"):
        with _naming(weight), torch.no_grad():
            mask, values = chosen.prune(weight.matrix.float(), _statistics(weight, config), pattern, share)
            weight.matrix.copy_(values.masked_fill(~mask, 0))
        masks[weight.name] = mask
    return masks


def _statistics(weight: PrunableWeight, config: PruneConfig) -> Statistics:
    """Each matrix draws from its own stream, so that the order and the number of matrices change nothing."""
    seed = zlib.crc32(f"{config.seed} {weight.name}".encode())  # the generator looks at 32 bits of its seed
    return Statistics(generator=torch.Generator().manual_seed(seed))


def _allocate_globally(
    weights: list[PrunableWeight], chosen: PruningMethod, pattern: Pattern, sparsity: float, config: PruneConfig
) -> list[float]:
    """The sparsity that each matrix has when all of them are ranked together.

    The ranking leaves every matrix `GLOBAL_FLOOR` of the density asked for, since a matrix pruned whole
    cuts the network; the total is exact all the same.
    """
    if chosen.score is None:
        raise PruningError(f"method {chosen.name!r} does not rank weights, so scope 'global' has no meaning for it")
    ranked, least = [], 0
    for weight in weights:
        scores = pattern.units(chosen.score(weight.matrix.float(), _statistics(weight, config))).flatten()
        floor = max(1, round(GLOBAL_FLOOR * (1 - sparsity) * len(scores)))
        ranked.append(scores.masked_fill(highest(scores, floor), torch.inf))
        least += floor
    sizes = [len(scores) for scores in ranked]
    kept = sum(sizes) - round(sparsity * sum(sizes))
    if kept < least:
        raise PruningError(
            f"sparsity {sparsity:g} keeps {kept} units, fewer than the {least} that {len(weights)} matrices need"
        )
    masks = highest(torch.cat(ranked), kept).split(sizes)
    return [1 - int(mask.sum()) / len(mask) for mask in masks]


@contextmanager
def _naming(weight: PrunableWeight) -> Iterator[None]:
    """Puts the weight's name before what is said against it."""
    try:
        yield
    except PruningError as error:
        raise PruningError(f"layer {weight.name}: {error}") from error
