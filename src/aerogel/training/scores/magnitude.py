from torch import Tensor

from aerogel.training.score import Memory, WeightScore


def score(weight: Tensor, memory: Memory) -> Tensor:
    """|W_ij|."""
    return weight.abs()


SCORE = WeightScore(
    "magnitude",
    score,
    description="the absolute value",
    paper="Zhu and Gupta 2017, To prune, or not to prune",
)
