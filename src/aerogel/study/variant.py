"""How a model was made small: what results are grouped by, beside the model, the task and the sparsity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """The method that pruned the model, and the recovery, where the study has recoveries.

    `method` is `None` for the dense model, and for one that was pruned while it trained.
    """

    method: str | None = None
    recovery: str | None = None

    @property
    def dense(self) -> Variant:
        """That of the dense model with the same training."""
        return Variant(None, self.recovery)
