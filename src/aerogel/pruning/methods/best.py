from torch import Tensor

from aerogel.pruning.methods import admm
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

FLOOR = 1e-2  # of the mean: outputs that hardly matter on this text may matter on another


def importance(statistics: Statistics) -> Tensor:
    """(d_out), the root mean square gradient at each output, not below a floor."""
    gradients = statistics.output_gradients()
    return gradients.clamp_min(FLOOR * gradients.mean()).clamp_min(1e-30)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """g_i · |W_ij| · ‖X_·j‖₂: the root of what dropping one weight adds to the KL divergence, to second order."""
    return importance(statistics)[:, None] * weight.abs() * statistics.input_norms()


def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
    """ADMM under Σ_i g_i ‖X (w_i − ŵ_i)‖²: rows that the answers hang on keep more of their weights.

    In N:M groups all rows keep alike, so that has nothing to act on, and it is plain ADMM.
    """
    if pattern.group:
        return admm.prune(weight, statistics, pattern, sparsity)
    scale = importance(statistics).sqrt()[:, None]
    scale = scale / scale.mean()
    mask, moved = admm.prune(weight * scale, statistics, pattern, sparsity)
    return mask, moved / scale


METHOD = PruningMethod(
    "best",
    prune,
    needs="gradients",
    description="ADMM with each output row weighed by its effect on the model's answers, and by default sparsities "
    "by the same measure over all matrices; weights compete within the matrix",
    paper="of this project: Kronecker-factored curvature (Martens and Grosse 2015) over ADMM (Boža 2024)",
    score=score,
    allocation="mixed",
)
