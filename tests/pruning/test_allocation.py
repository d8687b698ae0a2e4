"""Every allocation drops the same total as one sparsity for all, and every matrix keeps some weights."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from aerogel.errors import PruningError
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.pruning import ALLOCATIONS, Allocation, Pattern
from aerogel.pruning.allocation import FLOOR, REACH, Allocator


class Model(nn.Module):
    """Blocks of two matrices each, the later the larger their weights."""

    def __init__(self, blocks: int, rows: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"first": nn.Linear(64, rows), "second": nn.Linear(32, 24)}) for _ in range(blocks)
        )
        with torch.no_grad():
            for index, block in enumerate(self.layers):
                for linear in block.children():
                    linear.weight.mul_(1 + index)


def allocator(blocks: int, sparsity: float, text: str = "unstructured", per_row: bool = False) -> Allocator:
    weights = prunable_weights(Model(blocks))
    pattern = Pattern.parse(text).within_rows() if per_row else Pattern.parse(text)
    last = {weight.layer: index for index, weight in enumerate(weights)}

    def kl(shares: list[float]) -> float:
        """Lowest where the last blocks are the densest."""
        return sum(shares[index] * (1 + depth) for depth, index in enumerate(last.values()))

    return Allocator(weights, lambda weight: weight.matrix.abs(), pattern, sparsity, kl)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(
    st.integers(1, 5),
    st.floats(0.0, 0.8),
    st.sampled_from([("unstructured", False), ("unstructured", True), ("block:4x1", False), ("block:2x4", True)]),
)
def test_the_total_is_exact(allocation: Allocation, blocks: int, sparsity: float, pattern: tuple[str, bool]) -> None:
    subject = allocator(blocks, sparsity, *pattern)
    shares = subject.shares(allocation)
    dropped = expected = 0
    for weight, share in zip(subject.weights, shares, strict=True):
        units = subject.pattern.units(subject.pattern.mask(weight.matrix.abs(), share).float())
        dropped += int((units == 0).sum())
        expected += int((subject.pattern.units(subject.pattern.mask(weight.matrix.abs(), sparsity).float()) == 0).sum())
        assert (units > 0).any() or allocation == "uniform"
    if allocation == "uniform":
        assert dropped == expected
    elif pattern[1]:  # whole steps of one unit in each row
        assert expected - max(subject.steps) < dropped <= expected
    else:
        assert dropped == round(sparsity * sum(subject.units))


def test_larger_weights_keep_more_and_the_mix_lies_between() -> None:
    subject = allocator(4, 0.5)
    ranked, mixed = subject.shares("global"), subject.shares("mixed")
    assert ranked[0] > 0.5 > ranked[-1]
    for most, some in zip(ranked, mixed, strict=True):
        assert min(most, 0.5) - 0.02 <= some <= max(most, 0.5) + 0.02
    assert all(1 - share >= FLOOR * 0.5 - 0.01 for share in ranked)


@given(st.sampled_from([1e-36, 1e-18, 1e-3, 1e3, 1e18]), st.floats(0.1, 0.9))
def test_the_scale_of_all_scores_does_not_matter(size: float, sparsity: float) -> None:
    subject = allocator(3, sparsity)
    sized = Allocator(subject.weights, lambda weight: weight.matrix.abs() * size, subject.pattern, sparsity)
    assert sized.shares("global") == pytest.approx(subject.shares("global"), abs=2e-3)
    signed = Allocator(subject.weights, lambda weight: weight.matrix.abs() * size - 2 * size, subject.pattern, sparsity)
    assert signed.shares("global") == pytest.approx(subject.shares("global"), abs=2e-3)


def test_owl_stays_within_its_reach() -> None:
    shares = allocator(5, 0.6).shares("owl")
    assert all(abs(share - 0.6) <= 2 * REACH + 0.01 for share in shares)
    assert len(set(shares)) > 1


def test_a_progression_is_linear_with_the_slope_of_the_lowest_kl() -> None:
    subject = allocator(5, 0.5)
    shares = subject.shares("progression")[::2]
    steps = [later - earlier for earlier, later in pairwise(shares)]
    assert all(step == pytest.approx(-0.3 / 4, abs=0.01) for step in steps)


def test_the_search_ends_no_worse_than_either_end() -> None:
    subject = allocator(5, 0.5)
    assert subject.kl is not None
    reached = subject.kl(subject.shares("search"))
    assert reached <= min(subject.kl(subject.shares("uniform")), subject.kl(subject.shares("global"))) + 1e-9


def test_refusals() -> None:
    with pytest.raises(PruningError, match=r"2:4.* uniform.* global"):
        allocator(2, 0.5, "2:4").shares("global")
    with pytest.raises(PruningError, match=r"0\.999 .* 1 unit, .* 2 matrices"):
        allocator(1, 0.999).shares("owl")
    broken = Allocator([_one()], lambda weight: weight.matrix * torch.nan, Pattern.parse("unstructured"), 0.5)
    with pytest.raises(PruningError, match=r"layer layers\.0: .*NaN"):
        broken.shares("global")


def _one() -> PrunableWeight:
    return PrunableWeight("layers.0", nn.Linear(8, 8))
