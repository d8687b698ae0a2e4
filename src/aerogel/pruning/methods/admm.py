import torch
from torch import Tensor

from aerogel.pruning.least_squares import refit
from aerogel.pruning.methods.wanda import score
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

ITERATIONS = 48
ANNEALED = 44  # iterations in which the sparsity rises and the support may change
RIDGE = 0.01
PENALTY = 0.5
REFITS = 8


def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
    """Alternates between least-squares weights and their projection on the pattern, then refits on the final support.

    In coordinates scaled by the input norms (Boža 2024, algorithm 1): Z = top-k(V + U), U += V − Z,
    V = (H + ρI)⁻¹(H V₀ + ρ(Z − U)), while the sparsity rises as s(1 − (1 − t/T)³). The refit uses conjugate gradients
    (Meng et al. 2024, algorithm 2).
    """
    hessian = statistics.input_hessian()
    norms = hessian.diagonal().sqrt()
    norms = torch.where(norms == 0, 1.0, norms)
    hessian = hessian / norms / norms[:, None]
    hessian.diagonal().add_(RIDGE)
    target = (weight * norms).masked_fill(statistics.input_hessian().diagonal() == 0, 0)
    target_product = target @ hessian
    penalized = hessian.clone()
    penalized.diagonal().add_(PENALTY)
    solver = torch.cholesky_inverse(torch.linalg.cholesky(penalized))
    del penalized  # as large as the Hessian
    values, dual = target, torch.zeros_like(target)
    mask = torch.ones_like(target, dtype=torch.bool)
    for step in range(1, ITERATIONS + 1):
        proposed = values + dual
        if step <= ANNEALED:
            annealed = sparsity * (1 - (1 - step / ANNEALED) ** 3)
            mask = pattern.approach(proposed.square(), annealed)
        projected = proposed * mask
        dual = proposed - projected
        values = torch.add(target_product, projected - dual, alpha=PENALTY) @ solver
    return mask, refit(target, values + dual, mask, hessian, REFITS) / norms


METHOD = PruningMethod(
    "admm",
    prune,
    needs="hessian",
    description="sparse least squares by the alternating direction method of multipliers with rising sparsity, then a "
    "refit; weights compete within the matrix",
    paper="Boža 2024, Fast and Effective Weight Update for Pruned Large Language Models; "
    "Meng et al. 2024, ALPS: Improved Optimization for Highly Sparse One-Shot Pruning",
    score=score,
)
