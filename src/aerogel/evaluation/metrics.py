"""The metrics of the tasks, by name; each takes predicted and true numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(accuracy_score(true, predicted))


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of label 1."""
    return float(f1_score(true, predicted, zero_division=0))


def combined(predicted: np.ndarray, true: np.ndarray) -> float:
    """The mean of accuracy and F1, the combined score of MRPC and QQP in GLUE."""
    return (accuracy(predicted, true) + f1(predicted, true)) / 2


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(matthews_corrcoef(true, predicted)) if _vary(predicted, true) else 0.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(pearsonr(predicted, true).statistic) if _vary(predicted, true) else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(spearmanr(predicted, true).statistic) if _vary(predicted, true) else 0.0


def _vary(predicted: np.ndarray, true: np.ndarray) -> bool:
    """Where all numbers of one side are alike, a correlation has no value and counts as 0."""
    return bool(np.ptp(predicted) and np.ptp(true))


def correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """The mean of Pearson's and Spearman's correlation, as STS-B has it."""
    return (pearson(predicted, true) + spearman(predicted, true)) / 2


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (accuracy, f1, combined, matthews, pearson, spearman, correlation)
}
