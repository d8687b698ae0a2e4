"""Pruning a model in place: from a configuration to masks and zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import (
    TRANSFORMERS_MODEL,
    ModelError,
    PruningError,
    expect,
)
from aerogel.models import PrunableWeight, on_cpu, prunable_weights
from aerogel.pruning.allocation import Allocator
from aerogel.pruning.blocks import block_lists, walk
from aerogel.pruning.calibration import Batch, Calibration
from aerogel.pruning.choices import Allocation
from aerogel.pruning.config import SEARCHED, PruneConfig
from aerogel.pruning.kl import Reference, output_gradients
from aerogel.pruning.masking import dense_scores, masked_kl, plain_statistics
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, one_shot_method
from aerogel.pruning.reconstruction import reconstruct
from aerogel.pruning.swap import swap

GRADIENT_TOKENS = 4096  # of the calibration text, for the gradients at the outputs
JUDGED_TOKENS = 2048  # and for the divergence that a search of sparsities goes by


def prune(
    model: nn.Module, config: PruneConfig | None = None, calibration: Calibration | None = None, **settings: Any
) -> dict[str, Tensor]:
    """Prunes a model in place and returns the masks by weight name, (d_out, d_in), True where kept.

    Takes a `PruneConfig`, its fields as keywords, or both: `prune(model, method="magnitude", sparsity=0.9)`. Methods
    that look at data need `calibration` text, and a model of transformers; they go block by block, each on what the
    pruned blocks before it give. The configuration is checked before the first weight changes. Raises
    `PruningError`, `ModelError` or `DataError`.
    """
    if config is not None:
        expect(config, PruneConfig, PruningError, "a PruneConfig, or its fields as keywords (sparsity=0.9)")
    if calibration is not None:
        expect(calibration, Calibration, PruningError, "calibration text (aerogel.calibration gives it)")
    config = replace(config or PruneConfig(), **settings)
    chosen = one_shot_method(config.method)
    pattern = Pattern.parse(config.pattern)
    sparsity = pattern.settle(config.sparsity)
    weights = prunable_weights(model, config.targets, config.exclude)
    for weight in weights:
        with error_context(weight):
            pattern.check(weight.matrix.shape, sparsity)
            if not torch.isfinite(weight.matrix).all():
                raise PruningError("its weights are not all finite numbers")
    scope, allocation = _settled(config, chosen, pattern)
    if scope == "row":
        pattern = pattern.within_rows()
    if not config.needs_calibration:
        allocator = Allocator(
            weights,
            lambda weight: chosen.score(weight.matrix.float(), plain_statistics(weight, config.seed)),
            pattern,
            sparsity,
        )
        return _prune_plainly(weights, allocator.shares(allocation), chosen, pattern, config)
    if calibration is None:
        raise PruningError(
            f"method {chosen.name} with allocation {allocation}{', swap' if config.swap else ''}"
            f"{', reconstruction' if config.reconstruct else ''} needs calibration text: a task or file"
        )
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"calibration needs {TRANSFORMERS_MODEL}, found {type(model).__name__}")
    block_lists(model, weights)  # has to find them all, and says so before anything is computed
    if config.reconstruct:
        _check_trainable(weights)
    with on_cpu(model) as home:  # where the methods do their algebra
        batches = calibration.batches(model)
        gradients = {}
        if chosen.needs == "gradients" and not pattern.group:
            gradients = output_gradients(model, weights, batches, GRADIENT_TOKENS, config.seed)
        job = _Job(model, weights, batches, gradients, chosen, pattern, sparsity, config)
        masks = _prune_by_block(job, _allocate(job, allocation))
    return {name: mask.to(home) for name, mask in masks.items()}


def _check_trainable(weights: Sequence[PrunableWeight]) -> None:
    for weight in weights:
        if weight.matrix.dtype not in (torch.float32, torch.float64):
            raise PruningError(
                f"layer {weight.name} is in {str(weight.matrix.dtype).removeprefix('torch.')}, too coarse for "
                "the steps of reconstruction: make it model.float() first"
            )


@dataclass(frozen=True)
class _Job:
    """A calibrated pruning with everything settled but the sparsity of each matrix."""

    model: PreTrainedModel
    weights: Sequence[PrunableWeight]
    batches: Sequence[Batch]
    gradients: Mapping[str, Tensor]
    chosen: PruningMethod
    pattern: Pattern
    sparsity: float
    config: PruneConfig


def _settled(
    config: PruneConfig, chosen: PruningMethod, pattern: Pattern
) -> tuple[Literal["layer", "row"], Allocation]:
    """The scope and the allocation: what is asked for, else the method's own, else what the pattern allows."""
    if config.scope == "global":
        return "layer", "uniform" if pattern.fixed_sparsity is not None else "global"
    own = "uniform" if pattern.fixed_sparsity is not None else chosen.allocation
    return config.scope or chosen.scope, config.allocation or own


