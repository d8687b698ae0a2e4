import torch
from torch import Tensor

from aerogel.training.score import Memory, WeightScore


def observe(weight: Tensor, gradient: Tensor, memory: Memory) -> None:
    """S ← S − W · ∂L/∂W, equation 5 without its learning rate: weights that move away from zero gain."""
    memory.setdefault("movement", torch.zeros_like(weight)).addcmul_(weight, gradient, value=-1)


def score(weight: Tensor, memory: Memory) -> Tensor:
    """S_ij."""
    return memory["movement"]


SCORE = WeightScore(
    "movement",
    score,
    description="how much training has moved the weight away from zero",
    paper="Sanh et al. 2020, Movement Pruning: Adaptive Sparsity by Fine-Tuning",
    observe=observe,
)
