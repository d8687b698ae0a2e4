"""How small or fast a model has to be after its structures are removed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real

from aerogel.bounds import check_seed
from aerogel.errors import PruningError, check_sparsity, expect


@dataclass(frozen=True)
class StructureConfig:
    """The target of structured pruning: exactly one of the first four.

    Attributes:
        speedup: how many times faster a forward pass is than before, by measurement, above 1.
        parameters: the most that the model has.
        size: the most bytes that its checkpoint has.
        sparsity: the share of the parameters of all heads and neurons that is removed, in [0, 1).
        uniform: whether all sub-layers of a kind keep the same number of structures, so that the model's ordinary
            configuration describes it.
        seed: for the draws of the gradients and the search.

    Raises `PruningError` for a number out of range, and unless there is exactly one target.

    >>> StructureConfig(speedup=2.0).target
    'speedup'
    """

    speedup: float | None = None
    parameters: int | None = None
    size: int | None = None
    sparsity: float | None = None
    uniform: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)[:4]]
        chosen = [name for name in names if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise PruningError(
                f"expected exactly one target of {', '.join(names)}, found {' and '.join(chosen) or 'none'}"
            )
        check_seed(self.seed, PruningError)
        if self.sparsity is not None:
            check_sparsity(self.sparsity, PruningError)
        elif self.speedup is not None:
            expect(self.speedup, Real, PruningError, "a speedup, a number above 1")
            if not 1 < self.speedup < float("inf"):
                raise PruningError(f"speedup {self.speedup:g}: expected a number above 1, such as 2 for twice as fast")
        else:
            number = getattr(self, self.target)
            expect(number, int, PruningError, f"{self.target}, a whole number")
            if number < 1:
                raise PruningError(f"{self.target} {number}: expected at least 1")

    @property
    def target(self) -> str:
        """The name of the target that is given."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)
