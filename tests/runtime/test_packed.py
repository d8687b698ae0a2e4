from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from aerogel.errors import ModelError
from aerogel.models.int8 import quantize_rows, round_to_grid
from aerogel.pruning.pattern import Pattern
from aerogel.runtime import kernel
from aerogel.runtime.packed import PackedWeight, pack
from aerogel.runtime.values import VALUE_TYPES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INT8 = VALUE_TYPES["int8"]


def random_matrix(rows: int, columns: int, sparsity: float, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) >= sparsity
    return torch.randn(rows, columns, generator=generator).masked_fill(~kept, 0).to(dtype)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 2000),
    columns=st.integers(1, 2000),
    sparsity=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_unpacking_gives_the_matrix_back(
    rows: int, columns: int, sparsity: float, dtype: torch.dtype, seed: int
) -> None:
    matrix = random_matrix(rows, max(1, min(columns, 100_000 // rows)), sparsity, dtype, seed)
    packed = pack(matrix)
    packed.check()
    assert torch.equal(packed.to_dense(), matrix)
    assert packed.to_dense().dtype == dtype
    assert packed.values.data.numel() == torch.count_nonzero(matrix)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 8) | st.sampled_from([767, 769, 1600]),
    columns=st.integers(1, 40) | st.sampled_from([767, 768, 769, 770, 3100]),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
)
def test_integers_are_those_of_the_rounding(
    rows: int, columns: int, sparsity: float, dtype: torch.dtype, transposed: bool
) -> None:
    columns = min(columns, 200_000 // rows)
    matrix = random_matrix(rows, columns, sparsity, dtype, rows + columns)
    packed = pack(matrix.T.contiguous().T if transposed else matrix, INT8)
    packed.check()
    integers, scales = quantize_rows(matrix)
    assert torch.equal(packed.unscaled(), integers.float())
    assert torch.equal(packed.values.scales, scales)
    assert torch.equal(packed.to_dense(), round_to_grid(matrix))
    quads = torch.nn.functional.pad(integers, (0, -columns % 4)).view(-1, 4)
    assert packed.values.data.shape == (int(quads.any(1).sum()), 4)
    groups = [integers[:, first : first + 768].sum(1) for first in range(0, columns, 768)]
    assert torch.equal(packed.sums(), torch.stack(groups).int())
    assert packed.density == pytest.approx(int(integers.count_nonzero()) / integers.numel())


@pytest.mark.parametrize("value_type", [None, INT8])
@pytest.mark.parametrize("columns", [700, 1, 3, 1540])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_and_torch_pack_alike(
    dtype: torch.dtype, columns: int, value_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = random_matrix(1000, columns, 0.85, dtype, 0)
    first = pack(matrix, value_type)
    tensors, dense = first.tensors, first.to_dense()
    monkeypatch.setattr(kernel, "native", lambda: None)
    second = pack(matrix, value_type)
    assert second.cells.block == first.cells.block
    assert all(torch.equal(a, b) for a, b in zip(tensors, second.tensors, strict=True))
    assert torch.equal(second.to_dense(), dense)
    assert torch.equal(first.to_dense(), matrix if value_type is None else round_to_grid(matrix))


def test_values_that_are_no_numbers_are_kept() -> None:
    matrix = torch.zeros(4, 5)
    matrix[0, 1], matrix[2, 3], matrix[3, 4] = torch.inf, torch.nan, 1e-42
    assert torch.equal(pack(matrix).to_dense().view(torch.int32), matrix.view(torch.int32))


def test_memory_at_90_percent_is_under_16_percent_of_the_dense() -> None:
    for shape in [(768, 768), (3072, 768), (768, 3072), (576, 192)]:
        matrix = random_matrix(*shape, 0.9, torch.float32, 0)
        assert sum(tensor.nbytes for tensor in pack(matrix).tensors) <= 0.16 * matrix.nbytes


def test_memory_of_quads_in_int8_at_90_percent_is_under_4_percent_of_the_dense() -> None:
    for shape in [(768, 768), (3072, 768), (768, 3072), (384, 384), (1536, 384), (384, 1536)]:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        matrix *= Pattern.parse("block:1x4").mask(matrix.abs(), 0.9)
        assert sum(tensor.nbytes for tensor in pack(matrix, INT8).tensors) <= 0.04 * matrix.nbytes


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8])
def test_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match=str(dtype)):
        pack(torch.ones(2, 2, dtype=dtype))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_have_no_integers(wrong: float) -> None:
    matrix = torch.ones(3, 5)
    matrix[1, 2] = wrong
    for weight in (lambda: pack(matrix, INT8), lambda: pack(matrix).rounded(INT8)):
        with pytest.raises(ModelError, match="int8"):
            weight()


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_rounded_from_any_type_to_any(dtype: torch.dtype) -> None:
    matrix = random_matrix(50, 70, 0.5, dtype, 0)
    integers = pack(matrix, INT8)
    rounded = pack(matrix).rounded(INT8)
    rounded.check()
    assert (rounded.dtype, integers.rounded(INT8)) == (dtype, integers)
    assert all(torch.equal(a, b) for a, b in zip(integers.tensors, rounded.tensors, strict=True))
    for name in ("float32", "bfloat16"):
        floats = integers.rounded(VALUE_TYPES[name])
        floats.check()
        grid = replace(integers, dtype=torch.float32).to_dense()
        assert torch.equal(floats.to_dense(), grid.to(VALUE_TYPES[name].dtype).to(dtype))


