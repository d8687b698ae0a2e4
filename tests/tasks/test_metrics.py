"""Metrics against their definitions, written out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from aerogel.tasks import METRICS
from aerogel.tasks.metrics import Metric

OF_TEXTS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
OF_ANSWERS = ("squad_f1", "exact_match")  # their references are tuples
OF_NUMBERS = [metric for metric in METRICS.values() if metric.name not in OF_ANSWERS]
BINARY = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
# few different values, so that ties are common and constant columns too
NUMBERS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30)


def columns(rows: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = zip(*rows, strict=True)
    return np.array(predicted, dtype=float), np.array(true, dtype=float)


def values_of(metric: Metric, numbers: np.ndarray) -> np.ndarray:
    """What the metric takes: the numbers, texts with them, or the entities that stand where they are not 0."""
    if metric.of_entities:
        return np.array([frozenset(numbers.nonzero()[0])])
    if metric.name not in OF_TEXTS:
        return numbers
    return np.array([f"number {number} of a long list" for number in numbers.astype(int)], dtype=object)


@given(BINARY)
def test_two_classes(rows: list[tuple[int, int]]) -> None:
    predicted, true = columns(rows)
    hits = sum(p == t == 1 for p, t in rows)
    false_alarms = sum((p, t) == (1, 0) for p, t in rows)
    misses = sum((p, t) == (0, 1) for p, t in rows)
    rejections = sum(p == t == 0 for p, t in rows)
    accuracy = (hits + rejections) / len(rows)
    f1 = 2 * hits / (2 * hits + false_alarms + misses) if hits + false_alarms + misses else 0.0
    sides = (hits + false_alarms) * (hits + misses) * (rejections + false_alarms) * (rejections + misses)
    matthews = (hits * rejections - false_alarms * misses) / math.sqrt(sides) if sides else 0.0
    expected = {"accuracy": accuracy, "f1": f1, "combined": (accuracy + f1) / 2, "matthews": matthews}
    assert {name: METRICS[name].function(predicted, true) for name in expected} == pytest.approx(expected)


def test_f1_is_that_of_the_second_label_and_not_symmetric() -> None:
    true, predicted = np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0])
    assert METRICS["f1"].function(predicted, true) == pytest.approx(0.8)
    assert METRICS["f1"].function(1 - predicted, 1 - true) == pytest.approx(2 / 3)
    assert METRICS["f1"].function(predicted, true) == sklearn.f1_score(true, predicted)


def test_accuracy_of_many_classes() -> None:
    assert METRICS["accuracy"].function(np.array([0.0, 2, 1, 3]), np.array([0.0, 2, 2, 1])) == 0.5


@given(NUMBERS)
def test_correlations(rows: list[tuple[int, int]]) -> None:
    predicted, true = columns(rows)
    found = {name: METRICS[name].function(predicted, true) for name in ("pearson", "spearman", "correlation")}
    if np.ptp(predicted) and np.ptp(true):
        expected = {
            "pearson": float(np.corrcoef(predicted, true)[0, 1]),
            "spearman": float(np.corrcoef(stats.rankdata(predicted), stats.rankdata(true))[0, 1]),
        }
    else:
        expected = {"pearson": 0.0, "spearman": 0.0}
    expected["correlation"] = (expected["pearson"] + expected["spearman"]) / 2
    assert found == pytest.approx(expected, abs=1e-9)


def test_correlations_differ_where_they_should() -> None:
    true = np.arange(1.0, 7.0)
    assert METRICS["spearman"].function(np.exp(true), true) == pytest.approx(1)
    assert METRICS["pearson"].function(np.exp(true), true) < 0.9
    assert METRICS["pearson"].function(-2 * true + 3, true) == pytest.approx(-1)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), min_size=1, max_size=20))
def test_perplexities_are_of_all_tokens_alike(rows: list[tuple[float, int]]) -> None:
    losses, counts = columns(rows)
    mean = math.fsum(losses) / counts.sum()
    assert METRICS["loss"].function(losses, counts) == pytest.approx(mean)
    for name in ("perplexity", "masked_lm_perplexity", "denoising_perplexity"):
        assert METRICS[name].function(losses, counts) == pytest.approx(math.exp(mean))
    assert math.isfinite(METRICS["perplexity"].function(1e4 * counts, counts))


def test_texts() -> None:
    predictions = np.array(["the cat sat on the mat"], dtype=object)
    references = np.array(["the cat sat on the red mat"], dtype=object)
    found = {name: METRICS[name].function(predictions, references) for name in ("bleu", "rouge1", "rouge2", "rougeL")}
    precisions = 6 / 6 * 4 / 5 * 3 / 4 * 2 / 3
    expected = {"bleu": math.exp(1 - 7 / 6) * precisions ** (1 / 4), "rouge1": 12 / 13, "rouge2": 8 / 11}
    assert found == pytest.approx({name: 100 * value for name, value in {**expected, "rougeL": 12 / 13}.items()})
    assert METRICS["chrf"].function(references, references) == pytest.approx(100)
    assert METRICS["chrf"].function(predictions, references) < 100


def test_bleu_is_of_the_corpus_and_rouge_the_mean_of_texts() -> None:
    predictions = np.array(["a b c d e f", "u v w x"], dtype=object)
    references = np.array(["a b c d e f", "g h i j"], dtype=object)
    assert METRICS["rouge1"].function(predictions, references) == pytest.approx(50)
    precisions = 6 / 10 * 5 / 8 * 4 / 6 * 3 / 4
    assert METRICS["bleu"].function(predictions, references) == pytest.approx(100 * precisions ** (1 / 4))


@pytest.mark.parametrize("metric", OF_NUMBERS, ids=lambda metric: metric.name)
def test_one_example_has_a_score(metric: Metric) -> None:
    value = metric.function(*(values_of(metric, np.array([1.0])) for _ in range(2)))
    assert isinstance(value, float)
    assert math.isfinite(value)


@given(st.data())
def test_directions_and_bounds(data: st.DataObject) -> None:
    metric = data.draw(st.sampled_from(OF_NUMBERS))
    references = np.array(data.draw(st.lists(st.integers(0, 1), min_size=2, max_size=20)))
    chosen = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(references), max_size=len(references))))
    if metric.of_losses:
        right, other = (metric.function(losses, np.ones(len(chosen))) for losses in (0.0 * chosen, 1.0 * chosen))
    else:
        references, chosen = values_of(metric, references), values_of(metric, chosen)
        right, other = (metric.function(values, references) for values in (references, chosen))
    assert metric.bounds[0] <= other <= metric.bounds[1] + 1e-9
    assert (right >= other - 1e-9) if metric.higher_is_better else (right <= other)


WORDS = st.lists(st.sampled_from(["the", "A", "cat", "Cat.", "dog", "bird", "-"]), max_size=5).map(" ".join)


def answers(*pairs: tuple[str, tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    predicted, several = zip(*pairs, strict=True)
    references = np.empty(len(pairs), dtype=object)
    references[:] = several
    return np.array(predicted), references


@pytest.mark.parametrize(
    ("answer", "right", "f1", "match"),
    [
        ("The  Cat!", ("cat",), 1, 1),
        ("the black cat", ("a cat", "black dogs"), 2 / 3, 0),
        ("cat cat dog", ("cat dog dog",), 2 / 3, 0),  # a word counts as often as both have it
        ("theatre", ("the theatre", "opera"), 1, 1),
        ("its", ("it's",), 1, 1),
        ("l\u2019an", ("lan",), 0, 0),  # not ASCII punctuation
        ("bird", ("",), 0, 0),
        ("", ("",), 1, 1),
        ("", ("bird",), 0, 0),
        ("the", ("",), 1, 1),
    ],
)
def test_answers_are_compared_after_normalisation(answer: str, right: tuple[str, ...], f1: float, match: int) -> None:
    columns = answers((answer, right))
    assert METRICS["squad_f1"].function(*columns) == pytest.approx(f1)
    assert METRICS["exact_match"].function(*columns) == match
    both = answers((answer, right), ("never", ("right",)))
    assert METRICS["squad_f1"].function(*both) == pytest.approx(f1 / 2)


@given(WORDS, WORDS, WORDS)
def test_f1_of_answers_is_symmetric_and_never_below_exact_match(answer: str, right: str, other: str) -> None:
    def f1(answer: str, *right: str) -> float:
        return METRICS["squad_f1"].function(*answers((answer, right)))

    assert f1(answer, right) == f1(right, answer)
    assert f1(answer, answer) == 1
    assert f1(answer, right, other) == max(f1(answer, right), f1(answer, other))
    assert 0 <= METRICS["exact_match"].function(*answers((answer, (right,)))) <= f1(answer, right) <= 1
