from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerogel.benchmark import Measurement
from aerogel.report.answer import answers, cards
from aerogel.report.collect import Cost, Findings, Scored
from aerogel.report.estimate import Estimate
from aerogel.report.variant import Variant
from aerogel.report.verdicts import (
    TOLERANCE,
    Verdict,
    is_faster,
    judge,
    keeps,
    saved_memory,
    savings,
    speed,
    verdict_sentences,
)
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES

DENSE = 0.8


def scored(
    sparsity: float, *values: float, metric: str = "accuracy", dense: float = DENSE, **changes: object
) -> Scored:
    """A row with a value a seed, compared with a dense model that reaches `dense` with every seed."""
    row = Scored(
        task="sst2",
        model="bert",
        way=Variant("magnitude") if sparsity else Variant(),
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


def said(of: Verdict, seeds: int = 1) -> str:
    return str(verdict_sentences(of, seeds))


def test_the_last_sparsity_before_the_loss_is_allowed() -> None:
    found = verdict(scored(0.1, 0.81), scored(0.5, 0.796), scored(0.9, 0.6))
    assert limits(found) == (0.5, 0.9)
    assert "Up to 50%" in said(found)
    assert "0.600 (\N{MINUS SIGN}25%) at 90%" in said(found)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [scored(0.9, 0.7), scored(0.1, 0.81), scored(0.5, 0.796)]
    assert verdict(*rows).allowed == verdict(*reversed(rows)).allowed


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_a_loss_of_exactly_the_tolerance_is_kept(sparsity: float) -> None:
    assert keeps(scored(sparsity, DENSE * (1 - TOLERANCE)))
    assert not keeps(scored(sparsity, DENSE * (1 - TOLERANCE) - 1e-6))


def test_better_at_a_higher_sparsity_does_not_undo_a_loss_at_a_lower_one() -> None:
    found = verdict(scored(0.1, 0.75), scored(0.5, 0.85), scored(0.9, 0.6))
    assert limits(found) == (None, 0.1)
    assert "<b>Not 10%</b>, the lowest scored" in said(found)
    assert "50% is within the limit again." in said(found)


def test_all_that_were_scored_may_be_allowed() -> None:
    found = verdict(scored(0.1, 0.8), scored(0.5, 0.8))
    assert "Up to 50%</b>, the highest scored" in said(found)
    assert "No score for 90%." in said(found)


def test_a_perplexity_is_lost_by_rising() -> None:
    metric = "masked_lm_perplexity"
    found = verdict(
        scored(0.1, 8.0, metric=metric, dense=10.0),
        scored(0.5, 10.1, metric=metric, dense=10.0),
        scored(0.9, 10.2, metric=metric, dense=10.0),
        dense=10.0,
        metric=metric,
    )
    assert limits(found) == (0.5, 0.9)
    lost = verdict(scored(0.1, 20.0, metric=metric, dense=10.0), dense=10.0, metric=metric)
    assert "masked-LM perplexity rises from 10.00 to 20.00 (+100%)" in said(lost)


def test_a_value_that_is_no_number_is_a_loss() -> None:
    assert not keeps(scored(0.5, math.nan))
    assert "NaN" in said(verdict(scored(0.1, math.nan)))


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=6))
def test_everything_up_to_the_allowed_sparsity_keeps_to_the_limit(values: list[float]) -> None:
    rows = [scored((place + 1) / 10, value) for place, value in enumerate(values)]
    found = verdict(*rows)
    allowed = found.allowed.sparsity if found.allowed else 0
    assert all(keeps(row) for row in rows if row.sparsity <= allowed)
    following = [row for row in rows if row.sparsity > allowed]
    assert not following or not keeps(following[0])


def test_one_seed_has_no_interval_to_speak_of() -> None:
    assert "interval" not in said(verdict(scored(0.1, 0.8)))


def test_seeds_that_agree_bear_the_verdict_out() -> None:
    text = said(verdict(scored(0.5, 0.800, 0.801, 0.799), seeds=3), 3)
    assert "The 95% interval of that change over 3 seeds" in text
    assert "is within the limit." in text


def test_seeds_that_differ_leave_the_verdict_open() -> None:
    text = said(verdict(scored(0.5, 0.9, 0.7, 0.8), scored(0.9, 0.79, 0.75, 0.8), seeds=3), 3)
    assert "a larger loss is not ruled out" in text
    assert "so it may hold there too" in text


def test_seeds_that_all_do_the_same_are_said_to() -> None:
    text = said(verdict(scored(0.5, 0.8, 0.8), seeds=2), 2)
    assert "over 2 seeds, +0.00% with every seed, is within the limit." in text


def test_missing_seeds_are_said() -> None:
    assert "Some scores are of 1 of the 3 seeds." in said(verdict(scored(0.5, 0.8)), 3)


def test_nothing_is_judged_without_a_dense_model() -> None:
    found = judge(None, [scored(0.5, 0.7, change=None)], [0.5])
    assert not found.is_judged
    assert said(found) == "Without the dense model fine-tuned alike, no loss can be measured."