def damaged(packed: PackedWeight) -> dict[str, PackedWeight]:
    def changed(name: str, place: int, value: int) -> PackedWeight:
        tensor = getattr(packed.cells, name).clone()
        tensor.view(-1)[place] = value
        return with_cells(**{name: tensor})

    def with_cells(**changes: Any) -> PackedWeight:
        return replace(packed, cells=replace(packed.cells, **changes))

    def with_values(data: torch.Tensor) -> PackedWeight:
        return replace(packed, values=replace(packed.values, data=data))

    return {
        "a column beyond the block": changed("index", -1, 255),
        "columns out of order": changed("index", 0, 127),
        "a row beyond the panel": changed("order", 0, 60000),
        "a row twice": changed("order", 0, int(packed.cells.order[1, 0])),
        "a count beyond the block": changed("order", 1, 60000),
        "offsets that fall": changed("offsets", 1, 0),
        "offsets that start late": changed("offsets", 0, 1),
        "an offset beyond the values": changed("offsets", -1, 10**12),
        "a value too few": with_values(packed.values.data[:-1]),
        "another type": with_values(packed.values.data.double()),
        "another shape": with_cells(shape=(packed.shape[0] + 768, packed.shape[1])),
        "no rows": with_cells(shape=(0, packed.shape[1])),
        "another block": with_cells(block=100),
    }


@pytest.mark.parametrize("name", damaged(pack(torch.ones(3, 130))))
def test_damage_is_found(name: str) -> None:
    packed = pack(random_matrix(900, 300, 0.6, torch.float32, 1))
    packed.check()
    with pytest.raises(ModelError):
        damaged(packed)[name].check()


def damaged_integers(packed: PackedWeight) -> dict[str, PackedWeight]:
    def with_values(**changes: Any) -> PackedWeight:
        return replace(packed, values=replace(packed.values, **changes))

    def with_scale(scale: float) -> PackedWeight:
        assert packed.values.scales is not None
        return with_values(scales=torch.cat([packed.values.scales[:-1], torch.tensor([scale])]))

    data = packed.values.data.clone()
    data[0, 0] = -128
    beyond = packed.values.data.clone()
    beyond[-1, 3] = 1
    return {
        "no scales": with_values(scales=None),
        "a scale too few": with_values(scales=packed.values.scales[:-1]),
        "scales of another type": with_values(scales=packed.values.scales.double()),
        "NaN": with_scale(torch.nan),
        "infinity": with_scale(torch.inf),
        "a negative scale": with_scale(-1),
        "-128": with_values(data=data),
        "beyond the last column": with_values(data=beyond),
        "single integers": with_values(data=packed.values.data.view(-1)),
        "units of one column": replace(packed, cells=replace(packed.cells, unit=1)),
        "a block of floats": replace(packed, cells=replace(packed.cells, block=128)),
        "floats": with_values(type=VALUE_TYPES["float32"]),
    }


@pytest.mark.parametrize("name", damaged_integers(pack(torch.ones(3, 130), INT8)))
def test_damage_of_integers_is_found(name: str) -> None:
    packed = pack(torch.ones(900, 301), INT8)
    packed.check()
    with pytest.raises(ModelError):
        damaged_integers(packed)[name].check()


def test_rows_of_a_cell_are_sorted_by_their_non_zeros() -> None:
    packed = pack(random_matrix(500, 128, 0.5, torch.float32, 2))
    counts = packed.cells.order[:, 1].long()
    assert (counts.diff() <= 0).all()
    assert math.isclose(counts.sum().item(), packed.values.data.numel())


FLUSHING = """
import torch; torch.set_num_threads(2)
from aerogel.runtime.packed import pack
torch.manual_seed(0)
x = torch.randn(768, 3072); x[torch.rand_like(x) < 0.5] = 0; x[torch.rand_like(x) < 0.3] *= 1e-38
torch.mm(torch.randn(1000, 1000), torch.randn(1000, 1000))  # the second thread is started before this one is set
expected = x.view(torch.int32).clone()
torch.set_flush_denormal(True)
for _ in range(5):
    packed = pack(x)
    packed.check()
    assert torch.equal(packed.to_dense().view(torch.int32), expected & (expected & 0x7FFFFFFF).ne(0) * -1)
"""


@pytest.mark.parametrize("kernels", ["1", "0"])
def test_denormal_weights_are_packed_whichever_threads_flush_them(kernels: str) -> None:
    """Each thread has its own setting, and counting and filling may fall to different ones."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "AEROGEL_NATIVE": kernels}
    done = subprocess.run([sys.executable, "-c", FLUSHING], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
