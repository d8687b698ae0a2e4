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
from aerogel.models.int8 import round_to_grid
from aerogel.pruning.pattern import Pattern
from aerogel.runtime import codec, kernel
from aerogel.runtime.codec import decode, encode
from aerogel.runtime.kernel import native
from aerogel.runtime.packed import PackedWeight, pack
from aerogel.runtime.values import FLOATS, VALUE_TYPES

STORED_FLOATS = [VALUE_TYPES[name].dtype for name in FLOATS]
INT8 = VALUE_TYPES["int8"]
# docs/format.md has the same, and so had version 2 for these floats
GOLDEN_MATRIX = torch.tensor([[0, 0, 1.5, 0, 0, 0], [0, 0, 0, 0, 0, -1], [1, 0, 0, 1.25, 0, 0]])
GOLDEN_BYTES = bytes.fromhex("c93c2590 03000000 06000000 04000000 02000000 0014 fc01 0300 0000 0000 0c0b0b 2529 9300")
GOLDEN_INT8_MATRIX = torch.tensor([[63.5, 63.5, 63.5, 63, 63.5, 63.5, 63.5, 63.5], [0, 0, 0, 0, 254, 254, 250, 254]])
GOLDEN_INT8_BYTES = bytes.fromhex(
    "2152e704 02000000 08000000 03000000 01000000 0300 0700 0100 3e00 0200 d0 b0cb 0000003f 00000040 0b 1808"
)


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


def packed_as(name: str, matrix: Tensor) -> PackedWeight:
    """A float32 matrix packed with values of this type."""
    value_type = VALUE_TYPES[name]
    return pack(matrix.to(value_type.dtype)) if value_type.is_float else pack(matrix, value_type)


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


@pytest.mark.parametrize(
    ("name", "matrix", "content"),
    [("float32", GOLDEN_MATRIX, GOLDEN_BYTES), ("int8", GOLDEN_INT8_MATRIX, GOLDEN_INT8_BYTES)],
    ids=["float32", "int8"],
)
def test_golden_bytes(way: str, name: str, matrix: Tensor, content: bytes) -> None:
    assert bytes(encode(packed_as(name, matrix)).tolist()) == content
    assert torch.equal(decode(of_bytes(content), (matrix.shape[0], matrix.shape[1])).to_dense(), matrix)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.tuples(st.sampled_from([1, 767, 768, 769, 1600]), st.sampled_from([1, 127, 129, 257, 400]))
    | st.sampled_from([(1, 4099), (4099, 1), (2, 4099)]),
    st.sampled_from([0.0, 0.3, 0.5, 0.62, 0.9, 0.99, 0.9999, 1.0]),
    st.sampled_from(list(VALUE_TYPES)),
    st.integers(0, 2**16),
)
@settings(max_examples=80)
def test_decoding_is_the_inverse_and_both_ways_write_the_same_bytes(
    shape: tuple[int, int], sparsity: float, name: str, seed: int
) -> None:
    weight = packed_as(name, sparse(shape, sparsity, seed=seed))
    content = encode(weight)
    assert (content.dtype, content.dim()) == (torch.uint8, 1)
    assert same(decode(content, shape), weight)
    assert torch.equal(encode(decode(content, shape)), content)
    with pytest.MonkeyPatch.context() as patch:
        without_kernels(patch)
        assert torch.equal(encode(weight), content)
        assert same(decode(content, shape), weight)


def test_clustered_zeros_and_long_gaps(way: str) -> None:
    matrix = torch.zeros(900, 700)
    matrix[0, :3] = matrix[450, 690:] = matrix[899, 699] = 1
    weight = pack(matrix)
    assert same(decode(encode(weight), weight.shape), weight)


@pytest.mark.parametrize("dtype", STORED_FLOATS)
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
    st.sampled_from(list(VALUE_TYPES)),
    st.integers(0, 40),
    st.integers(0, 2**16),
)
def test_no_layer_takes_more_than_its_values_as_they_are(
    shape: tuple[int, int], sparsity: float, name: str, spread: int, seed: int
) -> None:
    matrix = sparse(shape, sparsity, seed=seed)
    matrix *= torch.exp2(spread * sparse(shape, 0, seed=seed + 1))
    weight = packed_as(name, matrix.nan_to_num() if name == "int8" else matrix)  # integers need finite weights
    content = encode(weight)
    assert same(decode(content, shape), weight)
    count, units = len(weight.values.data), weight.cells.units
    parameter = codec.rice_parameter(units, count)
    positions = math.ceil((count * (1 + parameter) + ((units - count) >> parameter)) / 8)
    values = count * VALUE_TYPES[name].dtype.itemsize
    if name == "int8":
        values = 4 * shape[0] + math.ceil(count / 2) + int(weight.values.data.count_nonzero())
    assert len(content) <= codec.START + positions + values


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


@pytest.mark.parametrize("dtype", STORED_FLOATS)
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
        {"kind": 4},
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


@given(st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.sampled_from(list(VALUE_TYPES)), st.integers(0, 2**16), st.data())
@settings(max_examples=250)
def test_damaged_bytes_are_refused_or_make_a_sound_weight(
    sparsity: float, name: str, seed: int, data: st.DataObject
) -> None:
    """Some flips leave a whole stream of other positions and values: never one that the kernels would trip over."""
    shape = 37, 211
    content = encode(packed_as(name, sparse(shape, sparsity, seed=seed))).clone()
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


