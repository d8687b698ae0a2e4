"""What a pruning method is, and the list of those there are: one file each in `aerogel.pruning.methods`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aerogel.errors import PruningError, expect, unknown_name
from aerogel.pruning.pattern import Pattern
from aerogel.registry import entries

Needs = Literal["nothing", "input_norms", "hessian", "gradients"]
Allocation = Literal["uniform", "global", "mixed", "owl", "progression", "search"]


@dataclass(frozen=True)
class Statistics:
    """What a method may know of one matrix beside its weights; a method names its `needs`.

    Attributes:
        generator: for methods that draw at random.
        norms: (d_in), the L2 norm of each input over the calibration tokens: for every need but "nothing".
        hessian: (d_in, d_in), H = XᵀX over the calibration tokens X (tokens, d_in): for "hessian" and "gradients".
        gradients: (d_out), the root mean square gradient of the model's answers at each output: for "gradients", but
            not with N:M patterns, where every output keeps as many weights and there is nothing to weigh.
    """

    generator: torch.Generator
    norms: Tensor | None = None
    hessian: Tensor | None = None
    gradients: Tensor | None = None

    def input_norms(self) -> Tensor:
        if self.norms is None:
            raise PruningError("this method needs the norms of the inputs, which calibration text gives")
        return self.norms

    def input_hessian(self) -> Tensor:
        if self.hessian is None:
            raise PruningError("this method needs the products of the inputs, which calibration text gives")
        return self.hessian

    def output_gradients(self) -> Tensor:
        if self.gradients is None:
            raise PruningError("this method needs the gradients at the outputs, which calibration text gives")
        return self.gradients


Score = Callable[[Tensor, Statistics], Tensor]
Prune = Callable[[Tensor, Statistics, Pattern, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PruningMethod:
    """One way to choose which weights go.

    `prune(weight, statistics, pattern, sparsity)` takes a (d_out, d_in) matrix and returns the mask of
    the weights kept and the new weights, since the best methods also move the survivors. `score` ranks
    weights, (d_out, d_in) to the same shape: allocation "global" and "owl" compare the matrices by it. `scope`
    is the one that the method was published with: weights compete within a matrix or within an output row.
    `scope` and `allocation` hold where a configuration names none.
    """

    name: str
    prune: Prune
    needs: Needs
    description: str
    paper: str
    score: Score
    scope: Literal["layer", "row"] = "layer"
    allocation: Allocation = "uniform"

    @property
    def looks_at_text(self) -> bool:
        return self.needs != "nothing"


def ranking(
    name: str,
    score: Score,
    needs: Needs,
    description: str,
    paper: str,
    scope: Literal["layer", "row"] = "layer",
) -> PruningMethod:
    """A method that keeps the weights of the highest `score` as they are."""

    def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
        return pattern.mask(score(weight, statistics), sparsity), weight

    return PruningMethod(name, prune, needs, description, paper, score, scope)


@cache
def all_methods() -> dict[str, PruningMethod]:
    """All methods by name: the `METHOD` of every module in `aerogel.pruning.methods`."""
    return entries("aerogel.pruning.methods", "METHOD")


def method(name: str) -> PruningMethod:
    """The method of that name. Raises `PruningError` with the nearest names."""
    expect(name, str, PruningError, f"the name of a method: {', '.join(all_methods())}")
    if name not in all_methods():
        raise PruningError(unknown_name("method", name, all_methods()))
    return all_methods()[name]
