"""The integers of int8 layers: bounds of the rounding, grids that are found again, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError
from aerogel.models.int8 import GROUP, dequantize, quantize_rows, quantize_tokens, round_to_grid, token_integers
from aerogel.runtime.cells import PANEL

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def matrices(draw: st.DrawFn, rows: int = 6, columns: int = 2 * GROUP + 9) -> Tensor:
    """Random matrices with zeros, rows of zeros among them, and rows of very different sizes."""
    shape = draw(st.integers(1, rows)), draw(st.sampled_from([1, 3, 8, GROUP - 1, GROUP, GROUP + 1, columns]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    matrix = torch.randn(shape, generator=generator)
    matrix *= torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.1, 1.0]))
    return matrix * 10.0 ** torch.randint(-20, 20, (shape[0], 1), generator=generator)


@given(matrices())
def test_weights_change_by_half_a_scale_at_most(matrix: Tensor) -> None:
    integers, scales = quantize_rows(matrix)
    assert (integers.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (len(matrix),))
    error = (integers.double() * scales.double()[:, None] - matrix.double()).abs()
    assert (error <= scales.double()[:, None] / 2 * (1 + 1e-5)).all()
    assert torch.equal(integers.abs().amax(1) == 127, matrix.abs().amax(1) > 0)
    assert not integers[matrix == 0].any()


@given(st.integers(0, 2**31), st.floats(2.0**-10, 2.0**8, width=32), st.sampled_from([torch.float32, torch.float16]))
def test_a_grid_is_found_again(seed: int, scale: float, dtype: torch.dtype) -> None:
    """Also one with other scales than the rounding itself would choose. The 8 bits of bfloat16 are too few."""
    integers = torch.randint(-127, 128, (3, 40), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    integers[0, 3], integers[1, 0], integers[2] = 127, -127, 0
    found, scales = quantize_rows(dequantize(integers, torch.full((3,), scale)).to(dtype))
    assert torch.equal(found, integers)
    torch.testing.assert_close(scales, torch.tensor([scale, scale, 0.0]), rtol=0.001, atol=0)


@given(matrices())
def test_rounding_twice_changes_nothing(matrix: Tensor) -> None:
    rounded = round_to_grid(matrix)
    assert torch.equal(round_to_grid(rounded), rounded)


def test_rows_of_numbers_that_are_nearly_zero_become_zeros() -> None:
    integers, scales = quantize_rows(torch.tensor([[1e-37, -1e-38], [1e-45, 0], [0, 0]]))
    assert not integers.any()
    assert not scales.any()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(wrong: float) -> None:
    matrix = torch.ones(4, 5)
    matrix[2, 1] = wrong
    with pytest.raises(ModelError, match="row 2"):
        quantize_rows(matrix)


def test_a_group_is_a_panel_of_the_kernels() -> None:
    assert GROUP == PANEL


@given(matrices())
def test_integers_of_tokens_are_bytes_and_change_them_by_half_a_scale(x: Tensor) -> None:
    integers, zero, scale = token_integers(x)
    assert 0 <= integers.min() <= integers.max() <= 255
    assert 0 <= zero.min() <= zero.max() <= 254
    assert torch.equal(integers, integers.byte().float())
    assert torch.equal(zero, zero.byte().float())
    width = integers.shape[-1]
    groups = functional.pad(x, (0, -x.shape[1] % width)).unflatten(1, (-1, width)).double()
    # half a step for the value, and half for the zero point
    error = (scale.double() * (integers - zero).double() - groups).abs()
    assert (error <= scale.double() * (1 + 1e-4)).all()
    assert ((integers == zero) | (groups != 0)).all()


@given(matrices())
def test_groups_of_a_token_are_quantized_by_themselves(x: Tensor) -> None:
    parts = [quantize_tokens(x[:, first : first + GROUP]) for first in range(0, x.shape[1], GROUP)]
    assert torch.equal(quantize_tokens(x), torch.cat(parts, dim=1))
    assert torch.equal(quantize_tokens(x), torch.stack([quantize_tokens(token) for token in x]))


def test_leading_dimensions_and_dtypes_are_kept() -> None:
    for dtype in FLOATS:
        x = torch.randn(2, 3, 5).to(dtype)
        assert (quantize_tokens(x).dtype, quantize_tokens(x).shape) == (dtype, x.shape)
    assert quantize_tokens(torch.empty(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_tokens_that_are_not_finite_become_nan_in_their_group(wrong: float) -> None:
    x = torch.randn(2, 3 * GROUP)
    x[1, GROUP + 5] = wrong
    quantized = quantize_tokens(x)
    expected = torch.zeros(2, 3 * GROUP, dtype=torch.bool)
    expected[1, GROUP : 2 * GROUP] = True
    assert torch.equal(quantized.isnan(), expected)


def test_ranges_that_are_extreme() -> None:
    torch.testing.assert_close(quantize_tokens(torch.tensor([3e38, -3e38, 1.0])), torch.tensor([3e38, -3e38, 0.0]))
    assert not quantize_tokens(torch.tensor([1e-37, 1e-45])).any()  # a scale whose reciprocal would be infinite


@pytest.mark.parametrize("function", [round_to_grid, quantize_tokens])
def test_gradients_pass_straight_through(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 9, requires_grad=True)
    factors = torch.randn(4, 9)
    rounded = function(x)
    (rounded * factors).sum().backward()
    torch.testing.assert_close(x.grad, factors, rtol=0, atol=0)
    assert torch.equal(rounded, function(x.detach()))
