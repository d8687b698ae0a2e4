"""How a model was made small: what results are grouped by, beside the model, the task and the sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from aerogel.runtime.values import ValueChoice

VALUES: dict[str, ValueChoice | None] = {"float32": None, **{name: name for name in get_args(ValueChoice)}}
"""The value types of a study: float32, or what `aerogel.compress` rounds packed values to."""


@dataclass(frozen=True)
class Variant:
    """The method that pruned the model, the recovery, where the study has recoveries, the type of rounded values, the
    target to which structures were removed, and the pattern of the zeros.

    `method` is `None` for a model without pruned weights, and for one that was pruned while it trained; `values` is
    `None` for float32, `structure` for a model with all its heads and neurons, and `pattern` for zeros anywhere.
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
