"""The order in which structures are removed, the error of every number of them, and the weights that compensate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aerogel.pruning.least_squares import damped, inverse
from aerogel.structure.sublayers import columns

DAMPING = 1e-2  # of the mean diagonal of H, as in SparseGPT
IMPORTANCE_DAMPING = 1e-2  # of the mean diagonal of Γ: outputs with little effect on this text may have more on another
CANDIDATES, TOGETHER = 256, 64  # the columns that compete exactly, and how many of them are removed before H⁻¹ follows


@dataclass(frozen=True)
class Removal:
    """The greedy removal of the structures of one matrix, with compensation by those that remain.

    Attributes:
        order: all structures, the first to be removed first.
        errors: (count + 1), float64, on the CPU: ½ tr(Γ (W − Ŵ) H (W − Ŵ)ᵀ) with 0, 1, … structures removed.
    """

    order: list[int]
    errors: Tensor

    @classmethod
    def of(cls, weight: Tensor, hessian: Tensor, importance: Tensor, size: int) -> Removal:
        """Removes structures one by one, each time the one whose removal adds the least error.

        A structure S adds ½ tr(((H⁻¹)_SS)⁻¹ W_Sᵀ Γ W_S), where the remaining columns compensate as well as they can
        (Kurtic et al. 2023, ZipLM, equations 2 and 3, with the outputs weighted by Γ). With the Fisher information at
        the outputs as Γ, the error estimates the KL divergence, summed over the predictions on the calibration text.

        Args:
            weight: W, (d_out, d_in), with the `size` columns of each structure in order.
            hessian: H = XᵀX, (d_in, d_in).
            importance: Γ, (d_out, d_out), symmetric and positive semi-definite.

        >>> Removal.of(torch.tensor([[1.0, 2.0, 0.0]]), torch.eye(3), torch.ones(1, 1), size=1).order
        [2, 0, 1]
        """
        root = torch.linalg.cholesky(damped(importance.double(), IMPORTANCE_DAMPING))
        count = weight.shape[1] // size
        state = _State(root.T @ weight.double(), inverse(hessian.double(), DAMPING), list(range(count)), size)
        order: list[int] = []
        added: list[Tensor] = [root.new_zeros(1)]
        while state.left:
            part = state.lowest(max(CANDIDATES // size, 1))
            together = len(part.left) if len(part.left) == len(state.left) else max(TOGETHER // size, 1)
            removed: list[int] = []
            for _ in range(together):
                scores = part.scores()
                lowest = int(scores.argmin())
                added.append(scores[lowest : lowest + 1])
                removed.append(part.left[lowest])
                part = part.without(removed[-1:])
            order += removed
            state = state.without(removed)
        return cls(order, torch.cat(added).cpu().cumsum(0) / 2)

    def kept(self, count: int) -> list[int]:
        """The `count` structures that are removed last, in increasing order."""
        return sorted(self.order[len(self.order) - count :])


@dataclass(frozen=True)
class _State:
    """The structures that are `left`, with their compensated columns of W and their part of H⁻¹."""

    weight: Tensor
    inverse: Tensor
    left: list[int]
    size: int

    def scores(self) -> Tensor:
        """tr(((H⁻¹)_SS)⁻¹ W_Sᵀ W_S) of each structure S that is left."""
        if self.size == 1:
            return self.weight.square().sum(0) / self.inverse.diagonal()
        count, size, index = len(self.left), self.size, torch.arange(len(self.left), device=self.inverse.device)
        parts = self.weight.view(-1, count, size).transpose(0, 1)
        blocks = self.inverse.view(count, size, count, size)[index, :, index, :]
        solved = torch.linalg.solve(blocks, parts.transpose(1, 2) @ parts)
        return solved.diagonal(dim1=1, dim2=2).sum(1)

    def lowest(self, number: int) -> _State:
        """The structures with the lowest scores alone: exact as long as the others stay."""
        chosen = self.scores().argsort(stable=True)[:number].sort().values.tolist()
        index = columns(chosen, self.size)
        return _State(self.weight[:, index], self.inverse[index][:, index], [self.left[i] for i in chosen], self.size)

    def without(self, structures: Sequence[int]) -> _State:
        """Removes structures S: W −= W_S ((H⁻¹)_SS)⁻¹ (H⁻¹)_S, and likewise from H⁻¹."""
        gone = set(structures)
        rest = [index for index, structure in enumerate(self.left) if structure not in gone]
        removed = columns([index for index, structure in enumerate(self.left) if structure in gone], self.size)
        kept = columns(rest, self.size)
        cross = self.inverse[removed]
        solved = torch.linalg.solve(cross[:, removed], cross[:, kept])
        weight = self.weight[:, kept] - self.weight[:, removed] @ solved
        inverse = self.inverse[kept][:, kept] - cross[:, kept].T @ solved
        return _State(weight, inverse, [self.left[index] for index in rest], self.size)


def compensated(weight: Tensor, hessian: Tensor, kept: Sequence[int], size: int) -> Tensor:
    """The weights (d_out, d_in) that are zero outside the structures `kept`, with outputs nearest to the dense ones.

    Ŵ_K = W H_K ((H)_KK)⁻¹ minimises tr(Γ (W − Ŵ) H (W − Ŵ)ᵀ) for every Γ.
    """
    result = torch.zeros_like(weight)
    if kept:
        index, full = columns(kept, size), damped(hessian.double(), DAMPING)
        factor = torch.linalg.cholesky(full[index][:, index])
        result[:, index] = torch.cholesky_solve(full[index] @ weight.double().T, factor).T.to(weight.dtype)
    return result
