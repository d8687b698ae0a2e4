"""What is asked of a model that becomes sparse while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from aerogel.errors import PruningError, check_sparsity, unknown_name
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.pruning import Pattern, all_methods, method
from aerogel.pruning.one_shot import error_context
from aerogel.training.schedule import PRUNINGS, SCHEDULES, Schedule


@dataclass(frozen=True)
class SparsityConfig:
    """How sparse a model becomes while it trains.

    Attributes:
        sparsity: share of zeros among the targeted weights at the end, in [0, 1); an N:M pattern fixes it by itself.
        schedule: "gradual" or "constant", see `aerogel.training.schedule`.
        score: which weights go first: "magnitude", "movement", "platon", "obs", or a pruning method that looks at
            text, such as "best", which prunes the model anew each time by its own scope, and may bring weights back.
        pattern: "unstructured", "N:M" or "block:RxC".
        scope: whether the weights of all matrices compete ("global") or those of each matrix ("layer"). A pruning
            method that looks at text has its own way to share a global sparsity out.
        targets: kinds of weights, see `aerogel.models.prunable_weights`.
        exclude: shell patterns on names of weights to leave dense.

    Raises `PruningError` for a name that there is not, and a sparsity outside [0, 1) or against the pattern.
    """

    sparsity: float | None = None
    schedule: Literal["constant", "gradual"] = "gradual"
    score: str = "best"
    pattern: str = "unstructured"
    scope: Literal["layer", "global"] = "global"
    targets: tuple[str, ...] = ("blocks",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sparsity is not None:
            check_sparsity(self.sparsity, PruningError)
        for what, found, known in (
            ("score", self.score, all_methods()),
            ("schedule", self.schedule, SCHEDULES),
            ("scope", self.scope, ("layer", "global")),
        ):
            if found not in known:
                raise PruningError(unknown_name(what, found, known))
        Pattern.parse(self.pattern).settle(self.sparsity)

    @property
    def final(self) -> float:
        """The sparsity at the end."""
        return Pattern.parse(self.pattern).settle(self.sparsity)

    @property
    def calibrates(self) -> bool:
        """Whether a pruning method that looks at text chooses the weights."""
        return method(self.score).looks_at_text

    def course(self, steps: int) -> Schedule:
        """The schedule over so many optimizer steps. Raises `PruningError` where they are too few."""
        at_once = self.schedule == "constant" or (self.calibrates and Pattern.parse(self.pattern).group)
        return Schedule(steps, self.final, 1 if at_once else PRUNINGS)

    def weights(self, model: nn.Module) -> list[PrunableWeight]:
        """The weights to prune. Raises `PruningError` or `ModelError` where the pattern or the names don't fit them."""
        weights = prunable_weights(model, self.targets, self.exclude)
        for weight in weights:
            with error_context(weight):
                Pattern.parse(self.pattern).check(weight.matrix.shape, self.final)
        return weights