@given(st.sampled_from([1, 3]), st.binary(max_size=100), st.integers(0, 45), st.integers(0, 60))
def test_any_bytes_are_refused_or_make_a_sound_weight(kind: int, stream: bytes, count: int, length: int) -> None:
    header = codec.HEADER.pack(9, 17, count, length, kind, 0, 0, 0, 0, 0)
    with contextlib.suppress(ModelError):
        decode(sealed(of_bytes(bytes(4) + header + stream)), (9, 17)).check()


@pytest.mark.parametrize("name", VALUE_TYPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_a_matrix_has_one_encoding(way: str, name: str, sparsity: float) -> None:
    """Every change of a byte is refused, or is the encoding of another matrix."""
    shape, draw = (23, 31), random.Random(0)
    content = encode(packed_as(name, sparse(shape, sparsity)))
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


# int8


def with_scale(number: float) -> bytes:
    return GOLDEN_INT8_BYTES[:33] + struct.pack("<f", number) + GOLDEN_INT8_BYTES[37:]


def damaged_integers(change: str) -> tuple[bytes, tuple[int, int], str]:
    """Bytes of a matrix whose codes are absent: four bits of a mask, then eight of each of its integers."""
    quads = {
        "-128": ("0010" + "10000000", (1, 4), "-128"),
        "an integer of 0": ("0010" + "00000000", (1, 4), "0"),
        "a mask of 0": ("0000" + "0000", (1, 4), "0"),
        "beyond the last column": ("0010" + "01111111", (1, 1), "column 1"),
        "more integers than bytes": ("1111" + "01111111", (1, 4), "damaged in its values"),
    }
    bits, shape, said = quads[change]
    values = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    header = codec.HEADER.pack(*shape, 1, 0, INT8.number, 0, 0, 0, 0, 0)
    return bytes(4) + header + struct.pack("<f", 1) + values, shape, said


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, -0.0])
def test_scales_that_are_no_scales_are_refused(way: str, number: float) -> None:
    decode(sealed(of_bytes(with_scale(0))), (2, 8))
    with pytest.raises(ModelError, match=f"scales.*{number}"):
        decode(sealed(of_bytes(with_scale(number))), (2, 8))


@pytest.mark.parametrize("length", [33, 36, 37, 40])
def test_scales_of_the_wrong_length_are_refused(way: str, length: int) -> None:
    with pytest.raises(ModelError, match="damaged"):
        decode(sealed(of_bytes(GOLDEN_INT8_BYTES[:length])), (2, 8))


@pytest.mark.parametrize(
    "change", ["-128", "an integer of 0", "a mask of 0", "beyond the last column", "more integers than bytes"]
)
def test_integers_that_no_encoder_writes_are_refused(way: str, change: str) -> None:
    content, shape, said = damaged_integers(change)
    with pytest.raises(ModelError, match=said):
        decode(sealed(of_bytes(content)), shape)


def test_quads_without_an_empty_one_have_no_positions(way: str) -> None:
    matrix = 1 + torch.rand(30, 40)
    content = encode(pack(matrix, INT8))
    assert codec.HEADER.unpack_from(content.numpy(), 4)[3] == 0
    assert torch.equal(decode(content, (30, 40)).to_dense(), round_to_grid(matrix))
    header = dict(zip(HEADER_NAMES, codec.HEADER.unpack_from(content.numpy(), 4), strict=True))
    start = codec.START + header["high_pairs"] + header["low_pairs"] + 4 * 30
    longer = torch.cat([content[:start], of_bytes(b"\xff" * 38), content[start:]])
    with pytest.raises(ModelError, match="damaged in its positions"):
        decode(with_header(longer, length=38), (30, 40))


def test_a_few_bytes_do_not_stand_for_many_integers(way: str) -> None:
    """One integer throughout takes no bits, but its positions do."""
    content = encode(pack(torch.ones(512, 512), INT8))
    assert len(content) > 512 * 512 / 4 / 8
    assert torch.equal(decode(content, (512, 512)).to_dense(), round_to_grid(torch.ones(512, 512)))
    without = content[: codec.START + 2 + 4 * 512]  # two tables of one pair
    with pytest.raises(ModelError, match="damaged"):
        decode(with_header(without, length=0), (512, 512))


@pytest.mark.parametrize("shape", [(768, 768), (3072, 768), (384, 1536)])
@pytest.mark.parametrize("pattern", ["unstructured", "block:1x4"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9])
def test_int8_is_within_5_percent_of_the_entropy(shape: tuple[int, int], pattern: str, sparsity: float) -> None:
    """Of the positions of quads, their masks and their integers; scales count as they are."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 30
    mask = Pattern.parse(pattern).mask(matrix.abs(), sparsity) if sparsity else torch.ones_like(matrix)
    weight = pack(matrix * mask, INT8)
    data = weight.values.data
    masks = ((data != 0) * torch.tensor([1, 2, 4, 8])).sum(1)
    parts = [torch.cat([masks, masks.new_zeros(weight.cells.units - len(masks))]), data[data != 0].long() + 128]
    entropy = sum(entropy_bits(part) for part in parts)
    assert len(encode(weight)) <= 1.05 * (entropy / 8 + 4 * shape[0])


def entropy_bits(symbols: Tensor) -> float:
    counts = symbols.long().bincount()
    counts = counts[counts > 0].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum())
