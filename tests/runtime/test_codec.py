"""Packed weights as checkpoints keep them: lossless, near the entropy, the same bytes everywhere, damage refused."""

import contextlib
import math
import random
import struct
import zlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime import codec, kernel
from aerogel.runtime.codec import decode, encode
from aerogel.runtime.kernel import native
from aerogel.runtime.packed import PackedWeight, pack
from aerogel.runtime.values import VALUE_TYPES

STORED_TYPES = [value_type.dtype for value_type in VALUE_TYPES.values()]
# docs/format.md has the same
GOLDEN_MATRIX = torch.tensor([[0, 0, 1.5, 0, 0, 0], [0, 0, 0, 0, 0, -1], [1, 0, 0, 1.25, 0, 0]])
GOLDEN_BYTES = bytes.fromhex("c93c2590 03000000 06000000 04000000 02000000 0014 fc01 0300 0000 0000 0c0b0b 2529 9300")


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
    patch.setattr(kernel, "native", lambda: None)


def sparse(shape: tuple[int, int], sparsity: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator)
    return matrix.masked_fill(torch.rand(shape, generator=generator) < sparsity, 0).to(dtype)


def sealed(content: Tensor) -> Tensor:
    """With a checksum that fits, as someone would write who means harm."""
    return torch.cat([of_bytes(struct.pack("<I", zlib.crc32(bytes(content[4:].tolist())))), content[4:]])


def of_bytes(content: bytes) -> Tensor:
    return torch.tensor(list(content), dtype=torch.uint8)


def with_header(content: Tensor, **changed: int) -> Tensor:
    """With other numbers in the header, and a checksum that fits."""
    header = dict(zip(HEADER_NAMES, codec.HEADER.unpack_from(content.numpy(), 4), strict=True)) | changed
    return sealed(torch.cat([content[:4], of_bytes(codec.HEADER.pack(*header.values())), content[codec.START :]]))


HEADER_NAMES = [
    *("rows", "columns", "count", "length", "kind", "dropped"),
    *("high_first", "high_pairs", "low_first", "low_pairs"),
]


def same(found: PackedWeight, expected: PackedWeight) -> bool:
    """Of the same bits throughout."""
    assert (found.dtype, found.shape, found.cells.block) == (expected.dtype, expected.shape, expected.cells.block)
    return found.values.type == expected.values.type and all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(found.tensors, expected.tensors, strict=True)
    )


def test_golden_bytes(way: str) -> None:
    assert bytes(encode(pack(GOLDEN_MATRIX)).tolist()) == GOLDEN_BYTES
    assert torch.equal(decode(of_bytes(GOLDEN_BYTES), (3, 6)).to_dense(), GOLDEN_MATRIX)


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
    content = encode(weight)
    assert (content.dtype, content.dim()) == (torch.uint8, 1)
    assert same(decode(content, shape), weight)
    with pytest.MonkeyPatch.context() as patch:
        without_kernels(patch)
        assert torch.equal(encode(weight), content)
        assert same(decode(content, shape), weight)


def test_clustered_zeros_and_long_gaps(way: str) -> None:
    matrix = torch.zeros(900, 700)
    matrix[0, :3] = matrix[450, 690:] = matrix[899, 699] = 1
    weight = pack(matrix)
    assert same(decode(encode(weight), weight.shape), weight)


@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_any_value_is_kept_to_the_bit(way: str, dtype: torch.dtype) -> None:
    """Infinities, no numbers, denormals, and every exponent there is."""
    largest = torch.finfo(dtype).max
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    special = torch.tensor([math.inf, -math.inf, math.nan, least, -least, largest, -largest, 0.0, -0.0]).to(dtype)
    every = torch.arange(2**16, dtype=torch.int32)
    every = (every << 16 | every * 7919 & 0xFFFF).view(dtype) if dtype.itemsize == 4 else every.short().view(dtype)
    for matrix in (special, every):
        weight = pack(matrix[None])
        found = decode(encode(weight), weight.shape)
        torch.testing.assert_close(found.to_dense()[0], matrix, rtol=0, atol=0, equal_nan=True)
        assert dtype == torch.float16 or same(found, weight)  # torch has bits of its own for no numbers in float16


