"""A configuration with the method's defaults, for the weights of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aerogel.errors import PruningError
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.models.prunable import error_context
from aerogel.pruning.choices import Allocation
from aerogel.pruning.config import PruneConfig
from aerogel.pruning.masking import plain_statistics
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics, one_shot_method
from aerogel.pruning.swap import swap


@dataclass(frozen=True)
class PrunePlan:
    """What `PruneConfig` says about the `weights` of one model."""

    config: PruneConfig
    method: PruningMethod
    weights: Sequence[PrunableWeight]
    pattern: Pattern
    sparsity: float
    allocation: Allocation

    @classmethod
    def of(cls, model: nn.Module, config: PruneConfig, *, on_meta: bool = False) -> PrunePlan:
        """Raises `PruningError` or `ModelError` where the configuration does not fit the model.

        Values are checked here unless the weights are `on_meta`, and else by `check_values` when they are loaded.
        """
        method = one_shot_method(config.method)
        config = config.resolved()
        assert config.sparsity is not None
        assert config.allocation is not None
        pattern = Pattern.parse(config.pattern)
        weights = prunable_weights(model, config.targets, config.exclude, on_meta=on_meta)
        for weight in weights:
            with error_context(weight):
                pattern.check(weight.matrix.shape, config.sparsity)
                if config.reconstruct and weight.matrix.dtype not in (torch.float32, torch.float64):
                    dtype = str(weight.matrix.dtype).removeprefix("torch.")
                    raise PruningError(f"reconstruction needs float32, found {dtype}: call model.float() first")
        if not on_meta:
            check_values(weights)
        if config.scope == "row":
            pattern = pattern.within_rows()
        return cls(config, method, weights, pattern, config.sparsity, config.allocation)

    @property
    def needs_hessian(self) -> bool:
        return self.method.needs in ("hessian", "gradients") or self.config.swap

    @property
    def needs_gradients(self) -> bool:
        return self.method.needs == "gradients" and not self.pattern.group

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

    def prune_alone(self, weight: PrunableWeight, sparsity: float) -> Tensor:
        """Prunes one matrix in place by its values alone and returns its mask, (d_out, d_in)."""
        return self.prune(weight, plain_statistics(weight, self.config.seed), sparsity)


def check_values(weights: Sequence[PrunableWeight]) -> None:
    """Raises `PruningError` for infinite and NaN weights."""
    for weight in weights:
        with error_context(weight):
            if not torch.isfinite(weight.matrix).all():
                raise PruningError("its weights are not all finite")
