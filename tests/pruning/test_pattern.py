"""Patterns: the grammar, and masks whose counts are exact whatever the scores."""

import re
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from aerogel.errors import PruningError
from aerogel.pruning import Pattern
from aerogel.pruning.pattern import topk_mask

SPARSITIES = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1 / 3]), st.floats(0, 1, exclude_max=True))


TINY = torch.finfo(torch.float32).tiny  # scores up to it count as 0


@st.composite
def scores(draw: st.DrawFn, rows: int = 1, columns: int = 1, infinities: bool = True) -> Tensor:
    """Scores of a shape that blocks of rows x columns divide; many alike, some infinite."""
    shape = rows * draw(st.integers(1, 6)), columns * draw(st.integers(1, 6))
    special = [inf, -inf] if infinities else []
    values = draw(
        st.sampled_from(
            [
                st.just(0.0),
                st.just(3.5),
                st.sampled_from([0.0, -0.0, 1.0]),
                st.sampled_from([0.0, 1.0, 2.0, *special]),
                st.floats(-100, 100, width=32).map(lambda score: score if abs(score) > TINY else 0.0),
            ]
        )
    )
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(flat).view(shape)


def assert_the_highest_are_kept(scores: Tensor, mask: Tensor) -> None:
    """For every row: no dropped score above a kept one, and ties kept from the left."""
    for row, kept in zip(scores, mask, strict=True):
        if kept.all() or not kept.any():
            continue
        lowest = row[kept].min()
        assert row[~kept].max() <= lowest
        ties = kept[row == lowest]
        assert not (ties[1:] & ~ties[:-1]).any()


# the grammar


@given(st.one_of(st.just("unstructured"), st.builds("block:{}x{}".format, st.integers(1, 64), st.integers(2, 64))))
def test_parse_and_str_are_inverse(text: str) -> None:
    assert str(Pattern.parse(text)) == text
    assert str(Pattern.parse(text).within_rows()) == text
    assert Pattern.parse(text).fixed_sparsity is None


@given(st.integers(1, 32), st.integers(1, 32))
def test_n_of_m_fixes_the_sparsity(kept: int, more: int) -> None:
    pattern = Pattern.parse(f"{kept}:{kept + more}")
    assert str(pattern) == f"{kept}:{kept + more}"
    assert pattern.fixed_sparsity == pytest.approx(more / (kept + more))


@pytest.mark.parametrize("text", ["", "dense", "2:4:8", "2/4", "-2:4", "2:", "block:4", "block:4x", "block:x4", "2:4 "])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(PruningError, match=f"pattern {re.escape(repr(text))}.* unstructured, N:M .* block:RxC"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["0:4", "4:4", "5:4", "0:0"])
def test_n_lies_between_0_and_m(text: str) -> None:
    with pytest.raises(PruningError, match=f"pattern '{text}' .*0 < N < M"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["block:1x1", "block:0x4", "block:4x0"])
def test_a_block_holds_two_weights(text: str) -> None:
    with pytest.raises(PruningError, match=f"pattern '{text}': .*two"):
        Pattern.parse(text)


# masks


@given(scores(), SPARSITIES)
def test_unstructured_counts_are_exact(scores: Tensor, sparsity: float) -> None:
    mask = Pattern.parse("unstructured").mask(scores, sparsity)
    assert mask.dtype == torch.bool
    assert mask.shape == scores.shape
    assert int((~mask).sum()) == round(sparsity * scores.numel())
    assert_the_highest_are_kept(scores.view(1, -1), mask.view(1, -1))