@pytest.mark.parametrize("value", [1.0, -0.3, 1e-42])
def test_one_value_throughout_takes_only_its_own_bits(way: str, value: float) -> None:
    weight = pack(torch.full((64, 64), value))
    content = encode(weight)
    assert same(decode(content, (64, 64)), weight)
    middle = 0 if value == 1 else 13 * 64 * 64 / 8
    assert len(content) <= codec.START + 2 + 64 * 64 / 8 + middle


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from(STORED_TYPES),
    st.integers(0, 40),
    st.integers(0, 2**16),
)
def test_no_layer_takes_more_than_its_values_as_they_are(
    shape: tuple[int, int], sparsity: float, dtype: torch.dtype, spread: int, seed: int
) -> None:
    matrix = sparse(shape, sparsity, seed=seed)
    weight = pack((matrix * torch.exp2(spread * sparse(shape, 0, seed=seed + 1))).to(dtype))
    content = encode(weight)
    assert same(decode(content, shape), weight)
    count = weight.values.data.numel()
    parameter = codec.rice_parameter(matrix.numel(), count)
    positions = math.ceil((count * (1 + parameter) + ((matrix.numel() - count) >> parameter)) / 8)
    assert len(content) <= codec.START + positions + count * dtype.itemsize


def test_values_asked_for_in_bfloat16_are_stored_so(way: str) -> None:
    weight = pack(sparse((50, 60), 0.8)).rounded(VALUE_TYPES["bfloat16"])
    assert weight.dtype == torch.float32
    found = decode(encode(weight), (50, 60))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.to_dense().float(), weight.to_dense())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_that_were_shorter_once_are_stored_so(way: str, dtype: torch.dtype) -> None:
    """A float32 checkpoint made of a float16 one has bits that are always 0."""
    short = sparse((200, 300), 0.8, dtype)
    content = encode(pack(short.float()))
    assert len(content) < 1.03 * len(encode(pack(short)))
    assert torch.equal(decode(content, (200, 300)).to_dense(), short.float())


@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("sparsity", [0.5, 0.55, 0.6, 0.62, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99])
def test_bytes_are_below_the_entropy_of_zeros_and_plain_values(dtype: torch.dtype, sparsity: float) -> None:
    """By a fifth, and by a third in bfloat16, where the sign and exponent are more of a value."""
    size = 768 * 768
    matrix = torch.randn(768, 768, generator=torch.Generator().manual_seed(0)) / 30
    matrix = matrix.masked_fill(matrix.abs() <= matrix.abs().flatten().kthvalue(int(size * sparsity)).values, 0)
    weight = pack(matrix.to(dtype))
    share = weight.density
    entropy = -size * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    whole = entropy / 8 + weight.values.data.numel() * dtype.itemsize
    assert len(encode(weight)) <= (0.7 if dtype == torch.bfloat16 else 0.84) * whole


@pytest.mark.parametrize("sparsity", [0.5, 0.62, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("shape", [(768, 768), (128, 64)])
def test_positions_are_near_the_entropy(sparsity: float, shape: tuple[int, int]) -> None:
    weight = pack((sparse(shape, sparsity) != 0).float())  # ones, which take one bit each
    entropy = -weight.density * math.log2(weight.density) - (1 - weight.density) * math.log2(1 - weight.density)
    positions = len(encode(weight)) - codec.START - 2 - weight.values.data.numel() / 8
    assert positions <= 1.06 * entropy * math.prod(shape) / 8 + 2


@pytest.mark.parametrize("pattern", ["rows", "halves", "2:4"])
def test_no_pattern_is_much_larger_than_scattered_zeros(pattern: str) -> None:
    matrix = torch.ones(256, 256)
    if pattern == "rows":
        matrix[::2] = 0
    elif pattern == "halves":
        matrix[:128] = 0
    else:
        matrix.view(-1, 4)[:, 1:3] = 0
    assert len(encode(pack(matrix))) <= 1.05 * (matrix.numel() / 8 + 4 * torch.count_nonzero(matrix))


# hostile bytes


def test_a_weight_for_another_layer_is_refused(way: str) -> None:
    content = encode(pack(sparse((30, 40), 0.5)))
    with pytest.raises(ModelError, match="packed as 30 x 40, expected 40 x 30"):
        decode(content, (40, 30))


@pytest.mark.parametrize("shape", [(2**24 + 1, 1), (2**16, 2**16), (2**32 - 1, 2**32 - 1), (0, 5)])
def test_a_few_bytes_can_not_ask_for_any_amount_of_memory(way: str, shape: tuple[int, int]) -> None:
    content = sealed(of_bytes(bytes(4) + codec.HEADER.pack(*shape, *[0] * 8)))
    with pytest.raises(ModelError, match=f"{shape[0]} x {shape[1]}"):
        decode(content, shape)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 1201},
        {"count": 599},
        {"count": 601},
        {"length": 10},
        {"length": 2**32 - 1},
        {"kind": 3},
        {"dropped": 1},
        {"dropped": 21},
        {"dropped": 255},
        {"high_first": 1023},
        {"high_pairs": 3},
        {"high_pairs": 0},
        {"high_pairs": 65535},
        {"low_pairs": 5},
    ],
)
def test_a_header_that_does_not_fit_is_refused(way: str, change: dict[str, int]) -> None:
    matrix = sparse((30, 40), 0.5)
    matrix.view(-1)[:600], matrix.view(-1)[600:] = 1 + torch.rand(600), 0
    matrix.view(-1)[::100] = 3.3  # not as many as there are codes for
    with pytest.raises(ModelError, match=r"it is damaged in its|1201 values.*1200"):
        decode(with_header(encode(pack(matrix)), **change), (30, 40))


