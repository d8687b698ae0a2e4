"""A sparse matrix as the kernels read it: values of some number type in some layout."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import kernel
from aerogel.runtime.cells import Cells, block_for, check_tensor
from aerogel.runtime.values import VALUE_TYPES, Values, ValueType, value_type_of

NUMBERS = {value_type.dtype: value_type.number for value_type in VALUE_TYPES.values()}


@dataclass(frozen=True)
class PackedWeight:
    """The non-zeros of a (d_out, d_in) matrix; `dtype` is that of the dense weight."""

    dtype: torch.dtype
    cells: Cells
    values: Values

    @property
    def shape(self) -> tuple[int, int]:
        return self.cells.shape

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, index, order and offsets, as operators take them."""
        return self.values.data, self.cells.index, self.cells.order, self.cells.offsets

    @property
    def density(self) -> float:
        return self.values.data.numel() / math.prod(self.shape)

    def native(self) -> Any:
        """For the kernels, which read the tensors as long as these are there."""
        values = self.values
        module = kernel.required()
        return module.Matrix(self.cells.native(), module.Values(values.type.number, values.data.data_ptr(), 0, 0))

    def to_dense(self) -> Tensor:
        """The (d_out, d_in) matrix in `dtype`; zeros are +0."""
        dense = torch.empty(self.shape, dtype=torch.float32, device="cpu")
        if module := kernel.native():
            module.unpack(self.native(), module.Dense(dense.data_ptr(), *dense.stride()), torch.get_num_threads())
        else:
            dense.zero_().view(-1)[torch.from_numpy(self.cells.positions())] = self.values.data.float()
        return dense.to(self.dtype)

    def check(self) -> None:
        """Raises `ModelError` unless every tensor has the type, the length and the content that the kernels expect."""
        data, value_type = self.values.data, self.values.type
        if not value_type.in_kernels:
            raise ModelError(f"packed values can't be {value_type.name} in memory")
        check_tensor("values", data, value_type.dtype, (data.numel(),))
        self.cells.check(data.numel())

    def rounded(self, value_type: ValueType) -> Self:
        """The same weight with its values rounded to another type."""
        return replace(self, values=Values(value_type, self.values.data.to(value_type.dtype)))


def check_packable(matrix: Tensor) -> None:
    """Raises `ModelError` for a dtype that is not a value type, and for another device than the CPU."""
    if matrix.device.type != "cpu":
        raise ModelError(f"weights on {matrix.device} can't be packed: move the model to the CPU first")
    if str(matrix.dtype).removeprefix("torch.") not in VALUE_TYPES:
        raise ModelError(f"weights of {matrix.dtype} can't be packed: expected one of {', '.join(VALUE_TYPES)}")


def pack(matrix: Tensor) -> PackedWeight:
    """Packs a dense (d_out, d_in) matrix, of any strides; zeros of either sign are left out.

    Raises as `check_packable` does.
    """
    check_packable(matrix)
    shape = (matrix.shape[0], matrix.shape[1])
    value_type = value_type_of(matrix.dtype).in_memory
    dense = matrix.detach().float()
    block = block_for(torch.count_nonzero(dense).item() / dense.numel())
    if not (module := kernel.native()):
        flat = dense.flatten()
        # by their bits: torch takes denormal numbers for zero where it is set to flush them
        positions = (flat.view(torch.int32) & 0x7FFFFFFF).nonzero().squeeze(1)
        cells, by_cell = Cells.of(positions.numpy(), shape, block)
        return PackedWeight(matrix.dtype, cells, Values(value_type, flat[positions][by_cell].to(value_type.dtype)))
    cells, source = Cells.empty(shape, block), module.Dense(dense.data_ptr(), *dense.stride())
    plan = cells.order.data_ptr(), cells.offsets.data_ptr()
    count = module.plan_cells(source, cells.native(), *plan, torch.get_num_threads())
    packed, non_zeros = room(cells, count, value_type, matrix.dtype)
    if not module.fill_cells(source, packed.cells.native(), non_zeros, torch.get_num_threads()):
        raise ModelError("the weight was changed by another thread while it was packed: pack it again")
    return packed


def room(cells: Cells, count: int, value_type: ValueType, dtype: torch.dtype) -> tuple[PackedWeight, Any]:
    """Memory for the non-zeros of cells whose order and offsets are filled, and the same for the kernels to fill."""
    data = torch.empty(count, dtype=value_type.dtype, device="cpu")
    index = torch.empty(count, dtype=torch.uint8, device="cpu")
    non_zeros = kernel.required().NonZeros(value_type.number, data.data_ptr(), index.data_ptr())
    return PackedWeight(dtype, replace(cells, index=index), Values(value_type, data)), non_zeros
