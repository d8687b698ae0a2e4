"""Codes of bounded length: whole, the best there are, refused where they are none."""

import heapq

import numpy as np
import pytest
from hypothesis import given, strategies as st

from aerogel.runtime.huffman import LONGEST_CODE, NO_FIELD, Field, code_lengths

FIBONACCI = [1, 1]
while len(FIBONACCI) < 25:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def unbounded_cost(counts: list[int]) -> int:
    """Bits of all symbols in Huffman's own code: each of the sums that it makes is one more bit for what is in it."""
    heap, cost = sorted(counts), 0
    while len(heap) > 1:
        sum_of_two = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, sum_of_two)
        cost += sum_of_two
    return cost


@given(st.lists(st.integers(1, 100), min_size=1, max_size=100) | st.permutations(FIBONACCI[:13]))
def test_codes_are_whole_and_the_best(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    assert (2.0**-lengths).sum() == 1
    assert lengths @ np.array(counts) == unbounded_cost(counts)


@pytest.mark.parametrize("counts", [FIBONACCI, [1] * 2**11, [1] * 2047 + [10**9]])
def test_codes_are_no_longer_than_allowed(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    assert (2.0**-lengths).sum() == 1
    assert lengths.max() <= LONGEST_CODE
    assert lengths @ np.array(counts) <= 1.1 * unbounded_cost(counts) + len(counts)


def field_of(symbols: np.ndarray, bits: int) -> Field:
    return Field.of(np.bincount(symbols, minlength=2**bits), bits)


@given(st.lists(st.integers(0, 2047), min_size=1, max_size=60), st.integers(1, 500))
def test_a_field_reads_what_it_writes(symbols: list[int], times: int) -> None:
    field = field_of(np.repeat(symbols, times), 11)
    assert field.sound
    if field is NO_FIELD:
        return
    write, read = field.to_write(), field.to_read()
    assert (len(write), len(read)) == (2**11, 2**LONGEST_CODE)
    for symbol in symbols:
        code, length = write[symbol] >> 4, write[symbol] & 15
        assert (read[code :: 2**length] == symbol << 4 | length).all()


def test_what_would_save_nothing_has_no_code() -> None:
    generator = np.random.default_rng(0)
    assert field_of(np.empty(0, np.uint32), 8) is NO_FIELD
    assert field_of(generator.integers(0, 256, 10_000, np.uint32), 8) is NO_FIELD
    assert field_of(np.array([5, 250], np.uint32), 8) is NO_FIELD
    alike = field_of(np.full(9, 200, np.uint32), 8)
    assert (alike.bits, alike.first, alike.lengths) == (8, 100, bytes([LONGEST_CODE + 1]))


@pytest.mark.parametrize(
    ("first", "lengths"),
    [
        (0, [0x0C]),
        (0, [0xCC, 0x0C]),
        (0, [0]),
        (0, [0x0E]),
        (0, [0xFF]),
        (128, [0xCC]),
        (127, [0xCC, 0]),
        (65535, [0xCC]),
    ],
)
def test_lengths_that_are_no_code_are_refused(first: int, lengths: list[int]) -> None:
    assert Field(8, 127, bytes([0xCC])).sound
    assert not Field(8, first, bytes(lengths)).sound
