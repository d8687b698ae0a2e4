"""How a model was made small. Results are grouped by it, and by model, task and sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from aerogel.runtime.values import ValueChoice

VALUES: dict[str, ValueChoice | None] = {"float32": None, **{name: name for name in get_args(ValueChoice)}}
"""The value types of a study: float32, or what `aerogel.compress` rounds packed values to."""


@dataclass(frozen=True)
class Variant:
    """One way to make a model small.

    Attributes:
        method: the pruning method; `None` without pruned weights, and for a model that was pruned while it trained.
        recovery: `None` in a study without recoveries.
        values: the type to which values were rounded; `None` for float32.
        structure: the target of structured pruning; `None` for a model with all its heads and neurons.
        pattern: of the zeros; `None` for unstructured ones.
    """

    method: str | None = None
    recovery: str | None = None
    values: ValueChoice | None = None
    structure: str | None = None
    pattern: str | None = None

    @property
    def dense(self) -> Variant:
        """That of the dense model with the same training, in float32."""
        return Variant(None, self.recovery)

    @property
    def fine_tuned(self) -> Variant:
        """That of the fine-tuned dense model, for variants without a dense model with the same training."""
        return Variant(None, self.recovery and "none")

    @property
    def unpruned(self) -> Variant:
        """The same at sparsity 0."""
        return replace(self, method=None, pattern=None)

    @property
    def unrounded(self) -> Variant:
        """The same in float32."""
        return replace(self, values=None)
