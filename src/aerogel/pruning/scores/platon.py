import torch
from torch import Tensor

from aerogel.pruning.pruning_method import ScoreState, Statistics, ranking

BETA_1, BETA_2 = 0.85, 0.95  # within the paper's range for fine-tuning


def observe(weight: Tensor, gradient: Tensor, state: ScoreState) -> None:
    """I = |W · ∂L/∂W|; Ī ← β₁Ī + (1 − β₁)I; U = |I − Ī|; Ū ← β₂Ū + (1 − β₂)U (equations 5 to 8)."""
    sensitivity = (weight * gradient).abs_()
    smoothed = state.setdefault("sensitivity", torch.zeros_like(weight)).lerp_(sensitivity, 1 - BETA_1)
    uncertainty = sensitivity.sub_(smoothed).abs_()
    state.setdefault("uncertainty", torch.zeros_like(weight)).lerp_(uncertainty, 1 - BETA_2)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """Ī · Ū, equation 9."""
    return statistics.state["sensitivity"] * statistics.state["uncertainty"]


METHOD = ranking(
    "platon",
    score,
    needs="training",
    description="keeps the weights to which the loss is most sensitive, times the uncertainty of that sensitivity",
    paper="Zhang et al. 2022, PLATON: Pruning Large Transformer Models with Upper Confidence Bound",
    observe=observe,
)
