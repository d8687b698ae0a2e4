"""What attention reads beside its layers and its text: rotary angles, masks, and what depends on positions.

Each function returns a record of addresses, and the tensors that must be kept until the kernels have read them. The
kernels compute addresses from shapes, so wrong ones raise `ModelError`.
"""

from typing import Any

import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.kernel import required

Record = tuple[Any, list[Tensor]]


def spread(what: str, tensor: Tensor, batch: int, *sizes: int) -> Tensor:
    """Expands a tensor of shape (batch or 1, *sizes), where any size may be 1, to all sizes but the batch."""
    fits = tensor.dim() == 1 + len(sizes) and len(tensor) in (1, batch)
    if not fits or any(length not in (1, size) for length, size in zip(tensor.shape[1:], sizes, strict=True)):
        raise ModelError(f"{what} of shape {tuple(tensor.shape)}, expected {(batch, *sizes)}")
    return tensor.expand(-1, *sizes).contiguous()


def _batch_stride(tensor: Tensor) -> int:
    return 0 if len(tensor) == 1 else tensor.stride(0)


def rotary(angles: tuple[Tensor | None, Tensor | None], batch: int, length: int, size: int) -> Record:
    """Cosine and sine, each (batch or 1, length, head size), or none."""
    both = [
        spread("rotary angles", angle.to(torch.float32), batch, length, size) for angle in angles if angle is not None
    ]
    if not both:
        return required().Rotary(0, 0, 0), both
    cosine, sine = both
    return required().Rotary(cosine.data_ptr(), sine.data_ptr(), _batch_stride(cosine)), both


def attention_mask(mask: Tensor | None, batch: int, length: int, keys: int) -> Record:
    """(batch or 1, 1, length or 1, keys), additive, or boolean and true for visible keys."""
    if mask is None:
        return required().Mask(0, 0, 0), []
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    queries = length if mask.shape[-2] > 1 else 1
    mask = spread("an attention mask", mask.to(torch.float32), batch, 1, queries, keys)
    return required().Mask(mask.data_ptr(), _batch_stride(mask), 0 if queries == 1 else keys), [mask]


def position_bias(bias: Tensor | None, batch: int, *sizes: int) -> Record:
    """(batch or 1, heads, length, keys)."""
    if bias is None:
        return required().PositionBias(0, 0), []
    bias = spread("a position bias", bias.to(torch.float32), batch, *sizes)
    return required().PositionBias(bias.data_ptr(), _batch_stride(bias)), [bias]


def relative_positions(tables: tuple[Tensor | None, Tensor | None], rows: int, columns: int) -> Record:
    """Keys and queries of relative positions, each (rows, columns) or `None`."""
    addresses, kept = [0, 0], []
    for i, table in enumerate(tables):
        if table is not None:
            kept.append(spread("relative positions", table.to(torch.float32)[None], 1, rows, columns))
            addresses[i] = kept[-1].data_ptr()
    return required().RelativePositions(*addresses), kept
