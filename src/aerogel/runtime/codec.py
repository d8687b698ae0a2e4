"""The bytes of a packed weight in a checkpoint: docs/format.md."""

import math
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import kernel
from aerogel.runtime.cells import Cells, block_for
from aerogel.runtime.huffman import LONGEST_CODE, Field
from aerogel.runtime.packed import PackedWeight, room
from aerogel.runtime.values import VALUE_TYPES, Values, ValueType, value_type_of

CHECKSUM = struct.Struct("<I")  # CRC-32 of all that follows: finds accidental damage
# rows, columns, non-zeros, bytes of their positions; type, dropped bits; each field's first pair and number of pairs
HEADER = struct.Struct("<4I2B4H")
START = CHECKSUM.size + HEADER.size
LONGEST = 2**24  # rows or columns
LARGEST = 2**31  # weights: a few bytes can encode any number of zeros, so this bounds the memory to allocate for them
LOW_BITS = 8
TYPES = {value_type.number: value_type for value_type in VALUE_TYPES.values()}


@dataclass(frozen=True)
class Coding:
    """How values of a type are written: csrc/codec.h."""

    type: ValueType
    dropped: int
    high: Field
    low: Field

    @property
    def middle(self) -> int:
        return self.type.bits - self.dropped - self.high.bits - self.low.bits

    def native(self, high: np.ndarray, low: np.ndarray) -> Any:
        """For the native module, with the fields' tables to write or to read, which the caller keeps alive."""
        module = kernel.required()
        fields = module.Field(self.high.bits, high.ctypes.data), module.Field(self.low.bits, low.ctypes.data)
        return module.Coding(self.type.number, self.dropped, *fields)


