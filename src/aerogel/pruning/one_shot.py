"""Prune a model in place, in one shot: from a configuration to masks and zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, expect
from aerogel.models import PrunableWeight, inner_model, prunable_weights
from aerogel.models.prunable import error_context
from aerogel.pruning.allocation import Allocator
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import block_lists, walk
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.choices import Allocation
from aerogel.pruning.config import SEARCHED, PruneConfig
from aerogel.pruning.fisher import output_gradients
from aerogel.pruning.kl import Reference
from aerogel.pruning.masking import block_statistics, dense_scores, masked_kl, plain_statistics
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics, one_shot_method
from aerogel.pruning.reconstruction import reconstruct
from aerogel.pruning.rounding import check_rounding, round_blocks
from aerogel.pruning.swap import swap

GRADIENT_TOKENS = 4096  # of the calibration text, for the gradients at the outputs
KL_TOKENS = 2048  # of the calibration text, for the KL divergence of candidate allocations


def prune(
    model: nn.Module, config: PruneConfig | None = None, calibration: CalibrationSource | None = None, **settings: Any
) -> dict[str, Tensor]:
    """Prunes a model in place and returns the masks by weight name, (d_out, d_in), True where kept.

    Takes a `PruneConfig`, its fields as keywords, or both. Methods that look at text need a transformers model and
    `calibration`, which may also be a list of texts if the model was loaded with its tokenizer; they prune block by
    block, each on the outputs of the pruned blocks before it. With `values` and calibration text the weights are
    rounded afterwards, and stay floats. The configuration is checked before the first weight changes. A
    `SentenceTransformer` or `CrossEncoder` is pruned as the transformers model in it. The computation runs on the
    model's device, and the masks are there; random draws are made on the CPU, so that the same seed gives the same
    result on a GPU, up to rounding. Raises `PruningError`, `ModelError` or `DataError`.

    >>> from aerogel import load
    >>> model, tokenizer = load("tiny-gpt2")
    >>> masks = prune(model, method="magnitude", sparsity=0.9)
    >>> round(float(masks["transformer.h.0.mlp.c_fc"].float().mean()), 2)
    0.1
    """
    if config is not None:
        expect(config, PruneConfig, PruningError, "a PruneConfig, or its fields as keywords (sparsity=0.9)")
    config, model = replace(config or PruneConfig(), **settings), inner_model(model)
    source = None if calibration is None else as_calibration(calibration, model)
    plan = _Plan.of(model, config)
    if not config.needs_calibration and (source is None or config.values is None):
        return _prune_by_weight(plan)
    if source is None:
        raise PruningError(
            f"method {config.method} with allocation {plan.allocation}{', swap' if config.swap else ''}"
            f"{', reconstruction' if config.reconstruct else ''} needs calibration text: a task or file"
        )
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"calibration needs {TRANSFORMERS_MODEL}, found {type(model).__name__}")
    if config.needs_calibration:
        block_lists(model, plan.weights)  # raises for weights outside them, before anything is computed
    if config.values:
        check_rounding(model)
    batches = source.batches(model)
    masks = _prune_by_block(model, plan, batches) if config.needs_calibration else _prune_by_weight(plan)
    if config.values:
        round_blocks(model, batches)
    return masks


@dataclass(frozen=True)
class _Plan:
    """A configuration with the method's defaults, for the weights of one model."""

    config: PruneConfig
    method: PruningMethod
    weights: Sequence[PrunableWeight]
    pattern: Pattern
    sparsity: float
    allocation: Allocation

    @classmethod
    def of(cls, model: nn.Module, config: PruneConfig) -> _Plan:
        """Raises `PruningError` or `ModelError` where the configuration does not fit the model."""
        method = one_shot_method(config.method)
        config = config.resolved()
        assert config.sparsity is not None
        assert config.allocation is not None
        pattern = Pattern.parse(config.pattern)
        weights = prunable_weights(model, config.targets, config.exclude)
        for weight in weights:
            with error_context(weight):
                pattern.check(weight.matrix.shape, config.sparsity)
                if not torch.isfinite(weight.matrix).all():
                    raise PruningError("its weights are not all finite")
                if config.reconstruct and weight.matrix.dtype not in (torch.float32, torch.float64):
                    dtype = str(weight.matrix.dtype).removeprefix("torch.")
                    raise PruningError(f"reconstruction needs float32, found {dtype}: call model.float() first")
        if config.scope == "row":
            pattern = pattern.within_rows()
        return cls(config, method, weights, pattern, config.sparsity, config.allocation)

    def prune(self, weight: PrunableWeight, statistics: Statistics, sparsity: float) -> Tensor:
        """Prunes one matrix in place and returns its mask, (d_out, d_in)."""
        with error_context(weight), torch.no_grad():
            before = weight.matrix.float()
            mask, values = self.method.prune(before, statistics, self.pattern, sparsity)
            if self.config.swap:
                mask, values = swap(before, values, mask, statistics.input_hessian(), self.pattern)
            if values is not before:  # else float64 weights keep all their digits
                weight.matrix.copy_(values)
            weight.matrix.masked_fill_(~mask, 0)
        return mask


