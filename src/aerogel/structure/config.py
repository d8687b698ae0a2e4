"""How small or fast a model has to be after its structures are removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from aerogel.bounds import check_seed
from aerogel.errors import PruningError, check_sparsity, excerpt, expect, read_sparsity, unknown_name


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

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> StructureConfig:
        """A target as the options of `aerogel prune --structure` have it, without their dashes.

        Raises `PruningError`.

        >>> StructureConfig.parse("speedup=4,uniform").uniform
        True
        >>> [str(StructureConfig.parse(text)) for text in ("sparsity=0.50", "parameters=20e6", "size=40MB")]
        ['sparsity=0.5', 'parameters=20e6', 'size=40MB']
        """
        target, *rest = text.replace(" ", "").split(",")
        name, _, value = target.partition("=")
        if name not in _READ:
            raise PruningError(f"structure {excerpt(text)}: {unknown_name('target', name, _READ)}")
        if rest not in ([], ["uniform"]):
            found = excerpt(",".join(rest))
            raise PruningError(
                f"structure {excerpt(text)}: expected nothing or uniform after the target, found {found}"
            )
        try:
            number = _READ[name](value)
        except (ValueError, OverflowError) as error:
            raise PruningError(f"structure {excerpt(text)}: {value!r} is not a number") from error
        return cls(**{name: number}, uniform=bool(rest), seed=seed)

    def __str__(self) -> str:
        """The text that `parse` reads, without the seed."""
        value = getattr(self, self.target)
        if self.target == "size":
            text = _in_bytes(value)
        elif self.target == "parameters" and value % 10**6 == 0:
            text = f"{value // 10**6}e6"
        else:
            text = repr(value).removesuffix(".0")
        return f"{self.target}={text}" + (",uniform" if self.uniform else "")


UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def read_bytes(text: str) -> int:
    """A size such as 40MB, in bytes. Raises `ValueError`.

    >>> read_bytes("1.5kB"), read_bytes("2e3")
    (1500, 2000)
    """
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    return round(float(text.removesuffix(unit)) * UNITS.get(unit, 1))


def _in_bytes(size: int) -> str:
    unit = next(unit for unit, count in UNITS.items() if size % count == 0)
    return f"{size // UNITS[unit]}{unit}"


_READ: dict[str, Callable[[str], Any]] = {
    "speedup": float,
    "parameters": lambda text: int(float(text)),
    "size": read_bytes,
    "sparsity": lambda text: read_sparsity(text, PruningError),
}
