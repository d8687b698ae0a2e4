"""A layout of the non-zeros of a matrix: cells of single weights."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import kernel

PANEL = 768  # rows; the same in csrc/kernel.h
BLOCKS = (128, 192, 256)  # columns; each divides PANEL, and a column inside one is a byte


@dataclass(frozen=True)
class Cells:
    """Where the non-zeros of a (d_out, d_in) matrix are, in cells of 768 rows by `block` columns.

    Cells are stored panel of rows by panel of rows, and in a panel from left to right. In a cell the rows are sorted by
    their number of non-zeros, the longest first: `order` (rows * blocks, 2), uint16, has the row within the panel and
    that number. `index` (non-zeros,), uint8, has the column within the block, row after row in that order; `offsets`
    (cells + 1,), int64, has the start of each cell.
    """

    shape: tuple[int, int]
    block: int
    order: Tensor
    offsets: Tensor
    index: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], block: int) -> Self:
        """Memory for the order and the offsets of a matrix, to be filled."""
        order = torch.empty((shape[0] * blocks_in_row(shape, block), 2), dtype=torch.uint16, device="cpu")
        offsets = torch.empty(cell_count(shape, block) + 1, dtype=torch.int64, device="cpu")
        return cls(shape, block, order, offsets, torch.empty(0, dtype=torch.uint8, device="cpu"))

    @classmethod
    def of(cls, positions: np.ndarray, shape: tuple[int, int], block: int) -> tuple[Self, Tensor]:
        """The cells of non-zeros at these positions, in row-major order, and where each entry of theirs is there.

        Computed with NumPy, for installations without the kernels.
        """
        blocks = blocks_in_row(shape, block)
        row, column = np.divmod(positions, shape[1])
        run = row * blocks + column // block
        counts = np.bincount(run, minlength=shape[0] * blocks).reshape(shape[0], blocks)
        order, offsets = [], [0]
        for first in range(0, shape[0], PANEL):
            for cell in counts[first : first + PANEL].T:
                rows = np.argsort(-cell, kind="stable")
                order.append(np.stack([rows, cell[rows]], axis=1))
                offsets.append(offsets[-1] + int(cell.sum()))
        joined = np.concatenate(order)
        entry = np.empty(shape[0] * blocks, np.int64)
        rows, in_row = _entries(joined[:, 0], shape, block)
        entry[rows * blocks + in_row] = np.arange(len(joined))
        by_cell = np.argsort(entry[run], kind="stable")
        tensors = joined.astype(np.uint16), np.array(offsets, np.int64), (column % block)[by_cell].astype(np.uint8)
        return cls(shape, block, *map(torch.from_numpy, tensors)), torch.from_numpy(by_cell)

    def positions(self) -> np.ndarray:
        """The position of each non-zero in the matrix, counted row after row. Computed with NumPy."""
        order = self.order.numpy()
        rows, blocks = _entries(order[:, 0], self.shape, self.block)
        start = rows * self.shape[1] + blocks * self.block
        return np.repeat(start, order[:, 1]) + self.index.numpy()

    def native(self) -> Any:
        """For the kernels, which read the tensors as long as these are there."""
        addresses = self.order.data_ptr(), self.offsets.data_ptr(), self.index.data_ptr()
        return kernel.required().Cells(*self.shape, self.block, 1, *addresses)

    def check(self, count: int) -> None:
        """Raises `ModelError` unless all tensors are as the kernels expect for this number of non-zeros."""
        rows, columns = self.shape
        if self.block not in BLOCKS or min(rows, columns) < 1:
            raise ModelError(f"a packed weight can't be {rows} x {columns} in blocks of {self.block}")
        entries = rows * blocks_in_row(self.shape, self.block)
        check_tensor("index", self.index, torch.uint8, (count,))
        check_tensor("order", self.order, torch.uint16, (entries, 2))
        check_tensor("offsets", self.offsets, torch.int64, (cell_count(self.shape, self.block) + 1,))
        if (module := kernel.native()) and (damage := module.check(self.native(), count)):
            raise ModelError(f"a packed weight of {rows} x {columns} is damaged: {damage}")


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raises `ModelError` for a tensor of another dtype or shape, or one that is not contiguous."""
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise ModelError(f"packed {name}: expected {dtype} {shape}, found {tensor.dtype} {tuple(tensor.shape)}")


def block_for(density: float) -> int:
    """Columns in a block: few, so that the part of the activations it reads fits in the first cache, but not so few
    that a row's partial sums are loaded and stored for a handful of non-zeros."""
    return 128 if density > 0.15 else 192 if density > 0.03 else 256


def blocks_in_row(shape: tuple[int, int], block: int) -> int:
    return math.ceil(shape[1] / block)


def cell_count(shape: tuple[int, int], block: int) -> int:
    return math.ceil(shape[0] / PANEL) * blocks_in_row(shape, block)


def _entries(order: np.ndarray, shape: tuple[int, int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and block of each entry of `Cells.order`, given their rows within the panels."""
    blocks = blocks_in_row(shape, block)
    panels = [(first, min(PANEL, shape[0] - first)) for first in range(0, shape[0], PANEL)]
    firsts = np.concatenate([np.full(rows * blocks, first) for first, rows in panels])
    return firsts + order, np.concatenate([np.repeat(np.arange(blocks), rows) for _, rows in panels])
