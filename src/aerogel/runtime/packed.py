"""A sparse matrix as the kernels read it: values of some number type in some layout."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError
from aerogel.models.int8 import LARGEST, quantize_rows
from aerogel.runtime import kernel
from aerogel.runtime.cells import PANEL, Cells, block_for, check_tensor, units_in_row
from aerogel.runtime.values import FLOATS, VALUE_TYPES, Values, ValueType, value_type_of

BY_DTYPE = {value_type.dtype: value_type for value_type in VALUE_TYPES.values()}


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
    def tensors(self) -> tuple[Tensor, ...]:
        """Values, index, order and offsets, as operators take them; of integers, also their scales and sums."""
        values, cells = self.values, self.cells
        floats = values.data, cells.index, cells.order, cells.offsets
        return floats if values.scales is None else (*floats, values.scales, self.sums())

    @property
    def density(self) -> float:
        return torch.count_nonzero(self.values.data).item() / math.prod(self.shape)

    def native(self) -> Any:
        """For the kernels, which read the tensors as long as these are there; without the sums of integers."""
        values, module = self.values, kernel.required()
        scales = 0 if values.scales is None else values.scales.data_ptr()
        native = module.Values(values.type.number, values.data.data_ptr(), scales, 0)
        return module.Matrix(self.cells.native(), native, module.Bitmask(0, 0, 0))

    def to_dense(self) -> Tensor:
        """The (d_out, d_in) matrix in `dtype`; zeros are +0."""
        dense = self.unscaled()
        if self.values.scales is not None:
            dense *= self.values.scales[:, None]
        return dense.to(self.dtype)

    def unscaled(self) -> Tensor:
        """The (d_out, d_in) matrix in float32, of integers without their scales."""
        (rows, columns), unit = self.shape, self.cells.unit
        if module := kernel.native():
            dense = torch.empty(self.shape, dtype=torch.float32, device="cpu")
            module.unpack(self.native(), module.Dense(dense.data_ptr(), *dense.stride()), torch.get_num_threads())
            return dense
        dense = torch.zeros((self.cells.units, unit), dtype=torch.float32, device="cpu")
        dense[torch.from_numpy(self.cells.positions())] = self.values.data.float().view(-1, unit)
        return dense.view(rows, -1)[:, :columns].contiguous()

    def sums(self) -> Tensor:
        """The sums of each row's integers in each 768 columns: (groups, d_out), int32."""
        rows, columns = self.shape
        if not (module := kernel.native()):
            groups = functional.pad(self.unscaled(), (0, -columns % PANEL)).view(rows, -1, PANEL)
            return groups.sum(-1).T.to(torch.int32, memory_format=torch.contiguous_format)
        sums = torch.empty((-(-columns // PANEL), rows), dtype=torch.int32, device="cpu")
        module.sum_rows(self.native(), sums.data_ptr(), torch.get_num_threads())
        return sums

    def check(self) -> None:
        """Raises `ModelError` unless every tensor has the type, the length and the content that the kernels expect."""
        data, value_type = self.values.data, self.values.type
        if not value_type.in_kernels or value_type.unit != self.cells.unit:
            raise ModelError(f"packed values can't be {value_type.name} in units of {self.cells.unit} in memory")
        if value_type.is_float != (self.values.scales is None):
            raise ModelError(f"packed {value_type.name} values have {'scales' if value_type.is_float else 'no scales'}")
        count = len(data)
        check_tensor("values", data, value_type.dtype, (count,) if value_type.is_float else (count, value_type.unit))
        self.cells.check(count)
        if self.values.scales is not None:
            self._check_integers(self.values.scales)

    def _check_integers(self, scales: Tensor) -> None:
        cells, data = self.cells, self.values.data
        check_tensor("scales", scales, torch.float32, (self.shape[0],))
        wrong = ~scales.isfinite() | scales.signbit()
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ModelError(f"packed scales: expected finite numbers of at least 0, found {scales[row]} in row {row}")
        if (data < -LARGEST).any():
            raise ModelError(f"packed values: expected integers of at least {-LARGEST}, found {int(data.min())}")
        used = self.shape[1] % cells.unit
        for cell in range(cells.blocks - 1, cells.count, cells.blocks) if used else ():
            first, last = cells.offsets[cell : cell + 2].tolist()
            in_last = cells.index[first:last] == (units_in_row(self.shape[1], cells.unit) - 1) % cells.block
            if data[first:last][in_last, used:].any():
                raise ModelError(f"packed values: found integers beyond column {self.shape[1]}")

    def rounded(self, value_type: ValueType) -> Self:
        """The same weight with its values rounded to another type."""
        if self.values.type.is_float and value_type.is_float:
            return replace(self, values=Values(value_type, self.values.data.to(value_type.dtype)))
        if self.values.type == value_type:
            return self
        packed = pack(replace(self, dtype=torch.float32).to_dense(), value_type)
        return replace(self, cells=packed.cells, values=packed.values)


def check_packable(matrix: Tensor, value_type: ValueType | None = None) -> None:
    """Raises `ModelError` for a dtype that can't be packed or another device than the CPU, and as `check_roundable`."""
    if matrix.device.type != "cpu":
        raise ModelError(f"weights on {matrix.device} can't be packed: move the model to the CPU first")
    if str(matrix.dtype).removeprefix("torch.") not in FLOATS:
        raise ModelError(f"weights of {matrix.dtype} can't be packed: expected one of {', '.join(FLOATS)}")
    check_roundable(matrix, value_type)


def check_roundable(weights: Tensor, value_type: ValueType | None) -> None:
    """Raises `ModelError` for weights that are infinite or NaN if they are to become integers."""
    if value_type and not value_type.is_float and not weights.isfinite().all():
        raise ModelError(f"weights that are infinite or NaN can't be rounded to {value_type.name}")


def pack(matrix: Tensor, value_type: ValueType | None = None) -> PackedWeight:
    """Packs a dense (d_out, d_in) matrix, of any strides; zeros of either sign are left out.

    Its values are rounded to `value_type` unless that is `None`; integers are those of `quantize_rows`. Raises as
    `check_packable` does.
    """
    check_packable(matrix, value_type)
    if value_type and not value_type.is_float:
        integers, scales = quantize_rows(matrix)
        return pack_integers(integers.float(), scales, matrix.dtype)
    packed = _pack(matrix.detach().float(), value_type_of(matrix.dtype).in_memory)
    packed = replace(packed, dtype=matrix.dtype)
    return packed.rounded(value_type) if value_type else packed


def pack_integers(integers: Tensor, scales: Tensor, dtype: torch.dtype) -> PackedWeight:
    """The weight `integers` (d_out, d_in) times `scales` (d_out,), both float32, of a dense weight in `dtype`."""
    return replace(_pack(integers, VALUE_TYPES["int8"], scales), dtype=dtype)


def _pack(dense: Tensor, value_type: ValueType, scales: Tensor | None = None) -> PackedWeight:
    """Packs a float32 matrix that holds the values, integers without their scales."""
    shape, unit = (dense.shape[0], dense.shape[1]), value_type.unit
    module = kernel.native()
    # by their bits: torch takes denormal numbers for zero where it is set to flush them
    if unit > 1 or not module:
        units = functional.pad(dense, (0, -shape[1] % unit)).contiguous().view(-1, unit)
        positions = (units.view(torch.int32) << 1).any(1).nonzero().squeeze(1)
        density = len(positions) / len(units)
    else:
        density = torch.count_nonzero(dense).item() / dense.numel()
    block = block_for(density, unit)
    if not module:
        cells, by_cell = Cells.of(positions.numpy(), shape, block, unit)
        data = units[positions][by_cell].to(value_type.dtype)
        return PackedWeight(torch.float32, cells, Values(value_type, data if unit > 1 else data.squeeze(1), scales))
    cells, source = Cells.empty(shape, block, unit), module.Dense(dense.data_ptr(), *dense.stride())
    plan = cells.order.data_ptr(), cells.offsets.data_ptr()
    count = module.plan_cells(source, cells.native(), *plan, torch.get_num_threads())
    packed, non_zeros = room(cells, count, value_type)
    if not module.fill_cells(source, packed.cells.native(), non_zeros, torch.get_num_threads()):
        raise ModelError("the weight was changed by another thread while it was packed: pack it again")
    return replace(packed, values=replace(packed.values, scales=scales))


def room(cells: Cells, count: int, value_type: ValueType) -> tuple[PackedWeight, Any]:
    """Memory for the non-zeros of cells whose order and offsets are filled, and the same for the kernels to fill."""
    size = (count,) if value_type.is_float else (count, value_type.unit)
    data = torch.empty(size, dtype=value_type.dtype, device="cpu")
    index = torch.empty(count, dtype=torch.uint8, device="cpu")
    non_zeros = kernel.required().NonZeros(value_type.number, data.data_ptr(), index.data_ptr())
    return PackedWeight(torch.float32, replace(cells, index=index), Values(value_type, data)), non_zeros
