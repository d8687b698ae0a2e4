"""A layout of the non-zeros of a matrix: cells of single weights, or of units of neighbouring ones."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import kernel

PANEL = 768  # rows; the same in csrc/kernel.h
# The sizes of blocks in units, for units of one column and of four: the columns of a block divide PANEL, and a unit
# inside a block is a byte.
BLOCKS = {1: (128, 192, 256), 4: (64, 96, 192)}


@dataclass(frozen=True)
class Cells:
    """Where the non-zeros of a (d_out, d_in) matrix are, in cells of 768 rows by `block` units.

    A unit is `unit` neighbouring columns of a row, fewer at its end; a non-zero is a unit that is not all zeros. Cells
    are stored panel of rows by panel of rows, and in a panel from left to right. In a cell the rows are sorted by their
    number of non-zeros, the longest first: `order` (rows * blocks, 2), uint16, has the row within the panel and that
    number. `index` (non-zeros,), uint8, has the unit within the block, row after row in that order; `offsets`
    (cells + 1,), int64, has the start of each cell.
    """

    shape: tuple[int, int]
    block: int
    unit: int
    order: Tensor
    offsets: Tensor
    index: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], block: int, unit: int) -> Self:
        """Memory for the order and the offsets of a matrix, to be filled."""
        nothing = torch.empty(0, dtype=torch.uint8, device="cpu")
        cells = cls(shape, block, unit, nothing, nothing, nothing)
        order = torch.empty((shape[0] * cells.blocks, 2), dtype=torch.uint16, device="cpu")
        return replace(cells, order=order, offsets=torch.empty(cells.count + 1, dtype=torch.int64, device="cpu"))

    @classmethod
    def of(cls, positions: np.ndarray, shape: tuple[int, int], block: int, unit: int) -> tuple[Self, Tensor]:
        """The cells of non-zeros at these positions, in row-major order, and where each entry of theirs is there.

        Computed with NumPy, for installations without the kernels.
        """
        blocks = blocks_in_row(shape[1], block, unit)
        row, in_row = np.divmod(positions, units_in_row(shape[1], unit))
        run = row * blocks + in_row // block
        counts = np.bincount(run, minlength=shape[0] * blocks).reshape(shape[0], blocks)
        order, offsets = [], [0]
        for first in range(0, shape[0], PANEL):
            for cell in counts[first : first + PANEL].T:
                rows = np.argsort(-cell, kind="stable")
                order.append(np.stack([rows, cell[rows]], axis=1))
                offsets.append(offsets[-1] + int(cell.sum()))
        joined = np.concatenate(order)
        entry = np.empty(shape[0] * blocks, np.int64)
        rows, block_of_row = _entries(joined[:, 0], shape[0], blocks)
        entry[rows * blocks + block_of_row] = np.arange(len(joined))
        by_cell = np.argsort(entry[run], kind="stable")
        tensors = joined.astype(np.uint16), np.array(offsets, np.int64), (in_row % block)[by_cell].astype(np.uint8)
        return cls(shape, block, unit, *map(torch.from_numpy, tensors)), torch.from_numpy(by_cell)

    @property
    def units(self) -> int:
        """In the whole matrix."""
        return self.shape[0] * units_in_row(self.shape[1], self.unit)

    @property
    def blocks(self) -> int:
        """In a row."""
        return blocks_in_row(self.shape[1], self.block, self.unit)

    @property
    def count(self) -> int:
        """The number of cells."""
        return math.ceil(self.shape[0] / PANEL) * self.blocks

    def positions(self) -> np.ndarray:
        """The number of each non-zero's unit in the matrix, row after row. Computed with NumPy."""
        order = self.order.numpy()
        rows, blocks = _entries(order[:, 0], self.shape[0], self.blocks)
        start = rows * units_in_row(self.shape[1], self.unit) + blocks * self.block
        return np.repeat(start, order[:, 1]) + self.index.numpy()

    def native(self) -> Any:
        """For the kernels, which read the tensors as long as these are there."""
        addresses = self.order.data_ptr(), self.offsets.data_ptr(), self.index.data_ptr()
        return kernel.required().Cells(*self.shape, self.block, self.unit, *addresses)

    def check(self, count: int) -> None:
        """Raises `ModelError` unless all tensors are as the kernels expect for this number of non-zeros."""
        rows, columns = self.shape
        if self.block not in BLOCKS[self.unit] or min(rows, columns) < 1:
            raise ModelError(f"a packed weight can't be {rows} x {columns} in blocks of {self.block}")
        check_tensor("index", self.index, torch.uint8, (count,))
        check_tensor("order", self.order, torch.uint16, (rows * self.blocks, 2))
        check_tensor("offsets", self.offsets, torch.int64, (self.count + 1,))
        if (module := kernel.native()) and (damage := module.check(self.native(), count)):
            raise ModelError(f"a packed weight of {rows} x {columns} is damaged: {damage}")


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raises `ModelError` for a tensor of another dtype or shape, or one that is not contiguous."""
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise ModelError(f"packed {name}: expected {dtype} {shape}, found {tensor.dtype} {tuple(tensor.shape)}")


def block_for(density: float, unit: int) -> int:
    """Units in a block: few, so that the part of the activations it reads fits in the first cache, but not so few that
    a row's partial sums are loaded and stored for a handful of non-zeros. `density` is the share of non-zero units."""
    few, more, many = BLOCKS[unit]
    above = (0.15, 0.03) if unit == 1 else (0.7, 0.25)
    return few if density > above[0] else more if density > above[1] else many


def units_in_row(columns: int, unit: int) -> int:
    return -(-columns // unit)


def blocks_in_row(columns: int, block: int, unit: int) -> int:
    return -(-units_in_row(columns, unit) // block)


def _entries(order: np.ndarray, rows: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and block of each entry of `Cells.order`, given their rows within the panels."""
    panels = [(first, min(PANEL, rows - first)) for first in range(0, rows, PANEL)]
    firsts = np.concatenate([np.full(count * blocks, first) for first, count in panels])
    return firsts + order, np.concatenate([np.repeat(np.arange(blocks), count) for _, count in panels])
