from torch import Tensor

from aerogel.pruning.pruning_method import Statistics, ranking


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """|W_ij| · ‖X_·j‖₂, equation 1."""
    return weight.abs() * statistics.input_norms()


METHOD = ranking(
    "wanda",
    score,
    needs="input_norms",
    description="keeps the largest weight times input norm, compared within each output row",
    paper="Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models",
    scope="row",
)
