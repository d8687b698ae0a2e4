"""A packed weight as a checkpoint keeps it: docs/format.md."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.huffman import LONGEST_CODE, Field
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

CHECKSUM = struct.Struct("<I")  # CRC-32 of all that follows, which tells damage from a weight that is meant
# rows, columns, non-zeros, bytes of their positions; type, dropped bits; each field's first pair and number of pairs
HEADER = struct.Struct("<4I2B4H")
START = CHECKSUM.size + HEADER.size
LONGEST = 2**24  # rows or columns
LARGEST = 2**31  # weights: a few bytes can stand for any number of zeros, so what they ask for in memory has a bound
STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16)
HIGH_BITS = (11, 8, 11)  # of each type: the exponent and three bits of the mantissa, which are not evenly spread either
LOW_BITS = 8


@dataclass(frozen=True)
class Coding:
    """How values of a stored type, here by its number, are written: csrc/codec.h."""

    kind: int
    dropped: int
    high: Field
    low: Field

    @property
    def width(self) -> int:
        return 8 * STORED_TYPES[self.kind].itemsize

    @property
    def middle(self) -> int:
        return self.width - self.dropped - self.high.bits - self.low.bits

    def same(self, other: Coding) -> bool:
        return (self.kind, self.dropped) == (other.kind, other.dropped) and all(
            (one.bits, one.first, one.lengths.tobytes()) == (two.bits, two.first, two.lengths.tobytes())
            for one, two in ((self.high, other.high), (self.low, other.low))
        )

    def native(self, module: ModuleType, high: np.ndarray, low: np.ndarray) -> Any:
        """For the native module, with the fields' tables to write or to read, which the caller keeps alive."""
        fields = self.high.bits, high.ctypes.data, self.low.bits, low.ctypes.data
        return module.Coding(self.width, self.dropped, *fields)


def encode(packed: PackedWeight) -> Tensor:
    """(bytes,), uint8. Values asked for in bfloat16 stay so, whatever the dtype.

    Raises `ModelError` for a matrix beyond the format.
    """
    _check_shape(packed.shape)
    size, count = math.prod(packed.shape), packed.values.numel()
    values = packed.values if packed.values.dtype == torch.bfloat16 else packed.values.to(packed.dtype)
    coding, bits = _fitted(values)
    high, low = coding.high.to_write(), coding.low.to_write()
    if module := native():
        matrix = native_matrix(packed.shape, packed.block, *packed.tensors)
        positions, stream = np.empty(module.most_bytes(size, count), np.uint8), np.empty(values.nbytes, np.uint8)
        positions = positions[: module.encode_positions(matrix, positions.ctypes.data)]
        written = module.encode_values(matrix, bits.ctypes.data, coding.native(module, high, low), stream.ctypes.data)
        stream = stream[:written]
    else:
        flat = flat_positions(packed)
        row_major = flat.argsort()
        positions = _write_positions(flat[row_major], rice_parameter(size, count))
        stream = _write_values(bits[row_major], coding, high, low)
    fields = [number for field in (coding.high, coding.low) for number in (field.first, len(field.lengths))]
    header = HEADER.pack(*packed.shape, count, len(positions), coding.kind, coding.dropped, *fields)
    parts = [np.frombuffer(header, np.uint8), coding.high.lengths, coding.low.lengths, positions, stream]
    content = np.concatenate([np.zeros(CHECKSUM.size, np.uint8), *parts])
    CHECKSUM.pack_into(content.data, 0, zlib.crc32(content[CHECKSUM.size :].data))
    return torch.from_numpy(content)


def decode(content: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None) -> PackedWeight:
    """The inverse of `encode`, for a (d_out, d_in) weight of `shape` in the dtype of the values, or rounded to `dtype`.

    Raises `ModelError` unless the bytes are whole and fit the shape.
    """
    if content.dtype != torch.uint8 or content.dim() != 1 or content.numel() < START:
        raise ModelError(f"it is {_name(content.dtype)} {tuple(content.shape)}, expected a row of bytes with a header")
    whole = content.contiguous().numpy()
    if CHECKSUM.unpack_from(whole.data) != (zlib.crc32(whole[CHECKSUM.size :].data),):
        raise ModelError("it is damaged: its bytes don't have their checksum")
    rows, columns, count, length, kind, dropped, *fields = HEADER.unpack_from(whole.data, CHECKSUM.size)
    if (rows, columns) != shape:
        raise ModelError(f"it was packed as {rows} x {columns}, expected {shape[0]} x {shape[1]}")
    _check_shape(shape)
    size = math.prod(shape)
    if count > size:
        raise ModelError(f"it has {count} values, but only {size} places")
    coding, start = _coding(whole, kind, dropped, fields)
    if start + length > len(whole):
        raise _damaged("header", f"its positions take {length} bytes, and {len(whole) - start} follow")
    positions, stream = whole[start : start + length], whole[start + length :]
    dtype = dtype or STORED_TYPES[kind]
    block = block_for(count / size)
    high, low = coding.high.to_read(), coding.low.to_read()
    if module := native():
        blocks, cells = grid(shape, block)
        order = torch.empty((rows * blocks, 2), dtype=torch.uint16, device="cpu")
        offsets = torch.empty(cells + 1, dtype=torch.int64, device="cpu")
        place = positions.ctypes.data, len(positions), count
        if wrong := module.plan_decoded(*place, *shape, block, order.data_ptr(), offsets.data_ptr()):
            raise _damaged("positions", wrong)
        values = torch.empty(count, dtype=STORED_TYPES[kind], device="cpu")
        index = torch.empty(count, dtype=torch.uint8, device="cpu")
        matrix = native_matrix(shape, block, values, index, order, offsets)
        values_place = stream.ctypes.data, len(stream), coding.native(module, high, low)
        if wrong := module.fill_decoded(*place, *values_place, matrix):
            raise _damaged("values", wrong)
    else:
        flat = _read_positions(positions, count, size)
        row_major = torch.from_numpy(_read_values(stream, count, coding, high, low)).view(STORED_TYPES[kind])
        order, offsets, index, values = arranged(flat, row_major, shape, block)
    if not _fitted(values)[0].same(coding):
        raise _damaged("header", "its code is not the one that these values get")
    values = values.to(dtype).to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    packed = PackedWeight(Format.CELLS, shape, dtype, block, values, index, order, offsets)
    packed.check()
    return packed


