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
    absent = hessian.diagonal() == 0
    norms = hessian.diagonal().sqrt().masked_fill(absent, 1)
    hessian = hessian / norms
    hessian /= norms[:, None]
    hessian.diagonal().add_(RIDGE)
    solver = _inverse(hessian, PENALTY)
    target = (weight * norms).masked_fill(absent, 0)
    target_product = target @ hessian
    # one buffer for each, since all of them are as large as the weights
    values, dual, projected = target.clone(), torch.zeros_like(target), torch.empty_like(target)
    mask = torch.ones_like(target, dtype=torch.bool)
    for step in range(1, ITERATIONS + 1):
        proposed = values.add_(dual)
        if step <= ANNEALED:
            annealed = sparsity * (1 - (1 - step / ANNEALED) ** 3)
            mask = pattern.approach(torch.square(proposed, out=projected), annealed)
        torch.mul(proposed, mask, out=projected)
        torch.sub(proposed, projected, out=dual)
        right = torch.add(target_product, projected.sub_(dual), alpha=PENALTY, out=projected)
        torch.mm(right, solver, out=values)
    start = values.add_(dual)
    del target_product, dual, projected, proposed, right, solver
    return mask, refit(target, start, mask, hessian, REFITS) / norms


def _inverse(hessian: Tensor, penalty: float) -> Tensor:
    """(H + ρI)⁻¹"""
    penalized = hessian.clone()
    penalized.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(penalized)
    del penalized  # as large as the Hessian
    return torch.cholesky_inverse(factor)


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
