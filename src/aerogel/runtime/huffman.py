"""A canonical Huffman code of bounded length for a part of the values' bits: docs/format.md."""

from dataclasses import dataclass

import numpy as np

LONGEST_CODE = 12  # bits of a code; the same in csrc/codec.h
# the bits of a code are written from its highest on, into bytes that are filled from their lowest on
REVERSED = np.array([int(f"{code:0{LONGEST_CODE}b}"[::-1], 2) for code in range(2**LONGEST_CODE)], np.uint16)


@dataclass(frozen=True)
class Field:
    """The code of symbols of `bits` bits; a field without a code has 0 bits.

    `lengths` is as stored, a byte for each pair of symbols from pair number `first` on: each half of a byte is 0 for a
    symbol without a code, and otherwise LONGEST_CODE + 1 minus the length of its code.
    """

    bits: int
    first: int
    lengths: bytes

    @classmethod
    def of(cls, counts: np.ndarray, bits: int) -> "Field":
        """The best code for symbols that occur so often, or none where it would save nothing."""
        used = counts.nonzero()[0]
        if not len(used):
            return NO_FIELD
        first, last = used[0] // 2, used[-1] // 2
        lengths = code_lengths(counts[used])
        if counts[used] @ lengths + 8 * (last - first + 1) >= bits * counts.sum():
            return NO_FIELD
        halves = np.zeros(2 * (last - first + 1), np.uint8)
        halves[used - 2 * first] = LONGEST_CODE + 1 - lengths
        return cls(bits, int(first), (halves[::2] | halves[1::2] << 4).tobytes())

    @classmethod
    def plain(cls, bits: int) -> "Field":
        """The code in which each symbol is written as it is."""
        return cls(bits, 0, bytes([17 * (LONGEST_CODE + 1 - bits)]) * 2 ** (bits - 1))

    @property
    def sound(self) -> bool:
        """Whether the lengths are those of a complete code for symbols of these bits."""
        slots = self._slots()
        inside = 2 * self.first + len(slots) <= 2**self.bits
        return not self.bits or bool(inside and slots.sum() == 2**LONGEST_CODE)

    def to_write(self) -> np.ndarray:
        """(2 ** bits,), uint16: the code of each symbol, and in the lowest four bits its length."""
        symbols, slots = self._sorted()
        codes = np.zeros(2**self.bits, np.uint16)
        codes[symbols] = REVERSED[np.cumsum(slots) - slots] << 4 | _lengths(slots)
        return codes

    def to_read(self) -> np.ndarray:
        """(2 ** LONGEST_CODE,), uint16: the symbol whose code the bits begin with; its length in the lowest four."""
        if not self.bits:
            return np.zeros(2**LONGEST_CODE, np.uint16)
        symbols, slots = self._sorted()
        return np.repeat((symbols << 4 | _lengths(slots)).astype(np.uint16), slots)[REVERSED]

    def _slots(self) -> np.ndarray:
        """How many of all strings of LONGEST_CODE bits begin with the code of each symbol, from the first pair on."""
        pairs = np.frombuffer(self.lengths, np.uint8)
        halves = np.stack([pairs & 15, pairs >> 4], axis=1).flatten().astype(np.int64)
        return 1 << halves >> 1

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The symbols that have a code, and their slots: the shortest code first, and the lower symbol among equals."""
        slots = self._slots()
        symbols = np.argsort(-slots, kind="stable")[: np.count_nonzero(slots)]
        return symbols + 2 * self.first, slots[symbols]


NO_FIELD = Field(0, 0, b"")


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """The lengths of the codes that take the fewest bits, none longer than LONGEST_CODE: package-merge.

    Source: Larmore and Hirschberg, A fast algorithm for optimal length-limited Huffman codes (1990).
    """
    symbols = sorted((count, (symbol,)) for symbol, count in enumerate(counts.tolist()))
    merged: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(LONGEST_CODE):
        pairs = zip(merged[::2], merged[1::2], strict=False)
        packages = [(one[0] + other[0], one[1] + other[1]) for one, other in pairs]
        merged = sorted(symbols + packages, key=lambda package: package[0])
    chosen = [symbol for _, package in merged[: 2 * len(counts) - 2] for symbol in package]
    return np.bincount(np.array(chosen, np.int64), minlength=len(counts))


def _lengths(slots: np.ndarray) -> np.ndarray:
    return LONGEST_CODE - np.log2(slots).astype(np.int64)