def _prune_by_weight(plan: _Plan) -> dict[str, Tensor]:
    def statistics(weight: PrunableWeight) -> Statistics:
        return plain_statistics(weight, plan.config.seed)

    def score(weight: PrunableWeight) -> Tensor:
        return plan.method.score(weight.matrix.float(), statistics(weight))

    shares = Allocator(plan.weights, score, plan.pattern, plan.sparsity).shares(plan.allocation)
    pairs = list(zip(plan.weights, shares, strict=True))
    return {
        weight.name: plan.prune(weight, statistics(weight), share)
        for weight, share in progress.track(pairs, f"pruning ({plan.method.name})")
    }


def _prune_by_block(model: PreTrainedModel, plan: _Plan, batches: Sequence[Batch]) -> dict[str, Tensor]:
    config, needs = plan.config, plan.method.needs
    gradients: dict[str, Tensor] = {}
    if needs == "gradients" and not plan.pattern.group:
        gradients = output_gradients(model, plan.weights, batches, GRADIENT_TOKENS, config.seed)
    shares = _shares(model, plan, batches, gradients)
    masks: dict[str, Tensor] = {}
    hessian = needs in ("hessian", "gradients") or config.swap
    for block in walk(model, plan.weights, batches, hessian, f"pruning ({plan.method.name})"):
        dense = {weight.name: weight.matrix.clone() for weight in block.weights}
        for weight in block.weights:
            statistics = block_statistics(block, weight, gradients, config.seed)
            masks[weight.name] = plan.prune(weight, statistics, shares[weight.name])
        if config.reconstruct:
            reconstruct(block, dense, masks, config.reconstruct)
    return {weight.name: masks[weight.name] for weight in plan.weights}


def _shares(
    model: PreTrainedModel, plan: _Plan, batches: Sequence[Batch], gradients: Mapping[str, Tensor]
) -> dict[str, float]:
    """The sparsity of each matrix by name, from the scores of the dense weights on a part of the calibration text."""
    names = [weight.name for weight in plan.weights]
    if plan.allocation == "uniform":
        return dict.fromkeys(names, plan.sparsity)
    score = dense_scores(model, plan.weights, batches, gradients, plan.method, plan.config.seed)
    kl = None
    if plan.allocation in SEARCHED:
        reference = Reference(model, batches, KL_TOKENS)

        def kl(shares: list[float]) -> float:
            by_name = dict(zip(names, shares, strict=True))
            return masked_kl(model, by_name, plan.weights, score, plan.pattern, reference)

    shares = Allocator(plan.weights, score, plan.pattern, plan.sparsity, kl).shares(plan.allocation)
    return dict(zip(names, shares, strict=True))
