"""What is cut: patterns, methods, and pruning a model in place."""

from aerogel.pruning.calibration import Calibration
from aerogel.pruning.method import PruningMethod, Statistics, all_methods, method, ranking
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.prune import PruneConfig, Scope, prune
from aerogel.pruning.sensitivity import Sensitivity

__all__ = [
    "Calibration",
    "Pattern",
    "PruneConfig",
    "PruningMethod",
    "Scope",
    "Sensitivity",
    "Statistics",
    "all_methods",
    "method",
    "prune",
    "ranking",
]
