"""Weight distributions."""

from aerogel.analysis.weights import WeightReport, WeightStatistics, inspect

__all__ = ["WeightReport", "WeightStatistics", "inspect"]
