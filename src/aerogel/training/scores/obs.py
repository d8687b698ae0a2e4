import torch
from torch import Tensor
from torch.nn.functional import pad

from aerogel.training.score import Memory, WeightScore

BLOCK = 8  # neighbours along a row whose Fisher information is kept together: eight times the weights' memory
DECAY = 0.99  # of the past at each step
DAMPING = 0.01  # of the mean of the diagonal


def observe(weight: Tensor, gradient: Tensor, memory: Memory) -> None:
    """F ← λF + (1 − λ) g gᵀ, a block at a time; pruned weights, which can't move, have no part in it."""
    g = _blocks(gradient.masked_fill(weight == 0, 0))
    fisher = memory.setdefault("fisher", g.new_zeros((len(g), BLOCK, BLOCK)))
    torch.baddbmm(fisher, g[:, :, None], g[:, None, :], beta=DECAY, alpha=1 - DECAY, out=fisher)


def score(weight: Tensor, memory: Memory) -> Tensor:
    """W_ij² / (2 [F⁻¹]_jj), what the loss gains when the weight goes and its block makes up for it: equation 6."""
    fisher = memory["fisher"].clone()
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    diagonal += DAMPING * diagonal.mean() + torch.finfo(fisher.dtype).tiny
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher)).diagonal(dim1=1, dim2=2)
    blocks = _blocks(weight).square() / (2 * inverse)
    return blocks.view(len(weight), -1)[:, : weight.shape[1]]


def _blocks(matrix: Tensor) -> Tensor:
    return pad(matrix, (0, -matrix.shape[1] % BLOCK)).reshape(-1, BLOCK)


SCORE = WeightScore(
    "obs",
    score,
    description="what the loss would gain by its second derivative (block Fisher information)",
    paper="Kurtic et al. 2022, The Optimal BERT Surgeon",
    observe=observe,
)