@given(scores(), SPARSITIES)
def test_counts_are_exact_in_each_row(scores: Tensor, sparsity: float) -> None:
    mask = Pattern.parse("unstructured").within_rows().mask(scores, sparsity)
    assert (~mask).sum(1).tolist() == [round(sparsity * scores.shape[1])] * scores.shape[0]
    assert_the_highest_are_kept(scores, mask)


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)])
@settings(max_examples=40)
@given(data=st.data())
def test_n_of_every_m_neighbours_in_a_row_are_kept(data: st.DataObject, kept: int, group: int) -> None:
    drawn = data.draw(scores(columns=group))
    for pattern in (Pattern.parse(f"{kept}:{group}"), Pattern.parse(f"{kept}:{group}").within_rows()):
        mask = pattern.mask(drawn, 1 - kept / group)
        for row in range(drawn.shape[0]):
            for start in range(0, drawn.shape[1], group):
                assert int(mask[row, start : start + group].sum()) == kept
        assert_the_highest_are_kept(drawn.view(-1, group), mask.view(-1, group))


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (2, 2), (3, 2), (16, 1)])
@pytest.mark.parametrize("per_row", [False, True])
@settings(max_examples=40)
@given(data=st.data(), sparsity=SPARSITIES)
def test_blocks_go_whole(data: st.DataObject, sparsity: float, rows: int, columns: int, per_row: bool) -> None:
    drawn = data.draw(scores(rows, columns, infinities=False))
    pattern = Pattern.parse(f"block:{rows}x{columns}")
    mask = (pattern.within_rows() if per_row else pattern).mask(drawn, sparsity)
    assert mask.shape == drawn.shape
    tiles = mask.unfold(0, rows, rows).unfold(1, columns, columns).flatten(2)
    sums = drawn.unfold(0, rows, rows).unfold(1, columns, columns).flatten(2).sum(-1)
    assert (tiles.all(-1) | ~tiles.any(-1)).all()
    whole = tiles.all(-1)
    if per_row:
        assert (~whole).sum(1).tolist() == [round(sparsity * whole.shape[1])] * whole.shape[0]
    else:
        assert int((~whole).sum()) == round(sparsity * whole.numel())
    competing = (sums, whole) if per_row else (sums.view(1, -1), whole.view(1, -1))
    for row, kept in zip(*competing, strict=True):
        if kept.any() and not kept.all():
            assert row[~kept].max() <= row[kept].min() + 1e-3  # sums differ by their rounding


@given(scores(), SPARSITIES)
def test_how_a_matrix_lies_in_memory_changes_nothing(scores: Tensor, sparsity: float) -> None:
    turned = scores.T.contiguous().T
    for pattern in (Pattern.parse("unstructured"), Pattern.parse("unstructured").within_rows()):
        assert torch.equal(pattern.mask(turned, sparsity), pattern.mask(scores, sparsity))


@pytest.mark.parametrize("text", ["2:4", "block:2x2"])
def test_how_a_matrix_lies_in_memory_changes_no_groups(text: str) -> None:
    scores = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    pattern = Pattern.parse(text)
    assert torch.equal(pattern.mask(scores.T.contiguous().T, 0.5), pattern.mask(scores, 0.5))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_scores_of_other_kinds(kind: torch.dtype) -> None:
    scores = torch.arange(64).view(8, 8).to(kind)
    for text in ("unstructured", "2:4", "block:2x2"):
        mask = Pattern.parse(text).mask(scores, 0.5)
        assert int(mask.sum()) == 32
        assert mask[-1, -1]
        assert not mask[0, 0]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, inf, -inf]), min_size=1, max_size=30), st.data())
def test_the_highest_are_a_stable_sort(values: list[float], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda place: -values[place])
    assert topk_mask(torch.tensor(values), kept).nonzero().flatten().tolist() == sorted(order[:kept])


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(-1, 1, 50_000),
        torch.linspace(1, -1, 50_000),
        torch.rand(50_000, generator=torch.Generator().manual_seed(0)).square(),
        torch.rand(50_000, generator=torch.Generator().manual_seed(1)).round(),
        torch.arange(50_000) % 61 + 0.0,  # a sample of one in 61 sees zeros alone
        torch.where(torch.arange(50_000) % 3 == 0, inf, 1.0),
        torch.zeros(50_000),
    ],
)
@pytest.mark.parametrize("kept", [1, 2, 777, 25_000, 49_000, 49_999])
def test_the_highest_of_many_are_a_stable_sort(values: Tensor, kept: int) -> None:
    order = values.sort(descending=True, stable=True).indices[:kept]
    assert topk_mask(values.view(1, -1), kept).nonzero()[:, 1].equal(order.sort().values)


