"""The one way to say what to prune."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aerogel.bounds import check_seed
from aerogel.errors import PruningError, check_sparsity, unknown_name
from aerogel.pruning.choices import ALLOCATIONS, ROUNDED_VALUES, SCOPES, Allocation, RoundedValues, Scope
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import method

SEARCHED = ("progression", "search")  # allocations that compare candidates by the KL divergence they cause


@dataclass(frozen=True)
class PruneConfig:
    """What to prune, by which method, and how much.

    Attributes:
        method: a name from `aerogel.pruning.METHODS`, or during training from `SCORES`.
        sparsity: share of zeros among the targeted weights, in [0, 1); an N:M pattern fixes it.
        pattern: "unstructured", "N:M" or "block:RxC".
        scope: which weights compete: those of one matrix ("layer"), of one output row ("row"), or all ("global",
            which is scope "layer" with allocation "global"). `None` is the method's own.
        targets: kinds of weights, see `aerogel.models.prunable_weights`.
        exclude: shell patterns on names of weights to leave dense.
        seed: for methods that draw at random.
        allocation: how the sparsity is distributed over the matrices. `None` is the method's own.
        swap: refine each mask by swaps, see `aerogel.pruning.swap`.
        reconstruct: epochs of training each sub-module towards its dense outputs, see `aerogel.pruning.reconstruction`.
        values: "int8" also rounds all linear weights of the blocks, if there is calibration text: see
            `aerogel.pruning.rounding`. Without text `aerogel.compress` rounds them to nearest.

    Raises `PruningError` for an unknown method, pattern, scope, allocation or type of values, scope "global" with
    another allocation, a sparsity outside [0, 1), a seed outside 0 to 2³² − 1, and epochs below 0.

    >>> PruneConfig(sparsity=0.9, scope="global").needs_calibration
    False
    """

    method: str = "magnitude"
    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: Scope | None = None
    targets: tuple[str, ...] = ("blocks",)
    exclude: tuple[str, ...] = ()
    seed: int = 0
    allocation: Allocation | None = None
    swap: bool = False
    reconstruct: int = 0
    values: RoundedValues | None = None

    def __post_init__(self) -> None:
        method(self.method)
        Pattern.parse(self.pattern)
        check_seed(self.seed, PruningError)
        if self.sparsity is not None:
            check_sparsity(self.sparsity, PruningError)
        if self.scope not in (None, *SCOPES):
            raise PruningError(unknown_name("scope", self.scope, SCOPES))
        if self.allocation not in (None, *ALLOCATIONS):
            raise PruningError(unknown_name("allocation", self.allocation, ALLOCATIONS))
        if self.scope == "global" and self.allocation not in (None, "global"):
            raise PruningError(f"scope global is allocation global, which contradicts allocation {self.allocation}")
        if self.values not in (None, *ROUNDED_VALUES):
            raise PruningError(unknown_name("values", self.values, ROUNDED_VALUES))
        if self.reconstruct < 0:
            raise PruningError(f"{self.reconstruct} epochs of reconstruction: expected 0 or more")

    @property
    def needs_calibration(self) -> bool:
        return self.needs_text_for is not None

    @property
    def needs_text_for(self) -> str | None:
        """The setting that needs calibration text, for messages; `None` if none does."""
        chosen = method(self.method)
        if chosen.looks_at_text:
            return f"method {self.method}"
        if (self.allocation or chosen.allocation) in SEARCHED:
            return f"allocation {self.allocation or chosen.allocation}"
        return "swap" if self.swap else "reconstruct" if self.reconstruct else None

    def resolved(self) -> PruneConfig:
        """This configuration with the method's defaults: a sparsity, scope "layer" or "row", and an allocation.

        Raises `PruningError` where the pattern contradicts the sparsity, or needs one that is missing.

        >>> config = PruneConfig("wanda", 0.9).resolved()
        >>> config.scope, config.allocation
        ('row', 'uniform')
        """
        pattern, defaults = Pattern.parse(self.pattern), method(self.method)
        scope: Scope = self.scope or defaults.scope
        allocation: Allocation = self.allocation or defaults.allocation
        if scope == "global":
            scope, allocation = "layer", "global"
        if pattern.fixed_sparsity is not None and (self.scope == "global" or self.allocation is None):
            allocation = "uniform"
        return replace(self, sparsity=pattern.settle(self.sparsity), scope=scope, allocation=allocation)
