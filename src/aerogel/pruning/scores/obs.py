import torch
from torch import Tensor
from torch.nn.functional import pad

from aerogel.pruning.pruning_method import ScoreState, Statistics, ranking

BLOCK = 8  # neighbours along a row that share a block of Fisher information: eight times the weights' memory
DECAY = 0.99  # of the past at each step
DAMPING = 0.01  # of the mean of the diagonal


def observe(weight: Tensor, gradient: Tensor, state: ScoreState) -> None:
    """F ← λF + (1 − λ) g gᵀ in each block, with g = 0 at pruned weights, which can't compensate."""
    g = _blocks(gradient.masked_fill(weight == 0, 0))
    fisher = state.setdefault("fisher", g.new_zeros((len(g), BLOCK, BLOCK)))
    torch.baddbmm(fisher, g[:, :, None], g[:, None, :], beta=DECAY, alpha=1 - DECAY, out=fisher)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """W_ij² / (2 [F⁻¹]_jj), equation 6: the increase of the loss when the rest of the block compensates."""
    fisher = statistics.state["fisher"].clone()
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    diagonal += DAMPING * diagonal.mean() + torch.finfo(fisher.dtype).tiny
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher)).diagonal(dim1=1, dim2=2)
    blocks = _blocks(weight).square() / (2 * inverse)
    return blocks.view(len(weight), -1)[:, : weight.shape[1]]


def _blocks(matrix: Tensor) -> Tensor:
    """(blocks, BLOCK): neighbours along a row, padded with zeros at its end."""
    return pad(matrix, (0, -matrix.shape[1] % BLOCK)).reshape(-1, BLOCK)


METHOD = ranking(
    "obs",
    score,
    needs="training",
    description="keeps the weights whose removal would increase the loss the most (block Fisher information)",
    paper="Kurtic et al. 2022, The Optimal BERT Surgeon",
    observe=observe,
)
