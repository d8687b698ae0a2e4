"""What a pruning method is, and the list of those there are: one file each in `aerogel.pruning.methods`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aerogel.errors import PruningError, unknown_name
from aerogel.pruning.pattern import Pattern


@dataclass(frozen=True)
class Statistics:
    """What a method may know of one matrix beside its weights; a method names its `needs`."""

    generator: torch.Generator


Score = Callable[[Tensor, Statistics], Tensor]
Prune = Callable[[Tensor, Statistics, Pattern, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PruningMethod:
    """One way to choose which weights go.

    `prune(weight, statistics, pattern, sparsity)` takes a (d_out, d_in) matrix and returns the mask of
    the weights kept and the new weights, since the best methods also move the survivors. `score` is there
    for methods that only rank weights; scope "global" needs it.
    """

    name: str
    prune: Prune
    needs: Literal["nothing"]
    description: str
    paper: str
    score: Score | None = None


def ranking(name: str, score: Score, needs: Literal["nothing"], description: str, paper: str) -> PruningMethod:
    """A method that keeps the weights of the highest `score` as they are."""

    def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
        return pattern.mask(score(weight, statistics), sparsity), weight

    return PruningMethod(name, prune, needs, description, paper, score)


@cache
def all_methods() -> dict[str, PruningMethod]:
    """All methods by name: the `METHOD` of every module in `aerogel.pruning.methods`."""
    package = importlib.import_module("aerogel.pruning.methods")
    modules = (
        importlib.import_module(f"{package.__name__}.{entry.name}") for entry in pkgutil.iter_modules(package.__path__)
    )
    return {module.METHOD.name: module.METHOD for module in modules}


def method(name: str) -> PruningMethod:
    """The method of that name. Raises `PruningError` with the nearest names."""
    if name not in all_methods():
        raise PruningError(unknown_name("method", name, all_methods()))
    return all_methods()[name]
