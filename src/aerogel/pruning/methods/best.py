from torch import Tensor

from aerogel.pruning.methods import admm
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

FLOOR = 1e-2  # of the mean: outputs with little effect on this text may have more on another


def importance(statistics: Statistics) -> Tensor:
    """(d_out), the root mean square gradient at each output, with a floor."""
    gradients = statistics.output_gradients()
    return gradients.clamp_min(FLOOR * gradients.mean()).clamp_min(1e-30)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """g_i · |W_ij| · ‖X_·j‖₂: the root of the KL divergence that dropping one weight causes, to second order."""
    return importance(statistics)[:, None] * weight.abs() * statistics.input_norms()


def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
    """ADMM on Σ_i g_i ‖X (w_i − ŵ_i)‖²: rows with more effect on the predictions keep more weights.

    With N:M patterns all rows keep the same number, so this is plain ADMM.
    """
    if pattern.group:
        return admm.prune(weight, statistics, pattern, sparsity)
    scale = importance(statistics).sqrt()[:, None]
    scale = scale / scale.mean()
    mask, values = admm.prune(weight * scale, statistics, pattern, sparsity)
    return mask, values / scale


METHOD = PruningMethod(
    "best",
    prune,
    needs="gradients",
    description="ADMM with each output row weighted by its effect on the predictions; by default the sparsity of each "
    "matrix depends on the same measure; weights compete within the matrix",
    paper="of this project: Kronecker-factored curvature (Martens and Grosse 2015) over ADMM (Boža 2024)",
    score=score,
    allocation="mixed",
)
