from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from aerogel.report.estimate import Estimate
from aerogel.report.findings import Cost, Findings, Scored
from aerogel.report.verdicts import TOLERANCE, Option, certainty, choices, is_kept, options, problem
from aerogel.study.variant import Variant
from builders import times_as_fast

DENSE = 0.8
MODEL = "tiny-gpt2"


def scored(sparsity: float, *values: float, metric: str = "accuracy", **changes: object) -> Scored:
    """A row with a value a seed, compared with a dense model that reaches `DENSE` with every seed."""
    row = Scored(
        task="movie-reviews",
        model=MODEL,
        variant=Variant("magnitude") if sparsity else Variant(),
        sparsity=sparsity,
        seeds=tuple(range(len(values))),
        metrics={metric: Estimate.of(values)},
        kept=Estimate.of(value / DENSE for value in values) if sparsity else None,
        agreement=None,
        training_seconds=Estimate.of([1.0] * len(values)),
        one_answer=0,
        counted=100,
    )
    return replace(row, **changes)


@pytest.fixture
def judged(findings: Findings) -> Judge:
    return Judge(findings)


class Judge:
    """The options of the study's first model with these scores instead of its own."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def __call__(self, *rows: Scored, dense: Scored | None = None) -> list[Option]:
        return options(replace(self.findings, scores=[dense or scored(0, DENSE), *rows]))


def keeping(several: list[Option]) -> list[float]:
    return [option.row.sparsity for option in several if option.keeps]


def test_a_sparsity_keeps_the_score_only_if_every_lower_one_does(judged: Judge) -> None:
    assert keeping(judged(scored(0.5, 0.796), scored(0.9, 0.6))) == [0.5]
    assert keeping(judged(scored(0.5, 0.75), scored(0.9, 0.85))) == []
    assert keeping(judged(scored(0.9, 0.85), scored(0.5, 0.8))) == [0.5, 0.9]


def test_each_task_has_its_own_verdict(judged: Judge) -> None:
    other = "python-reference"
    dense, small = scored(0, DENSE, task=other), scored(0.5, 0.7, task=other)
    assert len(judged(scored(0.5, 0.8), dense)) == 1  # not scored on the other
    kept, lost = judged(scored(0.5, 0.8), dense, small)
    assert (kept.row.task, kept.keeps, kept.kept) == ("movie-reviews", True, 1.0)
    assert (lost.row.task, lost.keeps, lost.kept) == (other, False, pytest.approx(0.7 / DENSE))
    assert choices([kept, lost]) == {("movie-reviews", MODEL): kept, (other, MODEL): lost}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_a_loss_of_exactly_the_tolerance_is_kept(sparsity: float) -> None:
    assert is_kept(scored(sparsity, DENSE * (1 - TOLERANCE)))
    assert not is_kept(scored(sparsity, DENSE * (1 - TOLERANCE) - 1e-6))


def test_a_value_that_is_no_number_is_a_loss(judged: Judge) -> None:
    [option] = judged(scored(0.5, math.nan))
    assert not option.keeps
    assert option.kept == -math.inf


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=6))
def test_everything_up_to_the_highest_keeps_to_the_limit(findings: Findings, values: list[float]) -> None:
    rows = [scored((index + 1) / 10, value) for index, value in enumerate(values)]
    kept = keeping(Judge(findings)(*rows))
    assert kept == [row.sparsity for row in rows][: len(kept)]
    assert all(is_kept(row) for row in rows[: len(kept)])
    assert len(kept) == len(rows) or not is_kept(rows[len(kept)])


@pytest.mark.parametrize(
    ("dense", "word"),
    [
        (scored(0, 0.0, metric="matthews"), "Matthews"),
        (scored(0, math.nan), "accuracy"),
        (scored(0, 0.8, one_answer=1), "same prediction"),
        (scored(0, 0.5, majority=0.53), "0.530"),
        (scored(0, 0.53, majority=0.53), "0.530"),
    ],
)
def test_a_dense_model_that_has_learned_nothing_has_nothing_to_lose(judged: Judge, dense: Scored, word: str) -> None:
    assert word in str(problem(dense))
    assert judged(scored(0.5, 0.8), dense=dense) == []


def test_a_dense_model_above_the_commonest_class_has_learned_its_task() -> None:
    assert problem(scored(0, 0.54, majority=0.53)) is None
    assert problem(scored(0, 0.5, 0.9, one_answer=1)) is None


def test_nothing_is_an_option_without_a_dense_model(findings: Findings) -> None:
    assert options(replace(findings, scores=[scored(0.5, 0.7, kept=None)])) == []


def with_speed(findings: Findings, sparsity: float, speed: float) -> Cost:
    cost = next(cost for cost in findings.costs if cost.dense)
    return replace(times_as_fast(cost, speed), sparsity=sparsity)


def test_the_best_is_the_fastest_that_keeps_its_score(findings: Findings) -> None:
    rows = [scored(0.1, 0.8), scored(0.5, 0.8), scored(0.9, 0.6)]
    several = [
        replace(option, cost=with_speed(findings, option.row.sparsity, speed))
        for option, speed in zip(Judge(findings)(*rows), (3.0, 2.0, 5.0), strict=True)
    ]
    assert list(choices(several).values()) == [several[0]]
    [sparsest] = choices([replace(option, cost=None) for option in several]).values()
    assert sparsest.row.sparsity == 0.5


def test_a_variant_that_is_not_faster_is_no_gain(findings: Findings) -> None:
    options = Judge(findings)(scored(0.1, 0.8), scored(0.5, 0.7), scored(0.9, 0.6))

    def best(*speeds: float) -> tuple[float, bool]:
        timed = [
            replace(option, cost=with_speed(findings, option.row.sparsity, speed))
            for option, speed in zip(options, speeds, strict=True)
        ]
        [choice] = choices(timed).values()
        return choice.row.sparsity, choice.gains

    assert best(1.3, 2, 3) == (0.1, True)
    assert best(1.1, 2, 3) == (0.5, False)  # of the faster ones, this keeps the most
    assert best(1.0, 1.0, 1.0) == (0.1, False)


def test_where_none_keeps_its_score_the_best_keeps_the_most(judged: Judge) -> None:
    untimed = [
        replace(option, cost=None) for option in judged(scored(0.1, 0.6), scored(0.5, 0.7), scored(0.9, math.nan))
    ]
    [best] = choices(untimed).values()
    assert (best.row.sparsity, best.keeps) == (0.5, False)
    assert choices([]) == {}


def test_options_of_the_study_are_compared_and_costed(findings: Findings) -> None:
    for option in options(findings):
        assert option.row in findings.scores
        assert option.row.variant in (option.variant, option.variant.unpruned)
        assert option.cost == findings.cost(option.row)
        assert option.speed is not None


def test_certainty_depends_on_the_seeds() -> None:
    assert certainty(scored(0.5, 0.8), 1) == ""
    assert "single seed" in certainty(scored(0.5, 0.8), 3)
    assert "1 of 3" in certainty(scored(0.5, 0.8), 3)
    within, beyond = (certainty(scored(0.5, *values), 3) for values in ((0.800, 0.801, 0.799), (0.9, 0.7, 0.8)))
    assert "is within 1%" in within
    assert "does not exclude" in beyond
    assert "1 of 1 seeds" in certainty(scored(0.5, 0.8, one_answer=1), 1)
