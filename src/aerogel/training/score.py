"""What a score of weights is, and the list of those there are: one file each in `aerogel.training.scores`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from aerogel.errors import PruningError, unknown_name

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class WeightScore:
    """One way to tell, while a model trains, which of its weights matter.

    `score(weight, memory)` gives each weight of a (d_out, d_in) matrix a score, the higher the more it matters.
    `observe(weight, gradient, memory)` is called before each optimizer step, and keeps what it needs of the gradients
    in `memory`: tensors by name, empty at first, saved with each checkpoint.
    """

    name: str
    score: Callable[[Tensor, Memory], Tensor]
    description: str
    paper: str
    observe: Callable[[Tensor, Tensor, Memory], None] | None = None


@cache
def all_scores() -> dict[str, WeightScore]:
    """All scores by name: the `SCORE` of every module in `aerogel.training.scores`."""
    package = importlib.import_module("aerogel.training.scores")
    modules = (
        importlib.import_module(f"{package.__name__}.{entry.name}") for entry in pkgutil.iter_modules(package.__path__)
    )
    return {module.SCORE.name: module.SCORE for module in modules}


def score(name: str) -> WeightScore:
    """The score of that name. Raises `PruningError` with the nearest names."""
    if name not in all_scores():
        raise PruningError(unknown_name("score", name, all_scores()))
    return all_scores()[name]
