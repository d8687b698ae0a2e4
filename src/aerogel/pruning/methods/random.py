import torch
from torch import Tensor

from aerogel.pruning.pruning_method import Statistics, ranking


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(weight.shape, generator=statistics.generator).to(weight.device)


METHOD = ranking(
    "random",
    score,
    needs="nothing",
    description="keeps random weights: a lower bound for every other method",
    paper="Gale et al. 2019, The State of Sparsity in Deep Neural Networks (as a baseline)",
)
