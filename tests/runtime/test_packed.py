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
from aerogel.runtime import kernel
from aerogel.runtime.packed import PackedWeight, pack

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_and_torch_pack_alike(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(1000, 700, 0.85, dtype, 0)
    first = pack(matrix)
    monkeypatch.setattr(kernel, "native", lambda: None)
    second = pack(matrix)
    assert second.cells.block == first.cells.block
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
    assert torch.equal(first.to_dense(), matrix)


def test_values_that_are_no_numbers_are_kept() -> None:
    matrix = torch.zeros(4, 5)
    matrix[0, 1], matrix[2, 3], matrix[3, 4] = torch.inf, torch.nan, 1e-42
    assert torch.equal(pack(matrix).to_dense().view(torch.int32), matrix.view(torch.int32))


def test_memory_at_90_percent_is_under_16_percent_of_the_dense() -> None:
    for shape in [(768, 768), (3072, 768), (768, 3072), (576, 192)]:
        matrix = random_matrix(*shape, 0.9, torch.float32, 0)
        assert sum(tensor.nbytes for tensor in pack(matrix).tensors) <= 0.16 * matrix.nbytes


def test_integers_are_refused() -> None:
    with pytest.raises(ModelError, match="int32"):
        pack(torch.ones(2, 2, dtype=torch.int32))


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
