from torch import Tensor

from aerogel.pruning.pruning_method import Statistics, ranking


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """|W_ij|."""
    return weight.abs()


METHOD = ranking(
    "magnitude",
    score,
    needs="nothing",
    description="keeps the largest absolute values (L1)",
    paper="Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks",
)