def _prune_plainly(
    weights: Sequence[PrunableWeight],
    shares: Sequence[float],
    chosen: PruningMethod,
    pattern: Pattern,
    config: PruneConfig,
) -> dict[str, Tensor]:
    masks = {}
    for weight, share in progress.track(list(zip(weights, shares, strict=True)), f"pruning ({chosen.name})"):
        with error_context(weight), torch.no_grad():
            before = weight.matrix.float()
            mask, values = chosen.prune(before, plain_statistics(weight, config.seed), pattern, share)
            _put(weight, mask, None if values is before else values)
        masks[weight.name] = mask
    return masks


def _prune_by_block(job: _Job, shares: Mapping[str, float]) -> dict[str, Tensor]:
    chosen, config = job.chosen, job.config
    masks = {}
    hessian = chosen.needs in ("hessian", "gradients") or config.swap
    for block in walk(job.model, job.weights, job.batches, hessian, f"pruning ({chosen.name})"):
        dense = {weight.name: weight.matrix.clone() for weight in block.weights}
        for weight in block.weights:
            moments, before = block.moments[weight.name], dense[weight.name].float()
            statistics = replace(
                plain_statistics(weight, config.seed),
                norms=moments.norms,
                hessian=moments.hessian,
                gradients=job.gradients.get(weight.name),
            )
            with error_context(weight), torch.no_grad():
                mask, values = chosen.prune(before, statistics, job.pattern, shares[weight.name])
                if config.swap:
                    mask, values = swap(before, values, mask, statistics.input_hessian(), job.pattern)
                _put(weight, mask, None if values is before else values)
            masks[weight.name] = mask
        if config.reconstruct:
            reconstruct(block, dense, masks, config.reconstruct)
    return {weight.name: masks[weight.name] for weight in job.weights}


def _put(weight: PrunableWeight, mask: Tensor, values: Tensor | None) -> None:
    """Zeros where the mask is False, and new values for the other weights where the method has them.

    Weights that stay as they are are not written: in float64 they have more digits than the method was given.
    """
    if values is not None:
        weight.matrix.copy_(values)
    weight.matrix.masked_fill_(~mask, 0)


def _allocate(job: _Job, allocation: Allocation) -> dict[str, float]:
    """The sparsity of each matrix by name, from the scores of the dense weights on a part of the calibration text."""
    names = [weight.name for weight in job.weights]
    if allocation == "uniform":
        return dict.fromkeys(names, job.sparsity)
    score = dense_scores(job.model, job.weights, job.batches, job.gradients, job.chosen, job.config.seed)
    judge = None
    if allocation in SEARCHED:
        reference = Reference(job.model, job.batches, JUDGED_TOKENS)

        def judge(shares: list[float]) -> float:
            by_name = dict(zip(names, shares, strict=True))
            return masked_kl(job.model, by_name, job.weights, score, job.pattern, reference)

    shares = Allocator(job.weights, score, job.pattern, job.sparsity, judge).shares(allocation)
    return dict(zip(names, shares, strict=True))


@contextmanager
def error_context(weight: PrunableWeight) -> Iterator[None]:
    """Puts the weight's name before what is said against it."""
    try:
        yield
    except PruningError as error:
        raise PruningError(f"layer {weight.name}: {error}") from error