def encode(packed: PackedWeight) -> Tensor:
    """(bytes,), uint8. Values in another type than the dtype of the weight are written in that type.

    Raises `ModelError` for a matrix beyond the format.
    """
    _check_shape(packed.shape)
    values, cells = packed.values, packed.cells
    size, count = math.prod(packed.shape), values.data.numel()
    own = value_type_of(packed.dtype)
    coding, bits = _fitted(values.data.to(own.dtype) if values.type == own.in_memory else values.data)
    high, low = coding.high.to_write(), coding.low.to_write()
    if module := kernel.native():
        native, native_coding = cells.native(), coding.native(high, low)
        positions = np.empty(module.most_bytes(size, count), np.uint8)
        stream = np.empty(count * coding.type.bits // 8, np.uint8)
        positions = positions[: module.encode_positions(native, positions.ctypes.data)]
        stream = stream[: module.encode_values(native, bits.ctypes.data, native_coding, stream.ctypes.data)]
    else:
        flat = cells.positions()
        row_major = flat.argsort()
        positions = _write_positions(flat[row_major], rice_parameter(size, count))
        stream = _write_values(bits[row_major], coding, high, low)
    fields = [number for field in (coding.high, coding.low) for number in (field.first, len(field.lengths))]
    header = HEADER.pack(*packed.shape, count, len(positions), coding.type.number, coding.dropped, *fields)
    start = bytes(CHECKSUM.size) + header + coding.high.lengths + coding.low.lengths
    content = np.concatenate([np.frombuffer(start, np.uint8), positions, stream])
    CHECKSUM.pack_into(content.data, 0, zlib.crc32(content[CHECKSUM.size :].data))
    return torch.from_numpy(content)


def decode(content: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None) -> PackedWeight:
    """The inverse of `encode`, for a (d_out, d_in) weight of `shape` in the dtype of the values, or rounded to `dtype`.

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
    if count > math.prod(shape):
        raise ModelError(f"it has {count} values, but only {math.prod(shape)} elements")
    coding, start = _coding(whole, number, dropped, fields)
    if start + length > len(whole):
        raise _damaged("header", f"its positions take {length} bytes, and {len(whole) - start} follow")
    packed = _read(whole[start : start + length], whole[start + length :], shape, count, coding)
    data = packed.values.data
    if _fitted(data)[0] != coding:
        raise _damaged("header", "its code is not the one that these values get")
    if dtype:
        packed = replace(packed, dtype=dtype)
    packed = replace(packed, values=Values.of(data.to(packed.dtype)))
    packed.check()
    return packed


def _read(
    positions: np.ndarray, stream: np.ndarray, shape: tuple[int, int], count: int, coding: Coding
) -> PackedWeight:
    """The weight with its values in the type of the coding, whether or not kernels read that."""
    size, dtype = math.prod(shape), coding.type.dtype
    block = block_for(count / size)
    high, low = coding.high.to_read(), coding.low.to_read()
    if not (module := kernel.native()):
        flat = _read_positions(positions, count, size)
        row_major = torch.from_numpy(_read_values(stream, count, coding, high, low)).view(dtype)
        cells, by_cell = Cells.of(flat, shape, block)
        return PackedWeight(dtype, cells, Values(coding.type, row_major[by_cell]))
    cells = Cells.empty(shape, block)
    where = module.Positions(positions.ctypes.data, len(positions), count)
    if damage := module.plan_decoded(where, cells.native(), cells.order.data_ptr(), cells.offsets.data_ptr()):
        raise _damaged("positions", damage)
    packed, non_zeros = room(cells, count, coding.type, dtype)
    values = module.CodedValues(stream.ctypes.data, len(stream), coding.native(high, low))
    if damage := module.fill_decoded(where, values, cells.native(), non_zeros):
        raise _damaged("values", damage)
    return packed


def rice_parameter(size: int, count: int) -> int:
    """Bits of a gap that are written as they are; csrc/codec.cpp has the same."""
    return ((2 * size - count) // (4 * count)).bit_length() if count else 0


def _fitted(values: Tensor) -> tuple[Coding, np.ndarray]:
    """The coding that these values get, and the bits of each in the order of the coding, uint32."""
    value_type = value_type_of(values.dtype)
    width = value_type.bits
    bits = values.view(torch.uint32 if width == 32 else torch.uint16).numpy().astype(np.uint32)
    magnitude = bits & 2 ** (width - 1) - 1
    used = int(np.bitwise_or.reduce(magnitude)) | 1 << width - 1 - value_type.high_bits
    dropped = (used & -used).bit_length() - 1
    bits = magnitude >> dropped << 1 | bits >> width - 1
    high_bits, low_bits = _field_bits(value_type, dropped)
    high = Field.of(_count_symbols(bits, width - dropped - high_bits, high_bits), high_bits)
    return Coding(value_type, dropped, high, Field.of(_count_symbols(bits, 0, low_bits), low_bits)), bits


def _count_symbols(bits: np.ndarray, shift: int, field_bits: int) -> np.ndarray:
    """How often each symbol of a field occurs, (2 ** field_bits,), int64."""
    if not (module := kernel.native()):
        return np.bincount(bits >> shift & 2**field_bits - 1, minlength=2**field_bits)
    counts = np.empty(2**field_bits, np.int64)
    module.count_symbols(bits.ctypes.data, len(bits), shift, field_bits, counts.ctypes.data)
    return counts


def _field_bits(value_type: ValueType, dropped: int) -> tuple[int, int]:
    return value_type.high_bits, min(LOW_BITS, value_type.bits - dropped - value_type.high_bits)


def _coding(whole: np.ndarray, number: int, dropped: int, numbers: list[int]) -> tuple[Coding, int]:
    """The coding in a header and in the tables behind it, and where these end. Raises `ModelError`."""
    value_type = TYPES.get(number)
    if value_type is None or min(_field_bits(value_type, dropped)) < 1:
        raise _damaged("header", f"type {number}, {dropped} bits dropped")
    fields, end = [], START
    for bits, first, pairs in zip(_field_bits(value_type, dropped), numbers[::2], numbers[1::2], strict=True):
        field = Field(bits if pairs else 0, first, whole[end : end + pairs].tobytes())
        end += pairs
        if end > len(whole) or not field.sound or (first and not pairs):
            raise _damaged("header", "a code is not whole")
        fields.append(field)
    return Coding(value_type, dropped, *fields), end


def _check_shape(shape: tuple[int, int]) -> None:
    if not (min(shape) > 0 and max(shape) <= LONGEST and math.prod(shape) <= LARGEST):
        raise ModelError(
            f"a matrix of {shape[0]} x {shape[1]} can't be packed: "
            f"at most {LONGEST} rows or columns and {LARGEST} weights fit"
        )


def _damaged(what: str, how: str) -> ModelError:
    return ModelError(f"it is damaged in its {what}: {how}")


# without the kernels

OUTSIDE = "they end early or leave the matrix"


def _write_positions(flat: np.ndarray, parameter: int) -> np.ndarray:
    gaps = np.diff(flat, prepend=-1) - 1
    ones = (gaps >> parameter) + np.arange(len(gaps)) * (1 + parameter)
    ones += np.cumsum(gaps >> parameter) - (gaps >> parameter)
    bits = np.zeros(ones[-1] + 1 + parameter if len(ones) else 0, np.uint8)
    bits[ones] = 1
    for bit in range(parameter):
        bits[ones + 1 + bit] = gaps >> bit & 1
    return np.packbits(bits, bitorder="little")


def _read_positions(stream: np.ndarray, count: int, size: int) -> np.ndarray:
    parameter = rice_parameter(size, count)
    bits = np.unpackbits(stream, bitorder="little")
    content = bits.tobytes()
    starts = np.zeros(count + 1, np.int64)
    at = 0
    for i in range(count):
        at = content.find(1, at) + 1 + parameter
        if not parameter < at <= len(bits):
            raise _damaged("positions", OUTSIDE)
        starts[i + 1] = at
    ones = starts[1:] - 1 - parameter
    zeros = ones - starts[:-1]
    if (zeros > size >> parameter).any():
        raise _damaged("positions", OUTSIDE)
    gaps = zeros << parameter
    for bit in range(parameter):
        gaps |= bits[ones + 1 + bit].astype(np.int64) << bit
    flat = np.cumsum(gaps + 1) - 1
    if count and flat[-1] >= size:
        raise _damaged("positions", OUTSIDE)
    if len(bits) - at >= 8 or bits[at:].any():
        raise _damaged("positions", "something follows the last position")
    return flat


def _write_values(bits: np.ndarray, coding: Coding, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    middle = bits >> coding.low.bits & 2**coding.middle - 1
    codes = high[bits >> coding.middle + coding.low.bits], low[bits & 2**coding.low.bits - 1]
    content, lengths = np.zeros(len(bits), np.int64), np.zeros(len(bits), np.int64)
    for part, length in (*((code >> 4, code & 15) for code in codes), (middle, coding.middle)):
        content |= part.astype(np.int64) << lengths
        lengths += length
    starts = np.cumsum(lengths) - lengths
    stream = np.zeros(lengths.sum(), np.uint8)
    for bit in range(lengths.max(initial=0)):
        longer = lengths > bit
        stream[starts[longer] + bit] = content[longer] >> bit & 1
    return np.packbits(stream, bitorder="little")


def _read_values(stream: np.ndarray, count: int, coding: Coding, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    content, firsts, seconds = stream.tobytes(), high.tolist(), low.tolist()
    mask = 2**LONGEST_CODE - 1
    parts = []
    at = 0
    for _ in range(count):
        ahead = int.from_bytes(content[at >> 3 : (at >> 3) + 8], "little") >> (at & 7)
        first = firsts[ahead & mask]
        ahead >>= first & 15
        second = seconds[ahead & mask]
        parts.append((first >> 4, ahead >> (second & 15) & 2**coding.middle - 1, second >> 4))
        at += (first & 15) + (second & 15) + coding.middle
    if not 0 <= 8 * len(content) - at < 8 or (at & 7 and content[-1] >> (at & 7)):
        raise _damaged("values", "their stream ends elsewhere than the last of them")
    upper, middle, lower = np.array(parts, np.uint32).reshape(count, 3).T
    bits = (upper << coding.middle | middle) << coding.low.bits | lower
    bits = bits >> 1 << coding.dropped | bits << coding.type.bits - 1
    return bits.astype(f"u{coding.type.bits // 8}")
