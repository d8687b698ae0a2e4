import torch
from torch import Tensor

from aerogel.pruning.pruning_method import ScoreState, Statistics, ranking


def observe(weight: Tensor, gradient: Tensor, state: ScoreState) -> None:
    """S ← S − W · ∂L/∂W, equation 5 without its learning rate: weights that move away from zero gain."""
    state.setdefault("movement", torch.zeros_like(weight)).addcmul_(weight, gradient, value=-1)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """S_ij."""
    return statistics.state["movement"]


METHOD = ranking(
    "movement",
    score,
    needs="training",
    description="keeps the weights that training moves away from zero the most",
    paper="Sanh et al. 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning",
    observe=observe,
)
