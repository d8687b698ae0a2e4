"""Metrics of tasks: their direction and the values that they can have."""

from __future__ import annotations

import math

from aerogel.evaluation import PERPLEXITIES


def higher_is_better(metric: str) -> bool:
    return metric not in PERPLEXITIES.values()


def bounds(metric: str) -> tuple[float, float]:
    if metric in PERPLEXITIES.values():
        return 1.0, math.inf
    return -1.0 if metric in ("matthews", "pearson", "spearman", "correlation") else 0.0, 1.0
