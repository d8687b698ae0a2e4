"""The two ways to corrupt text that models learn to restore: masking tokens and infilling spans."""

import torch
from torch import Tensor

IGNORED = -100
"""The label that cross-entropy ignores."""
MASK_RATE = 0.15
INFILL_RATE = 0.30
MEAN_SPAN = 3.0


def mask_tokens(
    tokens: Tensor, mask_id: int, generator: torch.Generator, rate: float = MASK_RATE
) -> tuple[Tensor, Tensor]:
    """Replace a share `rate` of `tokens` (any shape, without special tokens) by the mask token.

    Returns the corrupted tokens and the labels, which are `IGNORED` where a token is not masked. The count is exact and
    at least one (Devlin et al. 2019, section 3.1). Unlike in BERT's pre-training, every chosen token becomes the mask
    token: its 80/10/10 split helps transfer, not scoring.
    """
    count = max(1, round(rate * tokens.numel()))
    chosen = torch.randperm(tokens.numel(), generator=generator)[:count]
    masked = torch.zeros(tokens.numel(), dtype=torch.bool)
    masked[chosen] = True
    masked = masked.view(tokens.shape)
    return tokens.masked_fill(masked, mask_id), tokens.masked_fill(~masked, IGNORED)


def infill(tokens: Tensor, mask_id: int | None, generator: torch.Generator) -> Tensor:
    """Replace spans that cover about 30% of `tokens` (1-D, no special tokens) by one mask token each.

    Span lengths have a Poisson distribution of mean 3; a span of length zero inserts a mask (text infilling, Lewis et
    al. 2020, section 2.2). Without a mask token (`None`) the spans are deleted.
    """
    budget = round(INFILL_RATE * len(tokens))
    lengths = torch.poisson(torch.full((budget,), MEAN_SPAN), generator=generator).long()
    lengths = lengths[lengths.cumsum(0) <= budget]
    kept = len(tokens) - int(lengths.sum())
    gaps = torch.randperm(kept + 1, generator=generator)[: len(lengths)].sort().values
    lengths = lengths[: len(gaps)]
    starts = gaps + lengths.cumsum(0) - lengths
    edges = torch.zeros(len(tokens) + 1, dtype=torch.long)
    edges.index_add_(0, starts, torch.ones_like(starts))
    edges.index_add_(0, starts + lengths, -torch.ones_like(starts))
    survivors = tokens[edges.cumsum(0)[:-1] == 0]
    if mask_id is None:
        return survivors
    corrupted = torch.full((len(survivors) + len(gaps),), mask_id, dtype=tokens.dtype)
    room = torch.ones(len(corrupted), dtype=torch.bool)
    room[gaps + torch.arange(len(gaps))] = False
    corrupted[room] = survivors
    return corrupted
