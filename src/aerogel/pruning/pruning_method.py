"""What a pruning method is, and the registry of all of them: one file each in `methods` and `scores`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aerogel.errors import PruningError, expect, unknown_name
from aerogel.pruning.choices import Allocation, check_one_shot
from aerogel.pruning.pattern import Pattern
from aerogel.registry import entries

Needs = Literal["nothing", "input_norms", "hessian", "gradients", "training"]
ScoreState = dict[str, Tensor]
"""The tensors of a score by name, saved with each checkpoint."""


@dataclass(frozen=True)
class Statistics:
    """What a method may use of one matrix beside its weights; `PruningMethod.needs` says which.

    Attributes:
        generator: for methods that draw at random.
        norms: (d_in), the L2 norm of each input over the calibration tokens: for "input_norms", "hessian" and
            "gradients".
        hessian: (d_in, d_in), H = XᵀX over the calibration tokens X (tokens, d_in): for "hessian" and "gradients".
        gradients: (d_out), the root mean square gradient at each output: for "gradients" without an N:M pattern
            (with one, all outputs keep the same number of weights).
        state: the tensors that `PruningMethod.observe` has kept: for "training".
    """

    generator: torch.Generator
    norms: Tensor | None = None
    hessian: Tensor | None = None
    gradients: Tensor | None = None
    state: ScoreState = field(default_factory=dict)

    def input_norms(self) -> Tensor:
        return _required(self.norms, "norms of the inputs")

    def input_hessian(self) -> Tensor:
        return _required(self.hessian, "Hessian of the inputs")

    def output_gradients(self) -> Tensor:
        return _required(self.gradients, "gradients at the outputs")


def _required(statistic: Tensor | None, name: str) -> Tensor:
    if statistic is None:
        raise PruningError(f"this method needs the {name}, which are computed from calibration text")
    return statistic


Score = Callable[[Tensor, Statistics], Tensor]
Prune = Callable[[Tensor, Statistics, Pattern, float], tuple[Tensor, Tensor]]
Observe = Callable[[Tensor, Tensor, ScoreState], None]


@dataclass(frozen=True)
class PruningMethod:
    """One way to choose which weights to remove.

    Attributes:
        prune: `prune(weight, statistics, pattern, sparsity)` takes a (d_out, d_in) matrix and returns the mask, True
            where a weight is kept, and the weights, which some methods update.
        needs: which `Statistics` it uses. Methods that need "training" can only prune while a model trains.
        score: `score(weight, statistics)` ranks weights, (d_out, d_in) to the same shape, higher is more important:
            allocations compare the matrices by it.
        scope: whether weights compete within a matrix or within an output row, as the method was published.
        allocation: how sparsity is distributed over the matrices. Scope and allocation are defaults of `PruneConfig`.
        observe: `observe(weight, gradient, state)` runs before each optimizer step and keeps what `score` needs in
            `state`: tensors by name, empty at first, saved with each checkpoint. Only for "training".
    """

    name: str
    prune: Prune
    needs: Needs
    description: str
    paper: str
    score: Score
    scope: Literal["layer", "row"] = "layer"
    allocation: Allocation = "uniform"
    observe: Observe | None = None

    @property
    def looks_at_text(self) -> bool:
        return self.needs in ("input_norms", "hessian", "gradients")


def ranking(
    name: str,
    score: Score,
    needs: Needs,
    description: str,
    paper: str,
    scope: Literal["layer", "row"] = "layer",
    *,
    observe: Observe | None = None,
) -> PruningMethod:
    """A method that keeps the weights with the highest `score`, and leaves their values as they are."""

    def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
        return pattern.mask(score(weight, statistics), sparsity), weight

    return PruningMethod(name, prune, needs, description, paper, score, scope, observe=observe)


@cache
def all_methods() -> dict[str, PruningMethod]:
    """All methods by name: the `METHOD` of every module in `aerogel.pruning.methods` and `aerogel.pruning.scores`."""
    return entries("aerogel.pruning.methods", "METHOD") | entries("aerogel.pruning.scores", "METHOD")


def method(name: str) -> PruningMethod:
    """The method of that name. Raises `PruningError` with the nearest names."""
    expect(name, str, PruningError, f"the name of a method: {', '.join(all_methods())}")
    if name not in all_methods():
        raise PruningError(unknown_name("method", name, all_methods()))
    return all_methods()[name]


def one_shot_method(name: str) -> PruningMethod:
    """The method of that name. Raises `PruningError` as `method`, and for one that needs training."""
    chosen = method(name)
    check_one_shot(name)
    return chosen
