"""How the values of a packed weight are coded in a checkpoint: docs/format.md."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aerogel.runtime import kernel
from aerogel.runtime.huffman import Field
from aerogel.runtime.values import ValueType, value_type_of

LOW_BITS = 8


@dataclass(frozen=True)
class Coding:
    """The code of values of a type: csrc/codec.h."""

    type: ValueType
    dropped: int
    high: Field
    low: Field

    @classmethod
    def of(cls, data: Tensor) -> tuple["Coding", np.ndarray]:
        """The coding that these values get, and the bits of each in the order of the coding, uint32."""
        value_type = value_type_of(data.dtype)
        width = value_type.bits
        if not value_type.is_float:
            integers = data.numpy()
            high_bits = value_type.high_bits
            high = Field.of(np.bincount(quad_masks(integers), minlength=2**high_bits), high_bits)
            low = Field.of(np.bincount(integers[integers != 0].view(np.uint8), minlength=2**width), width)
            return cls(value_type, 0, high, low), integers.view(np.uint32).ravel()
        bits = data.view(torch.uint32 if width == 32 else torch.uint16).numpy().astype(np.uint32)
        magnitude = bits & 2 ** (width - 1) - 1
        used = int(np.bitwise_or.reduce(magnitude)) | 1 << width - 1 - value_type.high_bits
        dropped = (used & -used).bit_length() - 1
        bits = magnitude >> dropped << 1 | bits >> width - 1
        high_bits, low_bits = field_bits(value_type, dropped)
        high = Field.of(_count_symbols(bits, width - dropped - high_bits, high_bits), high_bits)
        return cls(value_type, dropped, high, Field.of(_count_symbols(bits, 0, low_bits), low_bits)), bits

    @property
    def middle(self) -> int:
        """Bits of a float between the fields."""
        return self.type.bits - self.dropped - self.high.bits - self.low.bits

    def most_bytes(self, data: Tensor) -> int:
        """An upper bound of the bytes of these values: those of values without codes."""
        if self.type.is_float:
            return data.numel() * self.type.bits // 8
        return (len(data) * self.type.high_bits + int(torch.count_nonzero(data)) * self.type.bits + 7) // 8

    @property
    def fields(self) -> tuple[Field, Field]:
        """As they code values: an absent field of floats codes nothing, one of integers has codes of equal lengths."""
        both = self.high, self.low
        if self.type.is_float:
            return both
        sizes = field_bits(self.type, self.dropped)
        high, low = (field if field.bits else Field.plain(bits) for field, bits in zip(both, sizes, strict=True))
        return high, low

    def native(self, high: np.ndarray, low: np.ndarray) -> Any:
        """For the native module, with the fields' tables to write or to read, which the caller keeps alive."""
        module = kernel.required()
        tables = zip(self.fields, (high, low), strict=True)
        return module.Coding(
            self.type.number, self.dropped, *(module.Field(field.bits, table.ctypes.data) for field, table in tables)
        )


def quad_masks(integers: np.ndarray) -> np.ndarray:
    """For each quad of (quads, 4): bit i is set if its integer i is not 0. (quads,), uint8."""
    return np.packbits(integers != 0, axis=1, bitorder="little").ravel()


def field_bits(value_type: ValueType, dropped: int) -> tuple[int, int]:
    """Of the high and the low field; below 1 if more bits are dropped than can be."""
    if not value_type.is_float:
        return value_type.high_bits, 0 if dropped else value_type.bits
    return value_type.high_bits, min(LOW_BITS, value_type.bits - dropped - value_type.high_bits)


def _count_symbols(bits: np.ndarray, shift: int, field_bits: int) -> np.ndarray:
    """How often each symbol of a field occurs, (2 ** field_bits,), int64."""
    if not (module := kernel.native()):
        return np.bincount(bits >> shift & 2**field_bits - 1, minlength=2**field_bits)
    counts = np.empty(2**field_bits, np.int64)
    module.count_symbols(bits.ctypes.data, len(bits), shift, field_bits, counts.ctypes.data)
    return counts
