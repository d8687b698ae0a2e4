"""The streams of positions and values of a checkpoint in NumPy, for installations without the kernels: csrc/codec.h."""

import numpy as np

from aerogel.errors import ModelError
from aerogel.runtime.coding import Coding, quad_masks
from aerogel.runtime.huffman import LONGEST_CODE

OUTSIDE = "they end early or leave the matrix"
Parts = list[tuple[np.ndarray, np.ndarray | int]]  # what is written of each value in turn: the bits and their number


def damaged(what: str, how: str) -> ModelError:
    return ModelError(f"it is damaged in its {what}: {how}")


def write_positions(flat: np.ndarray, parameter: int) -> np.ndarray:
    gaps = np.diff(flat, prepend=-1) - 1
    ones = (gaps >> parameter) + np.arange(len(gaps)) * (1 + parameter)
    ones += np.cumsum(gaps >> parameter) - (gaps >> parameter)
    bits = np.zeros(ones[-1] + 1 + parameter if len(ones) else 0, np.uint8)
    bits[ones] = 1
    for bit in range(parameter):
        bits[ones + 1 + bit] = gaps >> bit & 1
    return np.packbits(bits, bitorder="little")


def read_positions(stream: np.ndarray, count: int, size: int, parameter: int) -> np.ndarray:
    bits = np.unpackbits(stream, bitorder="little")
    content = bits.tobytes()
    starts = np.zeros(count + 1, np.int64)
    at = 0
    for i in range(count):
        at = content.find(1, at) + 1 + parameter
        if not parameter < at <= len(bits):
            raise damaged("positions", OUTSIDE)
        starts[i + 1] = at
    ones = starts[1:] - 1 - parameter
    zeros = ones - starts[:-1]
    if (zeros > size >> parameter).any():
        raise damaged("positions", OUTSIDE)
    gaps = zeros << parameter
    for bit in range(parameter):
        gaps |= bits[ones + 1 + bit].astype(np.int64) << bit
    flat = np.cumsum(gaps + 1) - 1
    if count and flat[-1] >= size:
        raise damaged("positions", OUTSIDE)
    if len(bits) - at >= 8 or bits[at:].any():
        raise damaged("positions", "something follows the last position")
    return flat


def write_values(bits: np.ndarray, coding: Coding, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    parts = _float_parts(bits, coding, high, low) if coding.type.is_float else _quad_parts(bits, high, low)
    content, lengths = np.zeros(len(bits), np.int64), np.zeros(len(bits), np.int64)
    for part, length in parts:
        content |= part.astype(np.int64) << lengths
        lengths += length
    starts = np.cumsum(lengths) - lengths
    stream = np.zeros(lengths.sum(), np.uint8)
    for bit in range(lengths.max(initial=0)):
        longer = lengths > bit
        stream[starts[longer] + bit] = content[longer] >> bit & 1
    return np.packbits(stream, bitorder="little")


def _float_parts(bits: np.ndarray, coding: Coding, high: np.ndarray, low: np.ndarray) -> Parts:
    middle = bits >> coding.low.bits & 2**coding.middle - 1
    codes = high[bits >> coding.middle + coding.low.bits], low[bits & 2**coding.low.bits - 1]
    return [*((code >> 4, code & 15) for code in codes), (middle, coding.middle)]


def _quad_parts(bits: np.ndarray, high: np.ndarray, low: np.ndarray) -> Parts:
    integers = bits.view(np.uint8).reshape(-1, 4)
    codes = high[quad_masks(integers)], *np.where(integers, low[integers], 0).T
    return [(code >> 4, code & 15) for code in codes]


def read_values(stream: np.ndarray, count: int, coding: Coding, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The values as unsigned integers of their bits, (count,), or (count, 4) of quads."""
    content = stream.tobytes()
    read = _read_floats if coding.type.is_float else _read_quads
    values, at = read(content, count, coding, high, low)
    if not 0 <= 8 * len(content) - at < 8 or (at & 7 and content[-1] >> (at & 7)):
        raise damaged("values", "their stream ends elsewhere than the last of them")
    return values


def _ahead(content: bytes, at: int) -> int:
    """The bits of a stream from number `at` on; beyond the end all are 0."""
    return int.from_bytes(content[at >> 3 : (at >> 3) + 8], "little") >> (at & 7)


def _read_floats(
    content: bytes, count: int, coding: Coding, high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, int]:
    firsts, seconds, mask = high.tolist(), low.tolist(), 2**LONGEST_CODE - 1
    parts = []
    at = 0
    for _ in range(count):
        ahead = _ahead(content, at)
        first = firsts[ahead & mask]
        ahead >>= first & 15
        second = seconds[ahead & mask]
        parts.append((first >> 4, ahead >> (second & 15) & 2**coding.middle - 1, second >> 4))
        at += (first & 15) + (second & 15) + coding.middle
    upper, middle, lower = np.array(parts, np.uint32).reshape(count, 3).T
    bits = (upper << coding.middle | middle) << coding.low.bits | lower
    bits = bits >> 1 << coding.dropped | bits << coding.type.bits - 1
    return bits.astype(f"u{coding.type.bits // 8}"), at


def _read_quads(
    content: bytes, count: int, coding: Coding, high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, int]:
    masks, integers, slots = high.tolist(), low.tolist(), 2**LONGEST_CODE - 1
    quads = np.zeros((count, coding.type.unit), np.uint8)
    at = 0
    for quad in range(count):
        code = masks[_ahead(content, at) & slots]
        at += code & 15
        present = [i for i in range(coding.type.unit) if code >> 4 + i & 1]
        for i in present:
            code = integers[_ahead(content, at) & slots]
            at += code & 15
            quads[quad, i] = code >> 4
        if not present or not quads[quad, present].all():
            raise damaged("values", "a mask or an integer is 0")
    return quads, at
