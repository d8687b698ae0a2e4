"""The bytes of a packed weight in a checkpoint: docs/format.md."""

import math
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import kernel
from aerogel.runtime.cells import Cells, block_for, units_in_row
from aerogel.runtime.coding import Coding, field_bits
from aerogel.runtime.huffman import Field
from aerogel.runtime.packed import PackedWeight, room
from aerogel.runtime.streams import damaged, read_positions, read_values, write_positions, write_values
from aerogel.runtime.values import VALUE_TYPES, Values, ValueType, value_type_of

CHECKSUM = struct.Struct("<I")  # CRC-32 of all that follows: finds accidental damage
# rows, columns, non-zeros, bytes of their positions; type, dropped bits; each field's first pair and number of pairs
HEADER = struct.Struct("<4I2B4H")
START = CHECKSUM.size + HEADER.size
LONGEST = 2**24  # rows or columns
LARGEST = 2**31  # weights: a few bytes can encode any number of zeros, so this bounds the memory to allocate for them
TYPES = {value_type.number: value_type for value_type in VALUE_TYPES.values()}


def encode(packed: PackedWeight) -> Tensor:
    """(bytes,), uint8. Values in another type than the dtype of the weight are written in that type.

    Raises `ModelError` for a matrix beyond the format.
    """
    _check_shape(packed.shape)
    values, cells = packed.values, packed.cells
    units, count = cells.units, len(values.data)
    own = value_type_of(packed.dtype)
    coding, bits = Coding.of(values.data.to(own.dtype) if values.type == own.in_memory else values.data)
    high, low = (field.to_write() for field in coding.fields)
    if module := kernel.native():
        native, native_coding = cells.native(), coding.native(high, low)
        positions = np.empty(module.most_bytes(units, count), np.uint8)
        stream = np.empty(coding.most_bytes(values.data), np.uint8)
        positions = positions[: module.encode_positions(native, positions.ctypes.data)]
        stream = stream[: module.encode_values(native, bits.ctypes.data, native_coding, stream.ctypes.data)]
    else:
        flat = cells.positions()
        row_major = flat.argsort()
        positions = write_positions(flat[row_major], rice_parameter(units, count))
        stream = write_values(bits[row_major], coding, high, low)
    if not _has_positions(coding, units, count, len(stream)):
        positions = positions[:0]
    fields = [number for field in (coding.high, coding.low) for number in (field.first, len(field.lengths))]
    header = HEADER.pack(*packed.shape, count, len(positions), coding.type.number, coding.dropped, *fields)
    scales = b"" if values.scales is None else values.scales.numpy().tobytes()
    start = bytes(CHECKSUM.size) + header + coding.high.lengths + coding.low.lengths + scales
    content = np.concatenate([np.frombuffer(start, np.uint8), positions, stream])
    CHECKSUM.pack_into(content.data, 0, zlib.crc32(content[CHECKSUM.size :].data))
    return torch.from_numpy(content)


def decode(content: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None) -> PackedWeight:
    """The inverse of `encode`, for a (d_out, d_in) weight of `shape` and `dtype`.

    By default the dtype is that of the values, or float32 for integers. Values that are floats are rounded to `dtype`.
    Raises `ModelError` unless the bytes are whole and fit the shape.
    """
    if content.dtype != torch.uint8 or content.dim() != 1 or content.numel() < START:
        raise ModelError(f"expected a row of at least {START} bytes, found {content.dtype} {tuple(content.shape)}")
    whole = content.contiguous().numpy()
    if CHECKSUM.unpack_from(whole.data) != (zlib.crc32(whole[CHECKSUM.size :].data),):
        raise ModelError("it is damaged: the checksum of its bytes is wrong")
    rows, columns, count, length, number, dropped, *fields = HEADER.unpack_from(whole.data, CHECKSUM.size)
    if (rows, columns) != shape:
        raise ModelError(f"it was packed as {rows} x {columns}, expected {shape[0]} x {shape[1]}")
    _check_shape(shape)
    coding, start = _coding(whole, number, dropped, fields)
    if count > (units := rows * units_in_row(columns, coding.type.unit)):
        raise ModelError(f"it has {count} values, but only {units} places for them")
    first, start = start, start + (0 if coding.type.is_float else 4 * rows)
    if start + length > len(whole):
        raise damaged("header", f"its positions take {length} bytes, and {len(whole) - start} follow")
    positions, stream = whole[start : start + length], whole[start + length :]
    cells, data = _read(positions, stream, shape, count, coding)
    if Coding.of(data)[0] != coding:
        raise damaged("header", "its code is not the one that these values get")
    if coding.type.is_float:
        packed = PackedWeight(dtype or data.dtype, cells, Values.of(data.to(dtype or data.dtype)))
    else:
        scales = torch.from_numpy(np.frombuffer(whole[first:start].tobytes(), "<f4").astype(np.float32))
        packed = PackedWeight(dtype or torch.float32, cells, Values(coding.type, data, scales))
    packed.check()
    return packed


