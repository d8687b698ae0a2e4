"""What is said beside a score: divergence, agreement, flips and intervals, against slow or known results."""

from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aerogel.evaluation import PERPLEXITIES, Flips, Interval, evaluate, score
from aerogel.evaluation.scoring import language_batches, token_logits
from aerogel.models import Head, architecture, load
from aerogel.pruning import prune
from aerogel.tasks import Task, TaskData
from builders import prose, sentences

STORY = TaskData(Task("story"), {"train": "", "validation": prose(120)}, "made")


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_the_dense_model_compared_with_itself_is_unmoved(name: str) -> None:
    model, tokenizer = load(name)
    found = evaluate(model, tokenizer, [STORY], reference=load(name)[0])["story"]
    assert found["kl"] == found["kl_low"] == found["kl_high"] == pytest.approx(0, abs=1e-6)
    assert found["agreement"] == found["agreement_low"] == 1
    measure = PERPLEXITIES[architecture(model.config)]
    assert found[measure] == found[f"dense_{measure}"] == score(model, tokenizer, STORY).metrics[measure]
    assert found[f"{measure}_low"] < found[measure] < found[f"{measure}_high"]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_divergence_and_agreement_are_those_of_all_tokens(name: str) -> None:
    model, tokenizer = load(name)
    dense, _ = load(name)
    prune(model, sparsity=0.6)
    found = evaluate(model, tokenizer, [STORY], reference=dense)["story"]
    total, equal, count = 0.0, 0, 0
    for batch in language_batches(model, tokenizer, STORY, None):
        after, _, _ = token_logits(model, batch)
        before, _, _ = token_logits(dense, batch)
        for one, other in zip(before.double(), after.double(), strict=True):
            total += float((one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum())
            equal += int(one.argmax() == other.argmax())
            count += 1
    assert count == found["tokens"]
    assert found["kl"] == pytest.approx(total / count, rel=1e-3)
    assert found["agreement"] == pytest.approx(equal / count)
    assert found["kl_low"] < found["kl"] < found["kl_high"]


def test_classes_tell_what_flipped() -> None:
    rows = sentences(60)
    task = Task("moods", ("sentence",), ("sad", "glad"), ("accuracy", "f1"))
    texts = [(text,) for text, _ in rows]
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", Head("classification", ("sad", "glad")))
    dense, _ = load("tiny-bert", Head("classification", ("sad", "glad")))
    dense.load_state_dict(model.state_dict())
    prune(model, sparsity=0.8)
    from aerogel.tasks import Examples

    data = TaskData(task, {"train": Examples([], []), "validation": Examples(texts, [mood for _, mood in rows])}, "")
    found = evaluate(model, tokenizer, [data], reference=dense)["moods"]
    assert found["flipped"] == found["lost"] + found["gained"]  # of two classes
    assert found["agreement"] == pytest.approx(1 - found["flipped"] / 60)
    assert found["accuracy"] - found["dense_accuracy"] == pytest.approx((found["gained"] - found["lost"]) / 60)
    own = score(dense, tokenizer, data).metrics
    assert all(found[f"dense_{name}"] == own[name] for name in task.metrics)
    assert found["kl"] > 0
    assert 0 <= found["mcnemar_p"] <= 1


# flips


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40))
def test_flips_are_counted_one_by_one(rows: list[tuple[int, int, int]]) -> None:
    predicted, dense, true = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
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
        found = Interval.of(draws)
        assert found.mean == pytest.approx(draws.mean())
        covered += found.low <= 3.0 <= found.high
    assert 88 <= covered <= 99


def test_texts_count_by_their_answers() -> None:
    found = Interval.of([2.0, 30.0], [1, 10])
    assert found.mean == pytest.approx(32 / 11)
    assert Interval.of([2.0, 30.0], [1, 10]) == found
    grown = Interval.of([2.0, 30.0], [1, 10], np.exp)
    assert grown.mean == pytest.approx(np.exp(32 / 11))
