"""The metrics of all tasks, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from aerogel.errors import DataError, shown, unknown_name


@dataclass(frozen=True)
class Metric:
    """A metric of predictions.

    Attributes:
        function: of predictions and references, two arrays (predictions); classes are numbers.
        higher_is_better: its direction.
        bounds: its lowest and highest value.
        of_losses: if true, `function` takes sums of negative log-likelihoods and the numbers of predictions that they
            are of, two arrays (texts).
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    bounds: tuple[float, float]
    of_losses: bool = False


def as_metric(metric: object) -> Metric:
    """A metric by its name, as it is, or from a function, of which a higher value is taken as better.

    Raises `DataError` for anything else, and for a function without a name.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise DataError(unknown_name("metric", metric, METRICS))
        return METRICS[metric]
    if isinstance(metric, Metric):
        return metric
    name = getattr(metric, "__name__", "")
    if not callable(metric) or not name.isidentifier():
        raise DataError(
            f"expected a metric: a function with a name, a Metric, or a name in METRICS; found {shown(metric)}"
        )
    return Metric(name, metric, True, (-math.inf, math.inf))


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(accuracy_score(references, predictions))


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of label 1."""
    return float(f1_score(references, predictions, zero_division=0))


def combined(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of accuracy and F1, the combined score of MRPC and QQP in GLUE."""
    return (accuracy(predictions, references) + f1(predictions, references)) / 2


def matthews(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(matthews_corrcoef(references, predictions)) if _vary(predictions, references) else 0.0


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(pearsonr(predictions, references).statistic) if _vary(predictions, references) else 0.0


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(spearmanr(predictions, references).statistic) if _vary(predictions, references) else 0.0


def correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of Pearson's and Spearman's correlation, the score of STS-B in GLUE."""
    return (pearson(predictions, references) + spearman(predictions, references)) / 2


def loss(losses: np.ndarray, counts: np.ndarray) -> float:
    """The mean negative log-likelihood of a prediction, in nats."""
    return sum(losses.tolist()) / float(counts.sum())


def perplexity(losses: np.ndarray, counts: np.ndarray) -> float:
    """exp of the mean negative log-likelihood; finite, so that JSON can hold it."""
    return math.exp(min(loss(losses, counts), 700.0))


def _vary(predictions: np.ndarray, references: np.ndarray) -> bool:
    """Without variation on one side a correlation is undefined; it counts as 0."""
    return bool(np.ptp(predictions) and np.ptp(references))


SHARE, CORRELATION, PERPLEXITY = (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf)
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, True, SHARE),
        Metric("f1", f1, True, SHARE),
        Metric("combined", combined, True, SHARE),
        Metric("matthews", matthews, True, CORRELATION),
        Metric("pearson", pearson, True, CORRELATION),
        Metric("spearman", spearman, True, CORRELATION),
        Metric("correlation", correlation, True, CORRELATION),
        Metric("perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("masked_lm_perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("denoising_perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("loss", loss, False, (0.0, math.inf), of_losses=True),
    )
}
