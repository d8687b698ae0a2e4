"""What is said beside a score: divergence, agreement, flips and intervals, against slow or known results."""

from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from aerogel.evaluation import Flips, Interval, evaluate, score
from aerogel.models import load
from aerogel.pruning import prune
from aerogel.tasks import InputSettings
from builders import prose, sentence_data, sentences, text_data

STORY = text_data(prose(120))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_the_dense_model_compared_with_itself_is_unmoved(name: str) -> None:
    model, tokenizer = load(name)
    found = evaluate(model, tokenizer, [STORY], reference=load(name)[0])["story"]
    assert found["kl"] == found["kl_low"] == found["kl_high"] == pytest.approx(0, abs=1e-6)
    assert found["agreement"] == found["agreement_low"] == 1
    measure = next(iter(found.score.metrics))
    assert found[measure] == found[f"dense_{measure}"] == score(model, tokenizer, STORY).metrics[measure]
    assert found[f"{measure}_low"] < found[measure] < found[f"{measure}_high"]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_divergence_and_agreement_are_those_of_all_tokens(name: str) -> None:
    model, tokenizer = load(name)
    dense, _ = load(name)
    prune(model, sparsity=0.6)
    found = evaluate(model, tokenizer, [STORY], reference=dense)["story"]
    total, equal, count = 0.0, 0, 0
    kind = STORY.task.kind
    inputs = kind.inputs(STORY.split("validation"), tokenizer, model.config, InputSettings())
    for rows in inputs.batches():
        batch = inputs.collate([inputs.rows[row] for row in rows])
        with torch.no_grad():
            before, after = (kind.answers(of(**batch), batch, of).logits.double() for of in (dense, model))
        for one, other in zip(before, after, strict=True):
            total += float((one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum())
            equal += int(one.argmax() == other.argmax())
            count += 1
    assert count == found["tokens"]
    assert found["kl"] == pytest.approx(total / count, rel=1e-3)
    assert found["agreement"] == pytest.approx(equal / count)
    assert found["kl_low"] < found["kl"] < found["kl_high"]


def test_classes_tell_what_flipped() -> None:
    data = sentence_data(sentences(60), metrics=("accuracy", "f1"))
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    dense, _ = load("tiny-bert", data.task.head)
    dense.load_state_dict(model.state_dict())
    prune(model, sparsity=0.8)
    found = evaluate(model, tokenizer, [data], reference=dense)["moods"]
    assert found["flipped"] == found["lost"] + found["gained"]  # of two classes
    assert found["agreement"] == pytest.approx(1 - found["flipped"] / 60)
    assert found["accuracy"] - found["dense_accuracy"] == pytest.approx((found["gained"] - found["lost"]) / 60)
    own = score(dense, tokenizer, data).metrics
    assert all(found[f"dense_{name}"] == own[name] for name in own)
    assert found["kl"] > 0
    assert 0 <= found["mcnemar_p"] <= 1


# flips


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40))
def test_flips_are_counted_one_by_one(rows: list[tuple[int, int, int]]) -> None:
    predicted, dense, true = (np.array(column) for column in zip(*rows, strict=True))
    found = Flips.of(predicted, dense, true)
    assert found.flipped == sum(now != was for now, was, _ in rows)
    assert found.lost == sum(was == right != now for now, was, right in rows)
    assert found.gained == sum(now == right != was for now, was, right in rows)


@given(st.integers(0, 20), st.integers(0, 20))
def test_mcnemar_is_the_two_sided_binomial(lost: int, gained: int) -> None:
    count = lost + gained
    ways = [comb(count, place) for place in range(count + 1)]
    expected = sum(way for way in ways if way <= ways[lost]) / 2**count
    assert Flips(count, lost, gained).p == pytest.approx(expected)


# intervals


def test_an_interval_covers_what_it_should() -> None:
    covered = 0
    for seed in range(100):
        draws = np.random.default_rng(seed).normal(3.0, 1.0, 60)
        found = Interval.of(draws, np.ones(60))
        assert found.mean == pytest.approx(draws.mean())
        covered += found.low <= 3.0 <= found.high
    assert 88 <= covered <= 99


def test_texts_count_by_their_answers() -> None:
    sums, counts = np.array([2.0, 30.0]), np.array([1, 10])
    found = Interval.of(sums, counts)
    assert found.mean == pytest.approx(32 / 11)
    assert Interval.of(sums, counts) == found
    assert (found.low, found.high) == (2.0, 3.0)  # a third of the resamples hold only one of the texts
    grown = Interval.of(sums, counts, lambda sums, counts: float(np.exp(sums.sum() / counts.sum())))
    assert grown.mean == pytest.approx(np.exp(32 / 11))
    assert (grown.low, grown.high) == pytest.approx((np.exp(2), np.exp(3)))


def test_one_text_has_no_width() -> None:
    assert Interval.of(np.array([6.0]), np.array([3])) == Interval(2.0, 2.0, 2.0)