def test_the_wrong_kinds_of_tensors_are_refused(way: str) -> None:
    content = encode(pack(sparse((30, 40), 0.5)))
    wrong = [
        content[: codec.START - 1],
        content.to(torch.int32),
        content.view(1, -1),
        content.float(),
        sealed(content[:-1]),
        sealed(torch.cat([content, content[:1]])),
    ]
    for tensor in wrong:
        with pytest.raises(ModelError, match=f"at least {codec.START} bytes|it is damaged"):
            decode(tensor, (30, 40))


@given(st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from(STORED_TYPES), st.integers(0, 2**16), st.data())
@settings(max_examples=200)
def test_damaged_bytes_are_refused_or_make_a_sound_weight(
    sparsity: float, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    """Some flips leave a whole stream of other positions and values: never one that the kernels would trip over."""
    shape = 37, 211
    content = encode(pack(sparse(shape, sparsity, dtype, seed))).clone()
    last = data.draw(st.sampled_from([codec.START + 40, len(content) - 1]))  # among header and tables, or anywhere
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, min(last, len(content) - 1)))] = data.draw(st.integers(0, 255))
    damaged = sealed(content)
    outcomes = []
    for numpy in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if numpy:
                without_kernels(patch)
            try:
                weight = decode(damaged, shape)
            except ModelError as error:
                outcomes.append(str(error))
            else:
                weight.check()
                outcomes.append(str([tensor.view(torch.uint8).tolist() for tensor in weight.tensors]))
    assert len(set(outcomes)) == 1


@given(st.binary(max_size=60), st.integers(0, 40), st.integers(0, 60))
def test_any_bytes_are_refused_or_make_a_sound_weight(stream: bytes, count: int, length: int) -> None:
    header = codec.HEADER.pack(9, 17, count, length, 1, 0, 0, 0, 0, 0)
    with contextlib.suppress(ModelError):
        decode(sealed(of_bytes(bytes(4) + header + stream)), (9, 17)).check()


@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_a_matrix_has_one_encoding(way: str, dtype: torch.dtype, sparsity: float) -> None:
    """Every change of a byte is refused, or is the encoding of another matrix."""
    shape, draw = (23, 31), random.Random(0)
    content = encode(pack(sparse(shape, sparsity, dtype)))
    header = [(at, draw.randrange(1, 256)) for at in range(4, codec.START) for _ in range(4)]
    anywhere = [(draw.randrange(4, len(content)), draw.randrange(1, 256)) for _ in range(300)]
    accepted = 0
    for at, change in header + anywhere:
        mutated = content.clone()
        mutated[at] ^= change
        mutated = sealed(mutated)
        with contextlib.suppress(ModelError):
            assert torch.equal(encode(decode(mutated, shape)), mutated), (at, change)
            accepted += 1
    assert 0 < accepted < len(header) + len(anywhere)


def test_positions_may_not_go_beyond_the_bytes(way: str) -> None:
    """A slice would end where the bytes do, and so hide it."""
    content = encode(pack(torch.zeros(30, 40)))
    assert len(content) == codec.START
    with pytest.raises(ModelError, match="damaged"):
        decode(with_header(content, length=1), (30, 40))


@pytest.mark.parametrize("field", ["high_first", "low_first"])
def test_an_absent_field_is_zero(way: str, field: str) -> None:
    content = encode(pack(torch.zeros(30, 40)))
    with pytest.raises(ModelError, match="damaged"):
        decode(with_header(content, **{field: 1}), (30, 40))


@pytest.mark.parametrize(("kind", "dropped"), [(0, 20), (1, 7), (2, 4)])
def test_a_code_that_is_not_the_values_own_is_refused(way: str, kind: int, dropped: int) -> None:
    """Where there are no values, all bits are dropped that can be."""
    content = encode(pack(torch.zeros(30, 40)))
    decode(with_header(content, kind=kind, dropped=dropped), (30, 40))
    with pytest.raises(ModelError, match="damaged"):
        decode(with_header(content, kind=kind, dropped=dropped - 1), (30, 40))


@given(st.data())
def test_any_other_byte_is_noticed(data: st.DataObject) -> None:
    content = encode(pack(sparse((20, 30), 0.9)))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ModelError, match="checksum"):
        decode(content, (20, 30))
