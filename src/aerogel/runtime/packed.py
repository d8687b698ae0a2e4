"""A sparse matrix as the kernels read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.kernel import native, threads

PANEL = 768  # rows; the same in csrc/kernel.h
BLOCKS = (128, 192, 256)  # columns; each divides PANEL, and a column inside one is a byte
VALUE_TYPES = (torch.float32, torch.bfloat16)


class Format(StrEnum):
    CELLS = "cells"


@dataclass(frozen=True)
class PackedWeight:
    """The non-zeros of a (d_out, d_in) matrix, in cells of 768 rows by `block` columns.

    Cells go panel of rows by panel of rows, and in a panel from left to right. In a cell the rows are sorted by their
    number of non-zeros, the longest first: `order` (rows * blocks, 2), uint16, has the row within the panel and that
    number. `values` (non-zeros,), float32 or bfloat16, and `index` (non-zeros,), uint8, the column within the block,
    lie row after row in that order; `offsets` (cells + 1,), int64, says where each cell's begin. `dtype` is the type
    of the dense weight, which float32 values hold exactly where it is float16.
    """

    format: Format
    shape: tuple[int, int]
    dtype: torch.dtype
    block: int
    values: Tensor
    index: Tensor
    order: Tensor
    offsets: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.values, self.index, self.order, self.offsets

    @property
    def density(self) -> float:
        return self.values.numel() / math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_dense(self) -> Tensor:
        """The (d_out, d_in) matrix in `dtype`; zeros are +0."""
        dense = torch.empty(self.shape, dtype=torch.float32)
        if module := native():
            module.unpack(
                native_matrix(self.shape, self.block, *self.tensors), dense.data_ptr(), dense.stride(0), 1, threads()
            )
        else:
            _unpack_with_torch(self, dense)
        return dense.to(self.dtype)

    def check(self) -> None:
        """Raises `ModelError` unless every array has the type, the length and the content that the kernels rely on."""
        rows, columns = self.shape
        if self.format not in Format or self.block not in BLOCKS or min(rows, columns) < 1:
            raise ModelError(f"no packed weight is {self.format!r} of {rows} x {columns} in blocks of {self.block}")
        blocks, cells = grid(self.shape, self.block)
        expected = {
            "values": (VALUE_TYPES, (self.values.numel(),)),
            "index": ((torch.uint8,), (self.values.numel(),)),
            "order": ((torch.uint16,), (rows * blocks, 2)),
            "offsets": ((torch.int64,), (cells + 1,)),
        }
        for name, (dtypes, shape) in expected.items():
            tensor = getattr(self, name)
            if tensor.dtype not in dtypes or tuple(tensor.shape) != shape or not tensor.is_contiguous():
                raise ModelError(
                    f"packed {name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}, "
                    f"expected {' or '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)} {shape}"
                )
        if module := native():
            wrong = module.check(native_matrix(self.shape, self.block, *self.tensors), self.values.numel())
            if wrong:
                raise ModelError(f"a packed weight of {rows} x {columns} is damaged: {wrong}")

    def with_values(self, dtype: torch.dtype) -> PackedWeight:
        """The same weight with its values kept in float32 or bfloat16; rounding is asked for by the caller."""
        return replace(self, values=self.values.to(dtype))


def pack(matrix: Tensor) -> PackedWeight:
    """Packs a dense (d_out, d_in) matrix, of any strides; zeros of either sign are left out.

    Raises `ModelError` for a dtype other than float32, bfloat16 and float16.
    """
    if matrix.dtype not in (*VALUE_TYPES, torch.float16):
        raise ModelError(f"weights of {str(matrix.dtype).removeprefix('torch.')} can't be packed")
    shape = (matrix.shape[0], matrix.shape[1])
    value_type = torch.bfloat16 if matrix.dtype == torch.bfloat16 else torch.float32
    dense = matrix.detach().float()
    block = block_for(torch.count_nonzero(dense).item() / dense.numel())
    blocks, cells = grid(shape, block)
    order = torch.empty((shape[0] * blocks, 2), dtype=torch.uint16)
    offsets = torch.empty(cells + 1, dtype=torch.int64)
    if not (module := native()):
        return _pack_with_torch(dense, matrix.dtype, value_type, block)
    place = (dense.data_ptr(), *shape, *dense.stride(), block, order.data_ptr(), offsets.data_ptr())
    count = module.plan_cells(*place, threads())
    values, index = torch.empty(count, dtype=value_type), torch.empty(count, dtype=torch.uint8)
    filled = native_matrix(shape, block, values, index, order, offsets)
    module.fill_cells(dense.data_ptr(), *dense.stride(), filled, threads())
    return PackedWeight(Format.CELLS, shape, matrix.dtype, block, values, index, order, offsets)


def block_for(density: float) -> int:
    """Columns in a block: few, so that the part of the activations it reads sits in the first cache, but not so few
    that a row's partial sums are loaded and stored for a handful of non-zeros."""
    return 128 if density > 0.15 else 192 if density > 0.03 else 256


def native_matrix(
    shape: tuple[int, int], block: int, values: Tensor, index: Tensor, order: Tensor, offsets: Tensor
) -> Any:
    module = native()
    assert module is not None
    addresses = values.data_ptr(), index.data_ptr(), order.data_ptr(), offsets.data_ptr()
    return module.Matrix(*shape, block, values.dtype == torch.bfloat16, *addresses)


def grid(shape: tuple[int, int], block: int) -> tuple[int, int]:
    """Blocks in a row of them, cells in all."""
    blocks = math.ceil(shape[1] / block)
    return blocks, math.ceil(shape[0] / PANEL) * blocks


def _pack_with_torch(dense: Tensor, dtype: torch.dtype, value_type: torch.dtype, block: int) -> PackedWeight:
    values, index, order, counts = [], [], [], [0]
    for panel in dense.split(PANEL):
        for cell in panel.split(block, dim=1):
            present = cell != 0
            per_row, rows = present.sum(dim=1).sort(descending=True, stable=True)
            order.append(torch.stack([rows, per_row], dim=1))
            _, columns = present[rows].nonzero(as_tuple=True)
            values.append(cell[rows][present[rows]])
            index.append(columns)
            counts.append(len(columns))
    shape = (dense.shape[0], dense.shape[1])
    return PackedWeight(
        Format.CELLS,
        shape,
        dtype,
        block,
        torch.cat(values).to(value_type),
        torch.cat(index).to(torch.uint8),
        torch.cat(order).to(torch.uint16),
        torch.tensor(counts).cumsum(0),
    )


def _unpack_with_torch(packed: PackedWeight, dense: Tensor) -> None:
    dense.zero_()
    order, offsets = packed.order.long(), packed.offsets.tolist()
    cell = at = 0
    for panel in dense.split(PANEL):
        for part in panel.split(packed.block, dim=1):
            rows, counts = order[at : at + len(panel)].unbind(dim=1)
            here = slice(offsets[cell], offsets[cell + 1])
            part[rows.repeat_interleave(counts), packed.index[here].long()] = packed.values[here].float()
            cell, at = cell + 1, at + len(panel)
