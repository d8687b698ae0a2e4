"""The sparse product against the dense one: every instruction set of this machine, every width and every tail."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.nn import functional

from aerogel.models.int8 import quantize_tokens, round_to_grid
from aerogel.runtime.kernel import _gomp_parallel, native
from aerogel.runtime.layers import SparseLinear
from aerogel.runtime.operators import torch_linear
from aerogel.runtime.packed import pack
from aerogel.runtime.values import VALUE_TYPES

MODULE = native()
INSTRUCTION_SETS = MODULE.instruction_sets() if MODULE else []
INT8 = VALUE_TYPES["int8"]
pytestmark = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native kernels were not built")


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    assert MODULE is not None
    before = MODULE.instruction_set()
    assert MODULE.use_instruction_set(request.param)
    yield request.param
    MODULE.use_instruction_set(before)


def matrix(rows: int, columns: int, sparsity: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight * (torch.rand(rows, columns, generator=generator) >= sparsity)


def sparse(weight: Tensor, bias: Tensor | None = None) -> SparseLinear:
    return SparseLinear(pack(weight), None if bias is None else nn.Parameter(bias))


def product(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return sparse(weight, bias)(x)


def assert_close(
    found: Tensor, expected: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, tolerance: float = 1e-6
) -> None:
    """Every cell within ``tolerance`` of the sum of its terms' magnitudes: the terms of a sum near zero cancel."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    terms = functional.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs())
    assert ((found.double() - expected.double()).abs() <= tolerance * terms).all()


