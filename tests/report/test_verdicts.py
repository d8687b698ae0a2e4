from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from aerogel.report.estimate import Estimate
from aerogel.report.findings import Findings, Scored
from aerogel.report.prose import remarks
from aerogel.report.verdicts import TOLERANCE, Verdict, answers, is_kept, judge
from aerogel.study.variant import Variant

DENSE = 0.8


def scored(
    sparsity: float, *values: float, metric: str = "accuracy", dense: float = DENSE, **changes: object
) -> Scored:
    """A row with a value a seed, compared with a dense model that reaches `dense` with every seed."""
    row = Scored(
        task="sst2",
        model="bert",
        variant=Variant("magnitude") if sparsity else Variant(),
        sparsity=sparsity,
        seeds=tuple(range(len(values))),
        metrics={metric: Estimate.of(values)},
        change=Estimate.of((value - dense) / dense for value in values) if sparsity else None,
        agreement=None,
        training_seconds=Estimate.of([1.0] * len(values)),
        one_answer=0,
        counted=100,
    )
    return replace(row, **changes)


def verdict(*pruned: Scored, dense: float = DENSE, metric: str = "accuracy", seeds: int = 1) -> Verdict:
    return judge(scored(0, *[dense] * seeds, metric=metric), pruned, [0, 0.1, 0.5, 0.9])


def limits(of: Verdict) -> tuple[float | None, float | None]:
    """The sparsity that is allowed, and the first that is not."""
    return of.allowed.sparsity if of.allowed else None, of.beyond.sparsity if of.beyond else None


def text(of: Verdict, seeds: int = 1) -> str:
    return remarks(of, seeds)


def test_the_last_sparsity_before_the_loss_is_allowed() -> None:
    judged = verdict(scored(0.1, 0.81), scored(0.5, 0.796), scored(0.9, 0.6))
    assert limits(judged) == (0.5, 0.9)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [scored(0.9, 0.7), scored(0.1, 0.81), scored(0.5, 0.796)]
    assert verdict(*rows).allowed == verdict(*reversed(rows)).allowed


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_a_loss_of_exactly_the_tolerance_is_kept(sparsity: float) -> None:
    assert is_kept(scored(sparsity, DENSE * (1 - TOLERANCE)))
    assert not is_kept(scored(sparsity, DENSE * (1 - TOLERANCE) - 1e-6))


def test_better_at_a_higher_sparsity_does_not_undo_a_loss_at_a_lower_one() -> None:
    judged = verdict(scored(0.1, 0.75), scored(0.5, 0.85), scored(0.9, 0.6))
    assert limits(judged) == (None, 0.1)
    assert [row.sparsity for row in judged.again] == [0.5]
    assert "50%" in text(judged)


def test_all_that_were_scored_may_be_allowed() -> None:
    judged = verdict(scored(0.1, 0.8), scored(0.5, 0.8))
    assert limits(judged) == (0.5, None)
    assert judged.missing == (0.9,)
    assert "90%" in text(judged)


def test_a_perplexity_is_lost_by_rising() -> None:
    metric = "masked_lm_perplexity"
    judged = verdict(
        scored(0.1, 8.0, metric=metric, dense=10.0),
        scored(0.5, 10.1, metric=metric, dense=10.0),
        scored(0.9, 10.2, metric=metric, dense=10.0),
        dense=10.0,
        metric=metric,
    )
    assert limits(judged) == (0.5, 0.9)


def test_a_value_that_is_no_number_is_a_loss() -> None:
    assert not is_kept(scored(0.5, math.nan))
    assert limits(verdict(scored(0.1, math.nan))) == (None, 0.1)


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=6))
def test_everything_up_to_the_allowed_sparsity_keeps_to_the_limit(values: list[float]) -> None:
    rows = [scored((index + 1) / 10, value) for index, value in enumerate(values)]
    judged = verdict(*rows)
    allowed = judged.allowed.sparsity if judged.allowed else 0
    assert all(is_kept(row) for row in rows if row.sparsity <= allowed)
    following = [row for row in rows if row.sparsity > allowed]
    assert not following or not is_kept(following[0])


