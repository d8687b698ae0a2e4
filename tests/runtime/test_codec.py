"""Packed weights as checkpoints keep them: lossless, near the entropy, the same bytes everywhere, damage refused."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import codec, packed
from aerogel.runtime.codec import STORED_TYPES, decode, encode
from aerogel.runtime.kernel import native
from aerogel.runtime.packed import PackedWeight, pack

# docs/format.md has the same
GOLDEN_MATRIX = torch.tensor([[0, 0, 1.5, 0, 0, 0], [0, 0, 0, 0, 0, -2.0], [0.5, 0, 0, 0, 0, 0]])
GOLDEN_POSITIONS = bytes.fromhex("03000000 06000000 b372ae93 2501")
GOLDEN_VALUES = [1.5, -2.0, 0.5]


@pytest.fixture(params=["kernels", "numpy"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the native module, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            without_kernels(patch)
        elif native() is None:
            pytest.skip("the native kernels were not built")
        yield request.param


def without_kernels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(codec, "native", lambda: None)
    patch.setattr(packed, "native", lambda: None)


def sparse(shape: tuple[int, int], sparsity: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator)
    return matrix.masked_fill(torch.rand(shape, generator=generator) < sparsity, 0).to(dtype)


def sealed(positions: Tensor, values: Tensor) -> Tensor:
    """The stream with a checksum that fits, as someone would write who means harm."""
    rows, columns, _ = codec.HEADER.unpack(bytes(positions[: codec.HEADER.size].tolist()))
    header = codec.HEADER.pack(rows, columns, codec.checksum(positions, values))
    return torch.cat([torch.tensor(list(header), dtype=torch.uint8), positions[codec.HEADER.size :]])


def same(found: PackedWeight, expected: PackedWeight) -> bool:
    """Of the same bits throughout."""
    return replace(found, **arrays(expected)) == replace(expected, **arrays(expected)) and all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(found.tensors, expected.tensors, strict=True)
    )


def arrays(weight: PackedWeight) -> dict[str, Tensor]:
    return {name: getattr(weight, name) for name in ("values", "index", "order", "offsets")}


def test_golden_bytes(way: str) -> None:
    positions, values = encode(pack(GOLDEN_MATRIX))
    assert bytes(positions.tolist()) == GOLDEN_POSITIONS
    assert values.tolist() == GOLDEN_VALUES
    found = decode(torch.tensor(list(GOLDEN_POSITIONS), dtype=torch.uint8), torch.tensor(GOLDEN_VALUES), (3, 6))
    assert torch.equal(found.to_dense(), GOLDEN_MATRIX)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.tuples(st.sampled_from([1, 767, 768, 769, 1600]), st.sampled_from([1, 127, 129, 257, 400]))
    | st.sampled_from([(1, 4099), (4099, 1), (2, 4099)]),
    st.sampled_from([0.0, 0.3, 0.5, 0.62, 0.9, 0.99, 0.9999, 1.0]),
    st.sampled_from(STORED_TYPES),
    st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_decoding_is_the_inverse_and_both_ways_write_the_same_bytes(
    shape: tuple[int, int], sparsity: float, dtype: torch.dtype, seed: int
) -> None:
    weight = pack(sparse(shape, sparsity, dtype, seed))
    positions, values = encode(weight)
    assert (positions.dtype, values.dtype, values.shape) == (torch.uint8, dtype, weight.values.shape)
    assert same(decode(positions, values, shape), weight)
    with pytest.MonkeyPatch.context() as patch:
        without_kernels(patch)
        again = encode(weight)
        assert torch.equal(again[0], positions)
        assert torch.equal(again[1], values)
        assert same(decode(positions, values, shape), weight)


def test_clustered_zeros_and_long_gaps(way: str) -> None:
    matrix = torch.zeros(900, 700)
    matrix[0, :3] = matrix[450, 690:] = matrix[899, 699] = 1
    weight = pack(matrix)
    assert same(decode(*encode(weight), weight.shape), weight)


def test_any_value_is_kept_to_the_bit(way: str) -> None:
    special = torch.tensor([[math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3.4e38, 0.0, -0.0]])
    weight = pack(special)
    positions, values = encode(weight)
    assert same(decode(positions, values, (1, 8)), weight)
    assert torch.equal(values.view(torch.int32), special[0, :6].view(torch.int32))


def test_values_asked_for_in_bfloat16_are_stored_so(way: str) -> None:
    weight = pack(sparse((50, 60), 0.8)).with_values(torch.bfloat16)
    assert weight.dtype == torch.float32
    positions, values = encode(weight)
    assert values.dtype == torch.bfloat16
    assert torch.equal(decode(positions, values, (50, 60)).to_dense().float(), weight.to_dense())


@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("sparsity", [0.5, 0.55, 0.6, 0.62, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99])
@pytest.mark.parametrize("shape", [(768, 768), (128, 64)])
def test_bytes_are_near_the_entropy(dtype: torch.dtype, sparsity: float, shape: tuple[int, int]) -> None:
    weight = sparse(shape, sparsity, dtype)
    positions, values = encode(pack(weight))
    share = values.numel() / weight.numel()
    entropy = -weight.numel() * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert positions.numel() - codec.HEADER.size <= 1.06 * entropy / 8 + 1
    if shape[0] > 500:
        assert positions.numel() + values.nbytes <= 1.05 * (entropy / 8 + values.nbytes)


@pytest.mark.parametrize("pattern", ["rows", "halves", "2:4"])
def test_no_pattern_is_much_larger_than_scattered_zeros(pattern: str) -> None:
    matrix = torch.ones(256, 256)
    if pattern == "rows":
        matrix[::2] = 0
    elif pattern == "halves":
        matrix[:128] = 0
    else:
        matrix.view(-1, 4)[:, 1:3] = 0
    positions, values = encode(pack(matrix))
    assert positions.numel() + values.nbytes <= 1.05 * (matrix.numel() / 8 + values.nbytes)


def test_decoding_is_fast() -> None:
    if native() is None:
        pytest.skip("the native kernels were not built")
    matrix = sparse((3072, 768), 0.9)
    positions, values = encode(pack(matrix))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        decode(positions, values, (3072, 768))
        seconds.append(time.perf_counter() - started)
    assert matrix.nbytes / min(seconds) > 100e6  # a third of what is promised: other tests may run beside this one


# hostile streams


def test_a_weight_for_another_layer_is_refused(way: str) -> None:
    positions, values = encode(pack(sparse((30, 40), 0.5)))
    with pytest.raises(ModelError, match="packed as 30 x 40, expected 40 x 30"):
        decode(positions, values, (40, 30))


@pytest.mark.parametrize("shape", [(2**24 + 1, 1), (2**16, 2**16), (2**32 - 1, 2**32 - 1), (0, 5)])
def test_a_few_bytes_can_not_ask_for_any_amount_of_memory(way: str, shape: tuple[int, int]) -> None:
    positions = torch.frombuffer(bytearray(codec.HEADER.pack(*shape, 0)), dtype=torch.uint8)
    with pytest.raises(ModelError, match="beyond what the packed format holds"):
        decode(positions, torch.empty(0), shape)


def test_the_wrong_kinds_of_tensors_are_refused(way: str) -> None:
    positions, values = encode(pack(sparse((30, 40), 0.5)))
    wrong: list[tuple[Tensor, Tensor]] = [
        (positions[:11], values),
        (positions.to(torch.int32), values),
        (positions.view(1, -1), values),
        (positions, values.double()),
        (positions, values.view(1, -1)),
        (positions, torch.zeros(1201)),
        (sealed(positions, values[:-1]), values[:-1]),
        (sealed(positions, torch.cat([values, values[:1]])), torch.cat([values, values[:1]])),
        (sealed(positions[:-1], values), values),
        (sealed(torch.cat([positions, positions[:1]]), values), values),
    ]
    for tensors in wrong:
        with pytest.raises(ModelError, match=r"its |it has"):
            decode(*tensors, (30, 40))


@given(st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 2**16), st.data())
@settings(max_examples=150)
def test_damaged_positions_are_refused_or_make_a_sound_weight(sparsity: float, seed: int, data: st.DataObject) -> None:
    """Some flips leave a whole stream of other positions: never one that the kernels would trip over."""
    shape = 37, 211
    positions, values = encode(pack(sparse(shape, sparsity, seed=seed)))
    damaged = positions[codec.HEADER.size :].clone()
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = sealed(torch.cat([positions[: codec.HEADER.size], damaged]), values)
    outcomes = []
    for numpy in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if numpy:
                without_kernels(patch)
            try:
                weight = decode(damaged, values, shape)
            except ModelError as error:
                outcomes.append(str(error))
            else:
                weight.check()
                assert torch.count_nonzero(weight.to_dense()) == len(values)
                outcomes.append(str(encode(weight)[0].tolist()))
                assert torch.equal(encode(weight)[0], damaged)
    assert len(set(outcomes)) == 1


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes_are_refused_or_make_a_sound_weight(stream: bytes, count: int) -> None:
    positions = torch.tensor(list(codec.HEADER.pack(9, 17, 0) + stream), dtype=torch.uint8)
    with contextlib.suppress(ModelError):
        decode(sealed(positions, torch.ones(count)), torch.ones(count), (9, 17)).check()


@given(st.data())
def test_any_other_byte_is_noticed(data: st.DataObject) -> None:
    positions, values = encode(pack(sparse((20, 30), 0.9)))
    both = torch.cat([positions, values.view(torch.uint8)])
    both[data.draw(st.integers(0, len(both) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ModelError, match=r"checksum|packed as"):
        decode(both[: len(positions)], both[len(positions) :].clone().view(torch.float32), (20, 30))