def assert_product(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.dtype == torch.float32
    assert_close(found.double(), exact, x, weight, bias)


@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 129])
def test_every_tail_of_tokens(instruction_set: str, tokens: int) -> None:
    weight, bias = matrix(130, 301, 0.8), torch.randn(130)
    x = torch.randn(tokens, 301)
    assert_product(product(weight, x, bias), x, weight, bias)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4099), (4099, 1), (767, 17), (768, 128), (769, 129), (1537, 193), (5, 257)]
)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_every_tail_of_rows_and_columns(instruction_set: str, shape: tuple[int, int], sparsity: float) -> None:
    weight = matrix(*shape, sparsity)
    for tokens in (1, 40):
        x = torch.randn(tokens, shape[1])
        assert_product(product(weight, x), x, weight)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4099),
    columns=st.integers(1, 4099),
    tokens=st.integers(1, 200),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_any_shape(rows: int, columns: int, tokens: int, sparsity: float, seed: int) -> None:
    # flat, tall or small: a matrix of 4,099 x 4,099 would only take long
    columns = max(1, min(columns, 300_000 // rows))
    weight = matrix(rows, columns, sparsity, seed)
    x = torch.randn(tokens, columns)
    assert_product(product(weight, x), x, weight)


def test_empty_rows_give_the_bias(instruction_set: str) -> None:
    weight, bias = matrix(100, 200, 0.9), torch.randn(100)
    weight[[0, 3, 50, 99]] = 0
    for tokens in (1, 20):
        assert torch.equal(product(weight, torch.randn(tokens, 200), bias)[:, 50], bias[50].expand(tokens))


def test_bfloat16_values(instruction_set: str) -> None:
    weight = matrix(300, 500, 0.7).bfloat16()
    for tokens in (1, 50):
        x = torch.randn(tokens, 500)
        assert_product(product(weight, x), x, weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_keep_their_type(dtype: torch.dtype) -> None:
    weight, x = matrix(64, 64, 0.5), torch.randn(3, 5, 64).to(dtype)
    assert (
        torch.equal(product(weight, x), functional.linear(x.float(), weight).to(dtype))
        or (product(weight, x).float() - functional.linear(x.float(), weight)).abs().max() < 0.1
    )


def test_any_strides() -> None:
    weight = matrix(120, 90, 0.6)
    assert torch.equal(pack(weight.T.contiguous().T).to_dense(), weight)
    x = torch.randn(7, 3, 90).transpose(0, 1)
    assert_product(product(weight, x), x, weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_a_number_is_carried_as_the_dense_product_does(instruction_set: str, bad: float) -> None:
    weight = matrix(800, 300, 0.9)
    weight[5] = 0
    for tokens in (1, 2, 30):
        x = torch.randn(tokens, 300)
        x[tokens // 2, 7] = bad
        dense, found = functional.linear(x, weight), product(weight, x)
        assert torch.equal(dense.isnan(), found.isnan())
        assert torch.equal(dense.isinf(), found.isinf())
        others = torch.arange(tokens) != tokens // 2
        assert_product(found[others], x[others], weight)
    weight[0, 0], x = bad, torch.randn(30, 300)
    dense, found = functional.linear(x, weight), product(weight, x)
    assert torch.equal(dense[:, 0].nan_to_num(nan=1.5), found[:, 0].nan_to_num(nan=1.5))
    assert_product(found[:, 1:], x, weight[1:])


def test_denormals(instruction_set: str) -> None:
    weight = matrix(50, 60, 0.5) * 1e-39
    x = torch.randn(9, 60)
    assert_close(product(weight, x), functional.linear(x, weight), x, weight, tolerance=1e-5)  # of few digits


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_threads_same_bits(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, one, many = sparse(matrix(900, 700, 0.8)), torch.randn(1, 700), torch.randn(200, 700)
        with torch.inference_mode():
            first = layer(one), layer(many)
            for _ in range(5):
                assert torch.equal(layer(one), first[0])
                assert torch.equal(layer(many), first[1])
    finally:
        torch.set_num_threads(before)


def test_two_threads_pack_and_run_at_once() -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        for i in range(15):
            weight = matrix(400 + seed, 300, 0.7, seed * 100 + i)
            x = torch.randn(1 if i % 2 else 70, 300)
            dense, found = functional.linear(x, weight), product(weight, x)
            if (dense - found).norm() > 1e-4 * dense.norm():
                wrong.append(f"thread {seed}, round {i}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_threads_are_those_of_torchs_own_openmp() -> None:
    """Whatever other packages have brought theirs by now."""
    import sklearn.metrics  # noqa: F401

    own = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("lib*omp*")]
    if not sys.platform.startswith("linux") or not own:
        pytest.skip("torch brings no OpenMP runtime of its own here")
    address = _gomp_parallel()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if start <= address < end:
            assert line.split(maxsplit=5)[5] in own
            return
    raise AssertionError("the entry point lies nowhere")


# int8


def int8_products(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """By the kernels and without them."""
    layer = SparseLinear(pack(weight, INT8), None if bias is None else nn.Parameter(bias))
    with torch.inference_mode():
        return layer(x), torch_linear(x, layer.packed, [] if bias is None else [bias])


def assert_int8_close(found: Tensor, expected: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Activations lose bits of the largest one of their token."""
    assert_close(found, expected, x.abs().amax(1, keepdim=True).expand_as(x), weight, bias)


def with_zero_quads(weight: Tensor, sparsity: float) -> Tensor:
    """Whole quads are zero, as pattern block:1x4 leaves them."""
    keep = torch.rand(len(weight), -(-weight.shape[1] // 4), generator=torch.Generator().manual_seed(1)) >= sparsity
    return weight * keep.repeat_interleave(4, 1)[:, : weight.shape[1]]


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (130, 301), (769, 129), (4099, 5), (60, 768)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
def test_int8_is_the_same_to_the_bit_in_one_group_without_bias(
    instruction_set: str, shape: tuple[int, int], sparsity: float
) -> None:
    """Sums of integers are exact. Those of one or two tokens are scaled cell by cell, unlike without kernels."""
    assert MODULE is not None
    for weight in (matrix(*shape, sparsity), with_zero_quads(matrix(*shape, 0), sparsity)):
        for tokens in (3, 15, 33, 64, 65, 129):
            found, expected = int8_products(weight, 3 * torch.randn(tokens, shape[1]) + 1)
            assert torch.equal(found, expected)
        for tokens in (1, 2):
            x = 3 * torch.randn(tokens, shape[1]) + 1
            found, expected = int8_products(weight, x)
            assert_int8_close(found, expected, x, weight)
            MODULE.use_instruction_set("scalar")
            assert torch.equal(int8_products(weight, x)[0], found)
            MODULE.use_instruction_set(instruction_set)


@pytest.mark.parametrize("columns", [767, 769, 1536, 3073])
@pytest.mark.parametrize("tokens", [1, 3, 16, 40, 129])
def test_int8_in_several_groups_and_with_bias(instruction_set: str, columns: int, tokens: int) -> None:
    weight, bias = matrix(150, columns, 0.8), torch.randn(150)
    x = torch.randn(tokens, columns) * torch.linspace(0.1, 10, columns)
    found, expected = int8_products(weight, x, bias)
    assert_int8_close(found, expected, x, weight, bias)
    assert_int8_close(found, functional.linear(quantize_tokens(x), round_to_grid(weight), bias), x, weight, bias)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 2000),
    columns=st.integers(1, 2000),
    tokens=st.integers(1, 150),
    sparsity=st.floats(0, 1),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**31),
)
def test_int8_of_any_shape(rows: int, columns: int, tokens: int, sparsity: float, shift: float, seed: int) -> None:
    columns = max(1, min(columns, 100_000 // rows))
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)) + shift
    weight = matrix(rows, columns, sparsity, seed)
    found, expected = int8_products(weight, x)
    assert_int8_close(found, expected, x, weight)


@pytest.mark.parametrize("columns", [300, 1000])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("with_bias", [False, True])
def test_int8_of_a_token_that_is_not_finite_is_nan(
    instruction_set: str, columns: int, bad: float, with_bias: bool
) -> None:
    """In all its outputs, of empty rows too; other tokens are not touched."""
    weight = matrix(800, columns, 0.9)
    weight[5] = 0
    bias = torch.randn(800) if with_bias else None
    for tokens in (1, 2, 30, 70):
        x, token = torch.randn(tokens, columns), tokens // 2
        hit = (torch.arange(tokens) == token)[:, None]
        expected = [result.masked_fill(hit, torch.nan) for result in int8_products(weight, x, bias)]
        for column in (0, 7, columns - 1):
            damaged = x.clone()
            damaged[token, column] = bad
            for found, result in zip(int8_products(weight, damaged, bias), expected, strict=True):
                torch.testing.assert_close(found, result, equal_nan=True, rtol=0, atol=0)


def test_int8_of_zeros_and_of_tiny_activations(instruction_set: str) -> None:
    weight, bias = matrix(70, 100, 0.5), torch.randn(70)
    for tokens in (1, 40):
        for x in (torch.zeros(tokens, 100), torch.full((tokens, 100), 1e-40)):
            found, expected = int8_products(weight, x, bias)
            assert torch.equal(found, bias.expand(tokens, -1))
            assert torch.equal(expected, found)
        for scale in (1e-30, 1e30):
            x = scale * torch.randn(tokens, 100)
            found, expected = int8_products(weight, x)
            assert_int8_close(found, expected, x, weight)


def test_int8_of_the_largest_integers(instruction_set: str) -> None:
    """Neither a product of bytes nor a sum of two is cut off."""
    for sign in (1, -1):
        weight = sign * torch.ones(40, 768)
        for tokens in (1, 50):
            x = torch.full((tokens, 768), 2.54)
            x[:, 0] = 0
            found, expected = int8_products(weight, x)
            assert_int8_close(found, expected, x, weight)
            assert_product(found, x, weight)
