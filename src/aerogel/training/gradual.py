"""What to prune while a model trains, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from aerogel.errors import PruningError, expect, unknown_name
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.models.prunable import error_context
from aerogel.pruning import Pattern, PruneConfig, method
from aerogel.training.schedule import PRUNINGS, SCHEDULES, Schedule, ScheduleName

# Optimizer steps for each pruning with calibration text. Such a pruning takes as long as several steps, and with few
# steps between them one gives as good a model as five: docs/design/recovery.md.
APART = 32


@dataclass(frozen=True)
class GradualPruning:
    """Pruning while a model trains.

    Attributes:
        pruning: what to prune, by which method, and the sparsity at the end. A configuration that needs calibration
            text (method "best", swaps, a searched allocation, ...) prunes the whole model again at each step, and may
            bring weights back. Any other ranks the weights that are left, and what it prunes stays pruned; without a
            scope and an allocation it ranks the weights of all matrices together, as scope "global".
        schedule: "gradual" in five steps or "constant" in one, see `aerogel.training.schedule`. In fewer than 160
            optimizer steps a calibrated configuration prunes less often than five times, once for each 32 steps.

    Raises `PruningError` for an unknown schedule, a missing sparsity, a sparsity or allocation that contradicts the
    pattern, and for swaps, reconstruction or a searched allocation with a method that ranks by gradients.

    >>> GradualPruning(PruneConfig("movement", 0.9)).resolved().allocation
    'global'
    """

    pruning: PruneConfig
    schedule: ScheduleName = "gradual"

    def __post_init__(self) -> None:
        expect(self.pruning, PruneConfig, PruningError, "a PruneConfig")
        if self.schedule not in SCHEDULES:
            raise PruningError(unknown_name("schedule", self.schedule, SCHEDULES))
        pattern, allocation = Pattern.parse(self.pruning.pattern), self.resolved().allocation
        if pattern.group and allocation != "uniform":
            raise PruningError(
                f"pattern {pattern} fixes the sparsity of every matrix: use allocation uniform, not {allocation}"
            )
        if self.pruning.values:
            raise PruningError(
                f"values {self.pruning.values} of a PruneConfig are for pruning in one shot: use values of finetune"
            )
        if method(self.pruning.method).needs == "training" and self.pruning.needs_calibration:
            raise PruningError(
                f"method {self.pruning.method} ranks by gradients: use no swap, reconstruct or allocation {allocation}"
            )

    @classmethod
    def of(
        cls,
        config: GradualPruning | None = None,
        *,
        schedule: ScheduleName | None = None,
        score: str | None = None,
        **settings: Any,
    ) -> GradualPruning:
        """From keywords: fields of `PruneConfig`, with `score` for its method, and `schedule`.

        They change `config`, or else the defaults of `PruneConfig("best")`.
        """
        if score is not None:
            settings["method"] = score
        pruning = replace(config.pruning if config else PruneConfig("best"), **settings)
        return cls(pruning, schedule or (config.schedule if config else "gradual"))

    def resolved(self) -> PruneConfig:
        """`pruning` with its defaults filled in."""
        pruning = self.pruning
        if not pruning.needs_calibration and pruning.scope is None and pruning.allocation is None:
            pruning = replace(pruning, scope="global")
        return pruning.resolved()

    @property
    def sparsity(self) -> float:
        """The sparsity at the end."""
        return Pattern.parse(self.pruning.pattern).settle(self.pruning.sparsity)

    @property
    def pattern(self) -> Pattern:
        pattern = Pattern.parse(self.pruning.pattern)
        return pattern.within_rows() if self.resolved().scope == "row" else pattern

    def schedule_for(self, steps: int) -> Schedule:
        """The schedule over a training of `steps` optimizer steps. Raises `PruningError` for too few steps."""
        calibrated = self.pruning.needs_calibration
        # a calibrated method has no mask on the way to N:M groups
        if self.schedule == "constant" or (calibrated and self.pattern.group):
            return Schedule(steps, self.sparsity, 1)
        return Schedule(steps, self.sparsity, min(PRUNINGS, max(1, steps // APART)) if calibrated else PRUNINGS)

    def weights(self, model: nn.Module) -> list[PrunableWeight]:
        """The weights to prune. Raises `PruningError` or `ModelError` where pattern or names do not fit the model."""
        weights = prunable_weights(model, self.pruning.targets, self.pruning.exclude)
        for weight in weights:
            with error_context(weight):
                self.pattern.check(weight.matrix.shape, self.sparsity)
        return weights
