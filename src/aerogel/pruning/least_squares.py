"""Least squares on the calibration inputs: a damped Hessian, its inverse, and the best weights on a fixed support."""

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def damped(hessian: Tensor, damping: float) -> Tensor:
    """H + damping · mean(diag H) · I, (d_in, d_in), with 1 on the diagonal of inputs that are always zero."""
    diagonal = hessian.diagonal()
    ridge = torch.where(diagonal == 0, 1.0, damping * diagonal.mean())
    hessian = hessian.clone()
    hessian.diagonal().add_(ridge)
    return hessian


def inverse(hessian: Tensor, damping: float) -> Tensor:
    """The inverse of the damped Hessian, (d_in, d_in). While it is singular, the damping grows tenfold, with a log."""
    while True:
        factor, failed = torch.linalg.cholesky_ex(damped(hessian, damping))
        if not failed:
            return torch.cholesky_inverse(factor)
        damping = max(10 * damping, 1e-6)
        log.warning(
            "the Hessian of %d inputs is singular; damping it by %g of its mean diagonal", len(hessian), damping
        )


def refit(target: Tensor, start: Tensor, mask: Tensor, hessian: Tensor, steps: int) -> Tensor:
    """The weights on the support `mask` whose outputs are nearest to those of `target`: min ‖X (target − Ŵ)ᵀ‖².

    Conjugate gradients on all output rows at once, preconditioned by the diagonal, from `start` (Meng et al. 2024,
    algorithm 2). Weights and mask are (d_out, d_in), H = XᵀX is (d_in, d_in) and damped. Each row has its own step
    size, so the rows stay independent.
    """
    diagonal = hessian.diagonal()
    weight = start * mask
    residual = ((target - weight) @ hessian).mul_(mask)
    direction = residual / diagonal
    product = (residual * direction).sum(1, keepdim=True)
    for _ in range(steps):
        curvature = (direction @ hessian).mul_(mask)
        length = product / (direction * curvature).sum(1, keepdim=True).clamp_min(1e-30)
        weight += length * direction
        residual -= curvature.mul_(length)
        scaled = torch.div(residual, diagonal, out=curvature)
        next_product = (residual * scaled).sum(1, keepdim=True)
        direction.mul_(next_product / product.clamp_min(1e-30)).add_(scaled)
        product = next_product
    return weight
