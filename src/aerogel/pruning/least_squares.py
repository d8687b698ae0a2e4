"""Least squares on the calibration inputs: damping, and the best weights on a fixed support."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def damped(hessian: Tensor, damping: float) -> Tensor:
    """H + damping · mean(diag H) · I, with 1 on the diagonal of inputs that are always zero."""
    diagonal = hessian.diagonal()
    ridge = damping * diagonal.mean()
    return hessian + torch.diag(torch.where(diagonal == 0, 1.0, ridge))


def inverse(hessian: Tensor, damping: float) -> Tensor:
    """The inverse of the damped Hessian, (d_in, d_in); where it is singular still, damped ten times more, and said."""
    while True:
        factor, failed = torch.linalg.cholesky_ex(damped(hessian, damping))
        if not failed:
            return torch.cholesky_inverse(factor)
        damping = max(10 * damping, 1e-6)
        log.warning("a singular Hessian of %d inputs was damped by %g of its mean diagonal", len(hessian), damping)


def refit(target: Tensor, start: Tensor, mask: Tensor, hessian: Tensor, steps: int) -> Tensor:
    """The weights on the support `mask` that come nearest to `target` on the inputs: min ‖X (target − Ŵ)ᵀ‖².

    Conjugate gradients on all output rows at once, preconditioned by the diagonal, from `start` (Meng et al.
    2024, algorithm 2). All are (d_out, d_in); H must be damped. Each row has its own step, so rows don't mix.
    """
    diagonal = hessian.diagonal()
    weight = start * mask
    residual = ((target - weight) @ hessian) * mask
    direction = residual / diagonal
    product = (residual * direction).sum(1, keepdim=True)
    for _ in range(steps):
        curved = (direction @ hessian) * mask
        length = product / (direction * curved).sum(1, keepdim=True).clamp_min(1e-30)
        weight = weight + length * direction
        residual = residual - length * curved
        scaled = residual / diagonal
        following = (residual * scaled).sum(1, keepdim=True)
        direction = scaled + following / product.clamp_min(1e-30) * direction
        product = following
    return weight
