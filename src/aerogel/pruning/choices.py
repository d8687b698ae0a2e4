"""The names to choose from, listed without importing torch."""

from typing import Literal, get_args

from aerogel import registry
from aerogel.errors import PruningError, unknown_name

Scope = Literal["layer", "row", "global"]
"""Which weights compete: those of a matrix, of an output row, or all."""
Allocation = Literal["uniform", "global", "mixed", "owl", "progression", "search"]
"""How the sparsity is distributed over the matrices."""
RoundedValues = Literal["int8"]
"""The types of packed values that pruning on text and training can round to."""

UNSTRUCTURED = "unstructured"
"""The pattern of zeros anywhere."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""All values of `Scope`."""
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
"""All values of `Allocation`."""
ROUNDED_VALUES: tuple[RoundedValues, ...] = get_args(RoundedValues)
"""All values of `RoundedValues`."""
METHODS = tuple(registry.names("aerogel.pruning.methods"))
"""The names of the methods of one-shot pruning."""
SCORES = tuple(sorted([*METHODS, *registry.names("aerogel.pruning.scores")]))
"""The names of the methods of pruning during training."""


def check_one_shot(name: str) -> str:
    """The name, if it is among `METHODS`. Raises `PruningError` for any other."""
    if name in METHODS:
        return name
    if name in SCORES:
        raise PruningError(f"method {name} needs gradients of training: use aerogel finetune --score {name}")
    raise PruningError(unknown_name("method", name, METHODS))
