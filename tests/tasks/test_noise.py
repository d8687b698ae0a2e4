"""Damage done to text: how much, where, and the same for the same seed."""

import pytest
import torch
from hypothesis import given, strategies as st

from aerogel.tasks.noise import IGNORED, infill, mask_tokens

MASK = 4
TOKENS = st.integers(0, 400).map(lambda count: torch.arange(10, 10 + count))
SEEDS = st.integers(0, 2**40)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 20), st.integers(1, 50), SEEDS, st.sampled_from([0.0, 0.15, 0.5, 1.0]))
def test_the_share_of_masks_is_exact(rows: int, columns: int, seed: int, rate: float) -> None:
    tokens = torch.arange(10, 10 + rows * columns).view(rows, columns)
    damaged, labels = mask_tokens(tokens, MASK, generator(seed), rate)
    masked = damaged == MASK
    assert int(masked.sum()) == max(1, round(rate * tokens.numel()))
    assert torch.equal(damaged[~masked], tokens[~masked])
    assert torch.equal(labels[masked], tokens[masked])
    assert (labels[~masked] == IGNORED).all()
    assert labels.dtype == damaged.dtype == tokens.dtype


@given(TOKENS, SEEDS)
def test_infilling_leaves_the_rest_in_order(tokens: torch.Tensor, seed: int) -> None:
    damaged = infill(tokens, MASK, generator(seed))
    survivors = damaged[damaged != MASK]
    assert (survivors.diff() > 0).all()  # the tokens rise, so their order is kept and none is twice
    assert set(survivors.tolist()) <= set(tokens.tolist())
    assert len(tokens) - len(survivors) <= round(0.3 * len(tokens))
    assert damaged.dtype == tokens.dtype
    # no two masks side by side: each stands for one span
    masks = (damaged == MASK).int()
    assert not (masks[1:] & masks[:-1]).any()


@given(TOKENS, SEEDS)
def test_without_a_mask_token_the_spans_are_gone(tokens: torch.Tensor, seed: int) -> None:
    damaged = infill(tokens, MASK, generator(seed))
    assert torch.equal(infill(tokens, None, generator(seed)), damaged[damaged != MASK])


@given(st.integers(200, 400), SEEDS)
def test_about_a_third_goes(count: int, seed: int) -> None:
    gone = count - len(infill(torch.arange(count), None, generator(seed)))
    assert 0.3 * count - 15 < gone <= 0.3 * count + 1


def test_spans_have_a_mean_of_three() -> None:
    tokens = torch.arange(10, 100_010)
    damaged = infill(tokens, MASK, generator(0))
    masks = int((damaged == MASK).sum())
    gone = len(tokens) - (len(damaged) - masks)
    assert gone / masks == pytest.approx(3, rel=0.05)
    starts = (damaged == MASK).nonzero().flatten() / len(damaged)
    assert float(starts.mean()) == pytest.approx(0.5, abs=0.02)  # and stand everywhere


@pytest.mark.parametrize("mask", [MASK, None])
def test_the_seed_decides(mask: int | None) -> None:
    tokens = torch.arange(10, 210)
    first, again, other = (infill(tokens, mask, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(*(mask_tokens(tokens, MASK, generator(3))[0] for _ in range(2)))
    assert not torch.equal(*(mask_tokens(tokens, MASK, generator(seed))[0] for seed in (3, 4)))
