"""What a score of weights is, and the list of those there are: one file each in `aerogel.training.scores`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from aerogel.errors import PruningError, unknown_name
from aerogel.registry import entries

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
    return entries("aerogel.training.scores", "SCORE")


def score(name: str) -> WeightScore:
    """The score of that name. Raises `PruningError` with the nearest names."""
    if name not in all_scores():
        raise PruningError(unknown_name("score", name, all_scores()))
    return all_scores()[name]
