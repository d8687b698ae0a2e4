"""Swaps lower the error, keep every count, and end where no swap of the best candidate helps."""

import itertools

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from aerogel.pruning import Pattern
from aerogel.pruning.least_squares import damped
from aerogel.pruning.swap import DAMPING, swap


def problem(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(300, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return torch.randn(rows, columns, generator=draw), inputs.T @ inputs


def error(target: Tensor, weight: Tensor, hessian: Tensor) -> float:
    """‖X (target − weight)ᵀ‖²_F."""
    difference = target - weight
    return float(((difference @ hessian) * difference).sum())


@given(
    st.sampled_from(["unstructured", "2:4", "1:8", "block:2x1", "block:1x4", "block:2x2"]),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.booleans(),
    st.integers(0, 100),
)
def test_the_error_falls_and_the_counts_stay(text: str, sparsity: float, moved: bool, seed: int) -> None:
    target, hessian = problem(8, 16, seed)
    pattern = Pattern.parse(text)
    sparsity = pattern.fixed_sparsity or sparsity
    mask = pattern.mask(target.abs(), sparsity)
    start = target * mask * (0.9 if moved else 1.0)
    refined, weight = swap(target, start, mask, hessian, pattern)
    ridged = damped(hessian, DAMPING)
    assert error(target, weight * refined, ridged) <= error(target, start, ridged) * (1 + 1e-4)
    assert not weight[~refined].any()
    before, after = pattern.units(mask.float()), pattern.units(refined.float())
    assert torch.equal(before.sum(1), after.sum(1))
    assert set(after.unique().tolist()) <= {0.0, float(pattern.rows * pattern.columns)}
    if pattern.group:
        assert (refined.view(-1, pattern.group).sum(1) == pattern.kept).all()
    if not moved:
        assert torch.equal(weight, target * refined)


def test_a_single_row_ends_where_no_swap_helps() -> None:
    target, hessian = problem(1, 10, 7)
    ridged = damped(hessian, DAMPING)
    pattern = Pattern.parse("unstructured")
    mask, weight = swap(
        target, target * pattern.mask(target.abs(), 0.5), pattern.mask(target.abs(), 0.5), hessian, pattern
    )
    reached = error(target, weight, ridged)
    kept, dropped = mask[0].nonzero()[:, 0].tolist(), (~mask[0]).nonzero()[:, 0].tolist()
    better = 0
    for out, into in itertools.product(kept, dropped):
        other = mask.clone()
        other[0, out], other[0, into] = False, True
        better += error(target, target * other, ridged) < reached * (1 - 1e-4)
    assert better <= 2  # one candidate to drop is weighed at a time, against all that may return


@pytest.mark.parametrize("text", ["unstructured", "2:4", "block:1x2"])
def test_a_random_mask_is_improved(text: str) -> None:
    target, hessian = problem(32, 64, 1)
    pattern = Pattern.parse(text)
    mask = pattern.mask(torch.rand(target.shape, generator=torch.Generator().manual_seed(2)), 0.5)
    _, weight = swap(target, target * mask, mask, hessian, pattern)
    assert error(target, weight, hessian) < 0.5 * error(target, target * mask, hessian)
