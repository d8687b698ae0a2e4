"""A packed weight as a checkpoint keeps it: docs/format.md."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.kernel import native
from aerogel.runtime.packed import (
    Format,
    PackedWeight,
    arranged,
    block_for,
    flat_positions,
    grid,
    native_matrix,
)

HEADER = struct.Struct("<III")  # rows, columns, checksum
LONGEST = 2**24  # rows or columns
LARGEST = 2**31  # weights: a few bytes can stand for any number of zeros, so what they ask for in memory has a bound
POSITIONS, VALUES = "weight.positions", "weight.values"  # the names of the two tensors within a layer
STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def encode(packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """Positions (bytes,), uint8, and values (non-zeros,) in row-major order, in the weight's own dtype.

    Values asked for in bfloat16 stay so, whatever the dtype. Raises `ModelError` for a matrix beyond the format.
    """
    _check_shape(packed.shape)
    size, count = math.prod(packed.shape), packed.values.numel()
    values = torch.empty_like(packed.values)
    if module := native():
        positions = torch.empty(HEADER.size + module.most_bytes(size, count), dtype=torch.uint8)
        matrix = native_matrix(packed.shape, packed.block, *packed.tensors)
        length = module.encode(matrix, positions.data_ptr() + HEADER.size, values.data_ptr())
        positions = positions[: HEADER.size + length].clone()
    else:
        flat = flat_positions(packed)
        row_major = flat.argsort()
        stream = _write(flat[row_major], rice_parameter(size, count))
        positions = torch.from_numpy(np.concatenate([np.zeros(HEADER.size, np.uint8), stream]))
        values = packed.values[torch.from_numpy(row_major)]
    if values.dtype != torch.bfloat16:
        values = values.to(packed.dtype)
    header = HEADER.pack(*packed.shape, checksum(positions, values))
    positions[: HEADER.size] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    return positions, values


def decode(positions: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None) -> PackedWeight:
    """The inverse of `encode`, for a (d_out, d_in) weight of `shape` in the dtype of `values`, or rounded to `dtype`.

    Raises `ModelError` unless both are whole and fit each other and the shape.
    """
    if positions.dtype != torch.uint8 or positions.dim() != 1 or positions.numel() < HEADER.size:
        raise ModelError("its positions are no bytes with a header")
    if values.dtype not in STORED_TYPES or values.dim() != 1:
        raise ModelError(f"its values are {_name(values.dtype)} {tuple(values.shape)}, expected a row of floats")
    *found, expected = HEADER.unpack(bytes(positions[: HEADER.size].tolist()))
    if tuple(found) != shape:
        raise ModelError(f"it was packed as {found[0]} x {found[1]}, expected {shape[0]} x {shape[1]}")
    _check_shape(shape)
    count, size = values.numel(), math.prod(shape)
    if count > size:
        raise ModelError(f"it has {count} values, but only {size} places")
    if checksum(positions, values) != expected:
        raise ModelError("its positions or values are damaged: they don't have their checksum")
    dtype = dtype or values.dtype
    values = values.to(dtype).to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32).contiguous()
    stream = positions[HEADER.size :].contiguous()
    block = block_for(count / size)
    if not (module := native()):
        order, offsets, index, values = arranged(_read(stream.numpy(), count, size), values, shape, block)
        return PackedWeight(Format.CELLS, shape, dtype, block, values, index, order, offsets)
    blocks, cells = grid(shape, block)
    order = torch.empty((shape[0] * blocks, 2), dtype=torch.uint16)
    offsets = torch.empty(cells + 1, dtype=torch.int64)
    place = stream.data_ptr(), stream.numel(), count
    if wrong := module.plan_decoded(*place, *shape, block, order.data_ptr(), offsets.data_ptr()):
        raise _damaged(wrong)
    filled, index = torch.empty_like(values), torch.empty(count, dtype=torch.uint8)
    module.fill_decoded(*place, values.data_ptr(), native_matrix(shape, block, filled, index, order, offsets))
    return PackedWeight(Format.CELLS, shape, dtype, block, filled, index, order, offsets)


def checksum(positions: Tensor, values: Tensor) -> int:
    """CRC-32 of the stream and the values, which tells damage from a weight that is meant."""
    stream = positions[HEADER.size :].contiguous()
    return zlib.crc32(values.contiguous().view(torch.uint8).numpy().data, zlib.crc32(stream.numpy().data))


def rice_parameter(size: int, count: int) -> int:
    """Bits of a gap that are written as they are; csrc/codec.cpp has the same."""
    return ((2 * size - count) // (4 * count)).bit_length() if count else 0


def _check_shape(shape: tuple[int, int]) -> None:
    if not (min(shape) > 0 and max(shape) <= LONGEST and math.prod(shape) <= LARGEST):
        raise ModelError(f"a matrix of {shape[0]} x {shape[1]} is beyond what the packed format holds")


def _damaged(how: str) -> ModelError:
    return ModelError(f"its positions are damaged: {how}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# without the kernels

LEAVES = "they end early or leave the matrix"


def _write(flat: np.ndarray, parameter: int) -> np.ndarray:
    gaps = np.diff(flat, prepend=-1) - 1
    ones = (gaps >> parameter) + np.arange(len(gaps)) * (1 + parameter)
    ones += np.cumsum(gaps >> parameter) - (gaps >> parameter)
    bits = np.zeros(ones[-1] + 1 + parameter if len(ones) else 0, np.uint8)
    bits[ones] = 1
    for place in range(parameter):
        bits[ones + 1 + place] = gaps >> place & 1
    return np.packbits(bits, bitorder="little")


def _read(stream: np.ndarray, count: int, size: int) -> np.ndarray:
    parameter = rice_parameter(size, count)
    bits = np.unpackbits(stream, bitorder="little")
    content = bits.tobytes()
    starts = np.zeros(count + 1, np.int64)
    at = 0
    for place in range(count):
        at = content.find(1, at) + 1 + parameter
        if not parameter < at <= len(bits):
            raise _damaged(LEAVES)
        starts[place + 1] = at
    ones = starts[1:] - 1 - parameter
    zeros = ones - starts[:-1]
    if (zeros > size >> parameter).any():
        raise _damaged(LEAVES)
    gaps = zeros << parameter
    for place in range(parameter):
        gaps |= bits[ones + 1 + place].astype(np.int64) << place
    flat = np.cumsum(gaps + 1) - 1
    if count and flat[-1] >= size:
        raise _damaged(LEAVES)
    if len(bits) - at >= 8 or bits[at:].any():
        raise _damaged("something follows the last position")
    return flat
