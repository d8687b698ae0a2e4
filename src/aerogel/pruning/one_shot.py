"""Prune a model in place, in one shot: from a configuration to masks and zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, expect
from aerogel.models import PrunableWeight, inner_model
from aerogel.pruning.allocation import Allocator
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import Block, block_lists, walk
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.config import SEARCHED, PruneConfig
from aerogel.pruning.fisher import output_gradients
from aerogel.pruning.kl import Reference
from aerogel.pruning.masking import block_statistics, dense_scores, masked_kl, plain_statistics
from aerogel.pruning.plan import PrunePlan
from aerogel.pruning.reconstruction import reconstruct
from aerogel.pruning.rounding import check_rounding, round_blocks

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
    plan = PrunePlan.of(model, config)
    if not config.needs_calibration and (source is None or config.values is None):
        return _prune_by_weight(plan)
    if source is None:
        raise PruningError(
            f"{config.needs_text_for} needs calibration text: give calibration=aerogel.calibration(SOURCE, tokenizer), "
            "where SOURCE is a task or a file, or calibration=[TEXT, ...]"
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


def _prune_by_weight(plan: PrunePlan) -> dict[str, Tensor]:
    def score(weight: PrunableWeight) -> Tensor:
        return plan.method.score(weight.matrix.float(), plain_statistics(weight, plan.config.seed))

    shares = Allocator(plan.weights, score, plan.pattern, plan.sparsity).shares(plan.allocation)
    pairs = list(zip(plan.weights, shares, strict=True))
    return {
        weight.name: plan.prune_alone(weight, share)
        for weight, share in progress.track(pairs, f"pruning ({plan.method.name})")
    }


def _prune_by_block(model: PreTrainedModel, plan: PrunePlan, batches: Sequence[Batch]) -> dict[str, Tensor]:
    gradients: dict[str, Tensor] = {}
    if plan.needs_gradients:
        gradients = output_gradients(model, plan.weights, batches, GRADIENT_TOKENS, plan.config.seed)
    shares = _shares(model, plan, batches, gradients)
    masks: dict[str, Tensor] = {}
    for block in walk(model, plan.weights, batches, plan.needs_hessian, f"pruning ({plan.method.name})"):
        masks |= prune_block(plan, block, shares, gradients)
    return {weight.name: masks[weight.name] for weight in plan.weights}


def prune_block(
    plan: PrunePlan, block: Block, shares: Mapping[str, float], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Prunes the weights of a block that `walk` yields, in place, and returns the masks by name, (d_out, d_in).

    `shares` are their sparsities, and `gradients` those at their outputs, by name.
    """
    masks: dict[str, Tensor] = {}
    dense = {weight.name: weight.matrix.clone() for weight in block.weights if plan.config.reconstruct}
    for weight in block.weights:
        statistics = block_statistics(block, weight, gradients, plan.config.seed)
        masks[weight.name] = plan.prune(weight, statistics, shares[weight.name])
    if plan.config.reconstruct:
        reconstruct(block, dense, masks, plan.config.reconstruct)
    return masks


def _shares(
    model: PreTrainedModel, plan: PrunePlan, batches: Sequence[Batch], gradients: Mapping[str, Tensor]
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
