from torch import Tensor

from aerogel.pruning.pruning_method import Statistics, ranking


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """(|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_·j‖₂^½, equation 4 with a = ½."""
    size = weight.abs()
    smallest = 1e-30  # the sum of a row or column of zeros is 0
    relative = size / size.sum(0).clamp_min(smallest) + size / size.sum(1, keepdim=True).clamp_min(smallest)
    return relative * statistics.input_norms().sqrt()


METHOD = ranking(
    "ria",
    score,
    needs="input_norms",
    description="keeps the largest weight relative to its row and column times the root of the input norm, "
    "compared within the matrix",
    paper="Zhang et al. 2024, Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
)