def stored_type(start: bytes) -> ValueType:
    """The type of the values of a packed weight, from its first `START` bytes. Raises `ModelError` if it is unknown."""
    number = HEADER.unpack_from(start, CHECKSUM.size)[4]
    if number not in TYPES:
        raise damaged("header", f"type {number}")
    return TYPES[number]


def _read(
    positions: np.ndarray, stream: np.ndarray, shape: tuple[int, int], count: int, coding: Coding
) -> tuple[Cells, Tensor]:
    """The cells, and the values in the type of the coding, whether or not kernels read that."""
    unit = coding.type.unit
    units = shape[0] * units_in_row(shape[1], unit)
    block = block_for(count / units, unit)
    high, low = (field.to_read() for field in coding.fields)
    implied = not _has_positions(coding, units, count, len(stream))
    if implied and len(positions):
        raise damaged("positions", f"{len(positions)} bytes, expected none where all are non-zeros")
    if not (module := kernel.native()):
        parameter = rice_parameter(units, count)
        flat = np.arange(count) if implied else read_positions(positions, count, units, parameter)
        row_major = torch.from_numpy(read_values(stream, count, coding, high, low)).view(coding.type.dtype)
        cells, by_cell = Cells.of(flat, shape, block, unit)
        return cells, row_major[by_cell]
    cells = Cells.empty(shape, block, unit)
    where = module.Positions(positions.ctypes.data, len(positions), count, implied)
    if damage := module.plan_decoded(where, cells.native(), cells.order.data_ptr(), cells.offsets.data_ptr()):
        raise damaged("positions", damage)
    packed, non_zeros = room(cells, count, coding.type)
    values = module.CodedValues(stream.ctypes.data, len(stream), coding.native(high, low))
    if damage := module.fill_decoded(where, values, cells.native(), non_zeros):
        raise damaged("values", damage)
    return packed.cells, packed.values.data


def rice_parameter(units: int, count: int) -> int:
    """Bits of a gap that are written as they are; csrc/codec.cpp has the same."""
    return ((2 * units - count) // (4 * count)).bit_length() if count else 0


def _has_positions(coding: Coding, units: int, count: int, value_bytes: int) -> bool:
    """Whether positions are written: not for quads without an empty one among them, unless these take almost no bytes,
    since a few bytes could then ask for any amount of memory."""
    return coding.type.is_float or count < units or 8 * value_bytes < count


def _coding(whole: np.ndarray, number: int, dropped: int, numbers: list[int]) -> tuple[Coding, int]:
    """The coding in a header and in the tables behind it, and where these end. Raises `ModelError`."""
    value_type = TYPES.get(number)
    if value_type is None or min(field_bits(value_type, dropped)) < 1:
        raise damaged("header", f"type {number}, {dropped} bits dropped")
    fields, end = [], START
    for bits, first, pairs in zip(field_bits(value_type, dropped), numbers[::2], numbers[1::2], strict=True):
        field = Field(bits if pairs else 0, first, whole[end : end + pairs].tobytes())
        end += pairs
        if end > len(whole) or not field.sound or (first and not pairs):
            raise damaged("header", "a code is not whole")
        fields.append(field)
    return Coding(value_type, dropped, *fields), end


def _check_shape(shape: tuple[int, int]) -> None:
    if not (min(shape) > 0 and max(shape) <= LONGEST and math.prod(shape) <= LARGEST):
        raise ModelError(
            f"a matrix of {shape[0]} x {shape[1]} can't be packed: "
            f"at most {LONGEST} rows or columns and {LARGEST} weights fit"
        )