def test_nothing_is_judged_before_it_is_scored() -> None:
    assert said(judge(None, [], [0.5])) == "Not yet scored."
    assert said(judge(scored(0, 0.8), [], [0, 0.5])) == "Not yet scored pruned."


def test_a_seed_without_its_dense_twin_is_not_compared() -> None:
    apart = scored(0.1, 0.7, change=None)
    assert said(judge(scored(0, 0.8), [apart], [0, 0.1])) == "No seed has been scored both dense and pruned."
    found = judge(scored(0, 0.8), [apart, scored(0.5, 0.8)], [0, 0.1, 0.5])
    assert limits(found) == (0.5, None)
    assert "No score for 10%." in said(found)


def test_a_share_of_nothing_has_no_meaning() -> None:
    found = judge(scored(0, 0.0, metric="matthews"), [scored(0.5, 0.1, metric="matthews", change=None)], [0, 0.5])
    assert "has no meaning" in said(found)
    assert not found.says_something


def test_a_dense_model_that_gives_one_answer_has_nothing_to_lose() -> None:
    found = judge(scored(0, 0.5, one_answer=1), [scored(0.5, 0.5, dense=0.5)], [0, 0.5])
    assert not found.says_something
    assert "No verdict" in said(found)
    assert "gives one answer to every example" in said(found)


def test_a_dense_model_that_gives_one_answer_with_some_seeds_is_named() -> None:
    found = judge(scored(0, 0.5, 0.9, one_answer=1), [scored(0.5, 0.7, 0.7, dense=0.7)], [0, 0.5])
    assert "Its dense model gives one answer to every example with 1 of 2 seeds." in said(found, 2)


def test_a_dense_model_no_better_than_the_commonest_class_has_nothing_to_lose() -> None:
    pruned = [scored(0.5, 0.5, dense=0.5)]
    assert not judge(scored(0, 0.5, majority=0.51), pruned, [0, 0.5]).says_something
    assert judge(scored(0, 0.52, majority=0.51), pruned, [0, 0.5]).says_something


def test_a_pruned_model_that_gives_one_answer_is_named() -> None:
    assert "At 50% the model gives one answer to every example." in said(verdict(scored(0.5, 0.8, one_answer=1)))


def test_no_words_on_a_model_name_two_kinds_of_perplexity(findings: Findings) -> None:
    from aerogel.report.verdicts import metric_name

    kinds = sorted(map(metric_name, PERPLEXITIES.values()), key=len, reverse=True)
    for card in cards(findings, answers(findings)):
        text = " ".join(str(sentence) for _, sentences in card.said for sentence in sentences)
        named = set()
        for kind in kinds:  # the longest first, since the shortest is part of the others
            if kind in text:
                named.add(kind)
                text = text.replace(kind, "")
        assert len(named) <= 1


def measured(seconds: tuple[float, ...], file_bytes: int = 1000, memory: int = 5000) -> Measurement:
    return Measurement("bert", seconds, (1.0,), memory, 2 * memory, file_bytes, file_bytes, batch_size=8)


def cost(own: Measurement, dense: Measurement) -> Cost:
    return Cost("bert", Variant("magnitude"), 0.9, own, dense)


def test_what_is_as_large_as_before_saves_nothing() -> None:
    same = measured((1.0, 1.1, 0.9))
    disk, weights, memory, time = savings(cost(same, same), [5000, 5100])
    assert "nothing saved" in disk
    assert "nothing saved" in weights
    assert "no clear difference" in memory
    assert "1.00 times as fast" in time
    assert "no clear difference" in time


def test_what_is_smaller_and_faster_is_said_to_be() -> None:
    small = measured((0.5, 0.4), file_bytes=200, memory=2500)
    disk, weights, memory, time = savings(cost(small, measured((1.0, 1.2))), [5000, 5000])
    assert "80% saved" in disk
    assert "80% saved" in weights
    assert "50% saved" in memory
    assert "faster in each of the 2 rounds" in time


def test_what_is_larger_is_said_to_be() -> None:
    large = measured((1.0,), file_bytes=1500, memory=6000)
    disk, weights, memory, _ = savings(cost(large, measured((1.0,))), [5000, 5000])
    assert "50% more" in disk
    assert "50% more" in weights
    assert "20% more" in memory


def test_what_is_slower_is_said_to_be() -> None:
    assert "slower" in speed(cost(measured((2.0, 2.2)), measured((1.0, 1.0))))


def test_one_round_is_no_evidence() -> None:
    single = cost(measured((0.5,)), measured((1.0,)))
    assert speed(single) == "2.00 times as fast in the one round measured"
    assert not is_faster(single)


@pytest.mark.parametrize(("own", "expected"), [(193, "no clear difference"), (150, "45% saved"), (500, "83% more")])
def test_memory_is_saved_only_beyond_the_spread_of_the_dense_runs(own: int, expected: str) -> None:
    assert saved_memory(own, [233, 312]) == expected


def test_one_run_of_the_dense_model_is_no_measure_of_memory() -> None:
    assert saved_memory(100, [200]) == "too few runs to tell"