def rice_parameter(size: int, count: int) -> int:
    """Bits of a gap that are written as they are; csrc/codec.cpp has the same."""
    return ((2 * size - count) // (4 * count)).bit_length() if count else 0


def _fitted(values: Tensor) -> tuple[Coding, np.ndarray]:
    """The coding that these values get, and the bits of each as the coding has them, uint32."""
    width, kind = 8 * values.itemsize, STORED_TYPES.index(values.dtype)
    bits = values.view(torch.uint32 if width == 32 else torch.uint16).numpy().astype(np.uint32)
    magnitude = bits & 2 ** (width - 1) - 1
    used = int(np.bitwise_or.reduce(magnitude)) | 1 << width - 1 - HIGH_BITS[kind]
    dropped = (used & -used).bit_length() - 1
    bits = magnitude >> dropped << 1 | bits >> width - 1
    high_bits, low_bits = _field_bits(kind, dropped)
    high = Field.of(bits >> width - dropped - high_bits, high_bits)
    return Coding(kind, dropped, high, Field.of(bits & 2**low_bits - 1, low_bits)), bits


def _field_bits(kind: int, dropped: int) -> tuple[int, int]:
    left = 8 * STORED_TYPES[kind].itemsize - dropped - HIGH_BITS[kind]
    return HIGH_BITS[kind], min(LOW_BITS, left)


def _coding(whole: np.ndarray, kind: int, dropped: int, fields: list[int]) -> tuple[Coding, int]:
    """The coding that a header and the tables behind it tell, and where these end. Raises `ModelError`."""
    if kind >= len(STORED_TYPES) or min(_field_bits(kind, dropped)) < 1:
        raise _damaged("header", f"type {kind}, {dropped} bits dropped")
    found, at = [], START
    for bits, first, pairs in zip(_field_bits(kind, dropped), fields[::2], fields[1::2], strict=True):
        field = Field(bits if pairs else 0, first, whole[at : at + pairs])
        at += pairs
        if at > len(whole) or not field.sound or (first and not pairs):
            raise _damaged("header", "a code is not whole")
        found.append(field)
    return Coding(kind, dropped, *found), at


def _check_shape(shape: tuple[int, int]) -> None:
    if not (min(shape) > 0 and max(shape) <= LONGEST and math.prod(shape) <= LARGEST):
        raise ModelError(f"a matrix of {shape[0]} x {shape[1]} is beyond what the packed format holds")


def _damaged(what: str, how: str) -> ModelError:
    return ModelError(f"it is damaged in its {what}: {how}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# without the kernels

LEAVES = "they end early or leave the matrix"


def _write_positions(flat: np.ndarray, parameter: int) -> np.ndarray:
    gaps = np.diff(flat, prepend=-1) - 1
    ones = (gaps >> parameter) + np.arange(len(gaps)) * (1 + parameter)
    ones += np.cumsum(gaps >> parameter) - (gaps >> parameter)
    bits = np.zeros(ones[-1] + 1 + parameter if len(ones) else 0, np.uint8)
    bits[ones] = 1
    for place in range(parameter):
        bits[ones + 1 + place] = gaps >> place & 1
    return np.packbits(bits, bitorder="little")


def _read_positions(stream: np.ndarray, count: int, size: int) -> np.ndarray:
    parameter = rice_parameter(size, count)
    bits = np.unpackbits(stream, bitorder="little")
    content = bits.tobytes()
    starts = np.zeros(count + 1, np.int64)
    at = 0
    for place in range(count):
        at = content.find(1, at) + 1 + parameter
        if not parameter < at <= len(bits):
            raise _damaged("positions", LEAVES)
        starts[place + 1] = at
    ones = starts[1:] - 1 - parameter
    zeros = ones - starts[:-1]
    if (zeros > size >> parameter).any():
        raise _damaged("positions", LEAVES)
    gaps = zeros << parameter
    for place in range(parameter):
        gaps |= bits[ones + 1 + place].astype(np.int64) << place
    flat = np.cumsum(gaps + 1) - 1
    if count and flat[-1] >= size:
        raise _damaged("positions", LEAVES)
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
    for place in range(lengths.max(initial=0)):
        longer = lengths > place
        stream[starts[longer] + place] = content[longer] >> place & 1
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
    bits = bits >> 1 << coding.dropped | bits << coding.width - 1
    return bits.astype(f"u{coding.width // 8}")
