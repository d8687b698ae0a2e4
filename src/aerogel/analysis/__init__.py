"""What the weights look like, before and after pruning."""

from aerogel.analysis.weights import WeightReport, WeightStatistics, inspect

__all__ = ["WeightReport", "WeightStatistics", "inspect"]