# contradictions


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, nan, inf])
@pytest.mark.parametrize("text", ["unstructured", "2:4", "block:2x2"])
def test_a_sparsity_lies_between_0_and_1(text: str, sparsity: float) -> None:
    with pytest.raises(PruningError, match=rf"sparsity {sparsity:g} .*\[0, 1\)"):
        Pattern.parse(text).mask(torch.ones(4, 4), sparsity)


def test_a_contradiction_names_both_sides() -> None:
    with pytest.raises(PruningError, match=r"0\.6 .*pattern 2:4.* 0\.5"):
        Pattern.parse("2:4").mask(torch.ones(4, 4), 0.6)
    with pytest.raises(PruningError, match=r"pattern 2:4 .* 6 .* 4x6"):
        Pattern.parse("2:4").mask(torch.ones(4, 6), 0.5)
    for shape in ((6, 4), (4, 6)):
        with pytest.raises(PruningError, match=f"pattern block:4x4 .* {shape[0]}x{shape[1]}"):
            Pattern.parse("block:4x4").mask(torch.ones(shape), 0.5)


@pytest.mark.parametrize("text", ["unstructured", "2:4", "block:2x2"])
def test_nan_scores_are_refused(text: str) -> None:
    scores = torch.ones(4, 4)
    scores[2, 1] = nan
    with pytest.raises(PruningError, match="NaN"):
        Pattern.parse(text).mask(scores, 0.5)


def test_a_block_of_opposite_infinities_has_no_score() -> None:
    scores = torch.ones(4, 4)
    scores[0, 0], scores[1, 1] = inf, -inf
    with pytest.raises(PruningError, match="NaN"):
        Pattern.parse("block:2x2").mask(scores, 0.5)
    assert int(Pattern.parse("unstructured").mask(scores, 0.5).sum()) == 8


@pytest.mark.parametrize("text", ["2:4", "1:8", "unstructured", "block:2x2"])
def test_approach_drops_only_what_the_pattern_drops(text: str) -> None:
    pattern = Pattern.parse(text)
    scores = torch.rand(16, 32, generator=torch.Generator().manual_seed(0))
    final = pattern.fixed_sparsity or 0.75
    goal = pattern.mask(scores, final)
    for share in (0.0, 0.3, final):
        mask = pattern.approach(scores, share)
        assert int((~mask).sum()) == pytest.approx(share * scores.numel(), abs=4)
        assert not (goal & ~mask).any()
    assert torch.equal(pattern.approach(scores, final), goal)


@pytest.mark.parametrize("text", ["unstructured", "block:4x1", "2:4"])
@pytest.mark.parametrize("sign", [1, -1])
def test_counts_are_exact_where_threads_differ_in_flushing_denormals(text: str, sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, chance = torch.rand(2, 512, 512, generator=generator)
    scores = sign * values.where(chance < 0.3, values * 1e-41).masked_fill(chance > 0.8, 0)
    pattern = Pattern.parse(text)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (values > 0).any()  # the second thread starts here, and does not flush
        torch.set_flush_denormal(True)
        for sparsity in (0.1, 0.5, 0.6, 0.69, 0.9) if pattern.fixed_sparsity is None else (0.5,):
            mask = pattern.mask(scores, sparsity)
            size = pattern.rows * pattern.columns
            assert int((~mask).sum()) == size * round(sparsity * mask.numel() / size)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