def test_one_seed_has_no_interval() -> None:
    judged = verdict(scored(0.1, 0.8))
    assert not judged.is_sure
    assert "single seed" in text(judged)


def test_seeds_that_agree_make_the_verdict_sure() -> None:
    judged = verdict(scored(0.5, 0.800, 0.801, 0.799), seeds=3)
    assert judged.is_sure
    assert "within 1%" in text(judged, 3)


def test_seeds_that_differ_leave_the_verdict_open() -> None:
    judged = verdict(scored(0.5, 0.9, 0.7, 0.8), scored(0.9, 0.79, 0.75, 0.8), seeds=3)
    assert limits(judged) == (0.5, 0.9)
    assert not judged.is_sure
    assert judged.may_go_beyond
    assert "90%" in text(judged, 3)


def test_missing_seeds_are_told() -> None:
    assert "1 of 3" in text(verdict(scored(0.5, 0.8)), 3)


def test_nothing_is_judged_without_a_dense_model() -> None:
    judged = judge(None, [scored(0.5, 0.7, change=None)], [0.5])
    assert not judged.is_judged
    assert not judged.is_meaningful
    assert "dense" in text(judged)


def test_nothing_is_judged_before_it_is_scored() -> None:
    for judged in (judge(None, [], [0.5]), judge(scored(0, 0.8), [], [0, 0.5])):
        assert not judged.is_judged
        assert text(judged)


def test_a_seed_without_its_dense_twin_is_not_compared() -> None:
    apart = scored(0.1, 0.7, change=None)
    judged = judge(scored(0, 0.8), [apart], [0, 0.1])
    assert not judged.is_judged
    assert "seed" in text(judged)
    judged = judge(scored(0, 0.8), [apart, scored(0.5, 0.8)], [0, 0.1, 0.5])
    assert limits(judged) == (0.5, None)
    assert judged.missing == (0.1,)


def test_a_share_of_nothing_has_no_meaning() -> None:
    judged = judge(scored(0, 0.0, metric="matthews"), [scored(0.5, 0.1, metric="matthews", change=None)], [0, 0.5])
    assert not judged.is_meaningful
    assert "Matthews correlation" in text(judged)


def test_a_dense_model_that_gives_one_answer_has_nothing_to_lose() -> None:
    judged = judge(scored(0, 0.5, one_answer=1), [scored(0.5, 0.5, dense=0.5)], [0, 0.5])
    assert judged.is_judged
    assert not judged.is_meaningful


def test_a_dense_model_that_gives_one_answer_with_some_seeds_is_named() -> None:
    judged = judge(scored(0, 0.5, 0.9, one_answer=1), [scored(0.5, 0.7, 0.7, dense=0.7)], [0, 0.5])
    assert judged.is_meaningful
    assert "1 of 2 seeds" in text(judged, 2)


def test_a_dense_model_no_better_than_the_commonest_class_has_nothing_to_lose() -> None:
    pruned = [scored(0.5, 0.5, dense=0.5)]
    lost = judge(scored(0, 0.5, majority=0.51), pruned, [0, 0.5])
    assert not lost.is_meaningful
    assert "0.510" in text(lost)
    assert judge(scored(0, 0.52, majority=0.51), pruned, [0, 0.5]).is_meaningful


def test_a_pruned_model_that_gives_one_answer_is_named() -> None:
    assert "1 of 1 seeds" in text(verdict(scored(0.5, 0.8, one_answer=1)))


def test_there_is_an_answer_for_each_model_and_task(findings: Findings) -> None:
    judged = answers(findings)
    assert len(judged) == len(findings.spec.models) * len(findings.spec.tasks)
    for answer in judged:
        assert {(row.task, row.model) for row in answer.verdict.pruned} == {(answer.task, answer.model)}
        if not answer.verdict.is_meaningful:
            assert (answer.allowed, answer.beyond) == (None, None)
