"""The names to choose from, listed without importing torch."""

from __future__ import annotations

from typing import Literal, get_args

from aerogel import registry

Scope = Literal["layer", "row", "global"]
Allocation = Literal["uniform", "global", "mixed", "owl", "progression", "search"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
METHODS = tuple(registry.names("aerogel.pruning.methods"))  # that prune a model in one shot
SCORES = tuple(sorted([*METHODS, *registry.names("aerogel.pruning.scores")]))  # that rank weights during training
