import torch
from torch import Tensor

from aerogel.training.score import Memory, WeightScore

BETA_1, BETA_2 = 0.85, 0.95  # of the paper's range for fine-tuning


def observe(weight: Tensor, gradient: Tensor, memory: Memory) -> None:
    """I = |W · ∂L/∂W|; Ī ← β₁Ī + (1 − β₁)I; U = |I − Ī|; Ū ← β₂Ū + (1 − β₂)U (equations 5 to 8)."""
    sensitivity = (weight * gradient).abs_()
    smooth = memory.setdefault("sensitivity", torch.zeros_like(weight)).lerp_(sensitivity, 1 - BETA_1)
    uncertainty = sensitivity.sub_(smooth).abs_()
    memory.setdefault("uncertainty", torch.zeros_like(weight)).lerp_(uncertainty, 1 - BETA_2)


def score(weight: Tensor, memory: Memory) -> Tensor:
    """Ī · Ū, equation 9."""
    return memory["sensitivity"] * memory["uncertainty"]


SCORE = WeightScore(
    "platon",
    score,
    description="how much the loss hangs on the weight, times how uncertain that is",
    paper="Zhang et al. 2022, PLATON: Pruning Large Transformer Models with Upper Confidence Bound",
    observe=observe,
)
