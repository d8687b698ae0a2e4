"""A layout of int8 weights for one token at a time, beside the quads of `Cells`."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from aerogel.models.int8 import quantize_rows
from aerogel.runtime.cells import PANEL, block_for
from aerogel.runtime.packed import PackedWeight, pack_integers
from aerogel.runtime.values import VALUE_TYPES

WORD = 64  # columns
CHUNK = 16  # rows; kGroup in csrc/kernel.h
DENSE = 7 / 8  # of the integers: with more, the zeros take less memory than a bit for each
ROWS = 16 * CHUNK  # at a time


@dataclass(frozen=True)
class Bitmask:
    """The integers of a (d_out, d_in) matrix that are not 0, and a bit for each weight.

    For a token at a time the time is that of reading memory: a mask and single integers take 0.33 bytes a weight at 80%
    zeros, and quads 0.74. `bits` (d_out, words), int64, has a bit for each of 64 columns, from the lowest up, and
    `values` (integers,), int8, the integers, row after row; `starts` (chunks + 1,), int64, where those of each 16 rows
    start. With hardly any zeros `values` has these too, and `bits` (1, words) is the mask of every row. `block` is that
    of the quads to which kernels expand them for many tokens.
    """

    columns: int
    block: int
    values: Tensor
    bits: Tensor
    starts: Tensor
    scales: Tensor
    sums: Tensor

    @classmethod
    def of(cls, packed: PackedWeight) -> Self:
        """The same weight as `packed`, of int8 in quads."""
        assert packed.values.scales is not None
        integers = packed.unscaled().to(torch.int8)
        is_dense = int(integers.count_nonzero()) > DENSE * integers.numel()
        return cls._of(integers, packed.values.scales, packed.cells.block, is_dense)

    @classmethod
    def quantized(cls, matrix: Tensor) -> Self:
        """A dense (d_out, d_in) matrix, rounded by `quantize_rows`, in little more memory than the result takes."""
        integers = torch.empty(matrix.shape, dtype=torch.int8, device="cpu")
        scales = torch.empty(len(matrix), dtype=torch.float32, device="cpu")
        parts = zip(matrix.detach().split(ROWS), integers.split(ROWS), scales.split(ROWS), strict=True)
        for rows, rounded, scale in parts:
            for result, to in zip(quantize_rows(rows), (rounded, scale), strict=True):
                to.copy_(result)
        return cls._of(integers, scales, block_for(1, VALUE_TYPES["int8"].unit), True)

    @classmethod
    def _of(cls, matrix: Tensor, scales: Tensor, block: int, is_dense: bool) -> Self:
        """Of integers, int8 (d_out, d_in)."""
        (rows, columns), integers = matrix.shape, matrix.numpy()
        mask = np.ones((1, columns), bool) if is_dense else integers != 0
        bits = np.zeros((len(mask), -(-columns // WORD) * WORD // 8), np.uint8)
        bits[:, : -(-columns // 8)] = np.packbits(mask, axis=1, bitorder="little")
        starts = np.zeros(-(-rows // CHUNK) + 1, np.int64)
        counts = np.broadcast_to(np.count_nonzero(mask, axis=1), rows)
        np.add.reduceat(counts, np.arange(0, rows, CHUNK), out=starts[1:])
        sums = [  # of some rows at a time, since each sum makes a copy in int32
            torch.cat([part.sum(1, dtype=torch.int32) for part in group.split(ROWS)])
            for group in matrix.split(PANEL, dim=1)
        ]
        return cls(
            columns=columns,
            block=block,
            values=matrix.flatten() if is_dense else torch.from_numpy(integers[mask]),
            bits=torch.from_numpy(bits.view(np.int64)),
            starts=torch.from_numpy(starts.cumsum()),
            scales=scales,
            sums=torch.stack(sums),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """As operators take them."""
        return self.values, self.bits, self.starts, self.scales, self.sums

    def unscaled(self) -> Tensor:
        """The integers and zeros, (d_out, d_in), float32."""
        mask = np.unpackbits(self.bits.numpy().view(np.uint8), axis=1, count=self.columns, bitorder="little")
        dense = torch.zeros(len(self.scales), self.columns, dtype=torch.float32, device="cpu")
        dense[torch.from_numpy(mask).bool().expand_as(dense)] = self.values.float()
        return dense

    def to_dense(self, dtype: torch.dtype) -> Tensor:
        """The (d_out, d_in) matrix; zeros are +0."""
        return self.unscaled().mul_(self.scales[:, None]).to(dtype)

    def to_packed(self, dtype: torch.dtype) -> PackedWeight:
        """The inverse of `of`; `dtype` is that of the dense weight."""
        return pack_integers(self.unscaled(), self.scales, dtype)


def smallest(packed: PackedWeight) -> PackedWeight | Bitmask:
    """A weight in int8 as a bit mask, if that takes less memory than its quads; any other as it is."""
    if packed.values.type.is_float:
        return packed
    masked = Bitmask.of(packed)
    mask_bytes, quad_bytes = (sum(tensor.nbytes for tensor in weight.tensors) for weight in (masked, packed))
    return masked if mask_bytes < quad_bytes else packed
