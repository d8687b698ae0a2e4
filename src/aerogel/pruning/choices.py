"""The names to choose from, listed without importing torch."""

from typing import Literal, get_args

from aerogel import registry
from aerogel.errors import PruningError, unknown_name

Scope = Literal["layer", "row", "global"]
Allocation = Literal["uniform", "global", "mixed", "owl", "progression", "search"]
RoundedValues = Literal["int8"]  # types of packed values that pruning on text and training can round to

UNSTRUCTURED = "unstructured"  # the pattern of zeros anywhere
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
ROUNDED_VALUES: tuple[RoundedValues, ...] = get_args(RoundedValues)
METHODS = tuple(registry.names("aerogel.pruning.methods"))  # methods of one-shot pruning
SCORES = tuple(sorted([*METHODS, *registry.names("aerogel.pruning.scores")]))  # methods of pruning during training


def check_one_shot(name: str) -> str:
    """The name, if it is among `METHODS`. Raises `PruningError` for any other."""
    if name in METHODS:
        return name
    if name in SCORES:
        raise PruningError(f"method {name} needs gradients of training: use aerogel finetune --score {name}")
    raise PruningError(unknown_name("method", name, METHODS))
