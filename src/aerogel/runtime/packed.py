"""A sparse matrix as the kernels read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
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

    def to_dense(self) -> Tensor:
        """The (d_out, d_in) matrix in `dtype`; zeros are +0."""
        dense = torch.empty(self.shape, dtype=torch.float32, device="cpu")
        if module := native():
            module.unpack(
                native_matrix(self.shape, self.block, *self.tensors), dense.data_ptr(), dense.stride(0), 1, threads()
            )
        else:
            dense.zero_().view(-1)[torch.from_numpy(flat_positions(self))] = self.values.float()
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


def check_packable(matrix: Tensor) -> None:
    """Raises `ModelError` for a dtype other than float32, bfloat16 and float16, and for another device than the CPU."""
    if matrix.device.type != "cpu":
        raise ModelError(f"weights on {matrix.device} can't be packed: move the model to the CPU first")
    if matrix.dtype not in (*VALUE_TYPES, torch.float16):
        raise ModelError(f"weights of {str(matrix.dtype).removeprefix('torch.')} can't be packed")


def pack(matrix: Tensor) -> PackedWeight:
    """Packs a dense (d_out, d_in) matrix, of any strides; zeros of either sign are left out.

    Raises as `check_packable` does.
    """
    check_packable(matrix)
    shape = (matrix.shape[0], matrix.shape[1])
    value_type = torch.bfloat16 if matrix.dtype == torch.bfloat16 else torch.float32
    dense = matrix.detach().float()
    block = block_for(torch.count_nonzero(dense).item() / dense.numel())
    blocks, cells = grid(shape, block)
    if not (module := native()):
        flat = dense.flatten()
        # by their bits: torch takes denormal numbers for zero where it is set to flush them
        places = (flat.view(torch.int32) & 0x7FFFFFFF).nonzero().squeeze(1)
        order, offsets, index, values = arranged(places.numpy(), flat[places].to(value_type), shape, block)
        return PackedWeight(Format.CELLS, shape, matrix.dtype, block, values, index, order, offsets)
    order = torch.empty((shape[0] * blocks, 2), dtype=torch.uint16, device="cpu")
    offsets = torch.empty(cells + 1, dtype=torch.int64, device="cpu")
    place = (dense.data_ptr(), *shape, *dense.stride(), block, order.data_ptr(), offsets.data_ptr())
    count = module.plan_cells(*place, threads())
    values = torch.empty(count, dtype=value_type, device="cpu")
    index = torch.empty(count, dtype=torch.uint8, device="cpu")
    filled = native_matrix(shape, block, values, index, order, offsets)
    if not module.fill_cells(dense.data_ptr(), *dense.stride(), filled, threads()):
        raise ModelError("the weight was changed by another thread while it was packed: pack it again")
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


# without the kernels


def flat_positions(packed: PackedWeight) -> np.ndarray:
    """Where each non-zero of the cells lies in the matrix, counted row after row."""
    rows, blocks = _entries(packed.order.numpy()[:, 0], packed.shape, packed.block)
    counts = packed.order.numpy()[:, 1]
    start = rows * packed.shape[1] + blocks * packed.block
    return np.repeat(start, counts) + packed.index.numpy()


def _entries(order: np.ndarray, shape: tuple[int, int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and block of each entry of a packed weight's order, given their rows within the panels."""
    blocks, _ = grid(shape, block)
    panels = [(first, min(PANEL, shape[0] - first)) for first in range(0, shape[0], PANEL)]
    firsts = np.concatenate([np.full(rows * blocks, first) for first, rows in panels])
    return firsts + order, np.concatenate([np.repeat(np.arange(blocks), rows) for _, rows in panels])


def arranged(
    flat: np.ndarray, values: Tensor, shape: tuple[int, int], block: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order, offsets, index and values of cells, from positions and values in row-major order."""
    blocks, _ = grid(shape, block)
    row, column = np.divmod(flat, shape[1])
    run = row * blocks + column // block
    counts = np.bincount(run, minlength=shape[0] * blocks).reshape(shape[0], blocks)
    order = []
    offsets = [0]
    for first in range(0, shape[0], PANEL):
        for cell in counts[first : first + PANEL].T:
            rows = np.argsort(-cell, kind="stable")
            order.append(np.stack([rows, cell[rows]], axis=1))
            offsets.append(offsets[-1] + int(cell.sum()))
    joined = np.concatenate(order)
    entry = np.empty(shape[0] * blocks, np.int64)
    rows, in_block = _entries(joined[:, 0], shape, block)
    entry[rows * blocks + in_block] = np.arange(len(joined))
    by_cell = np.argsort(entry[run], kind="stable")
    index = torch.from_numpy((column % block)[by_cell].astype(np.uint8))
    starts = torch.from_numpy(np.array(offsets, np.int64))
    return torch.from_numpy(joined.astype(np.uint16)), starts, index, values[torch.from_numpy(by_cell)]
