"""Pruning: patterns, methods and scores, sparsity per matrix, and pruning a model in place.

Names are imported when they are first used: listing methods, scopes and allocations needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.pruning.calibration import Calibration
    from aerogel.pruning.choices import ALLOCATIONS, METHODS, SCOPES, SCORES, Allocation, Scope
    from aerogel.pruning.config import PruneConfig
    from aerogel.pruning.one_shot import prune
    from aerogel.pruning.pattern import Pattern
    from aerogel.pruning.pruning_method import (
        PruningMethod,
        ScoreState,
        Statistics,
        all_methods,
        method,
        one_shot_method,
        ranking,
    )
    from aerogel.pruning.sensitivity import Sensitivity

_HOMES = {
    "ALLOCATIONS": "choices",
    "METHODS": "choices",
    "SCOPES": "choices",
    "SCORES": "choices",
    "Allocation": "choices",
    "Calibration": "calibration",
    "Pattern": "pattern",
    "PruneConfig": "config",
    "PruningMethod": "pruning_method",
    "Scope": "choices",
    "ScoreState": "pruning_method",
    "Sensitivity": "sensitivity",
    "Statistics": "pruning_method",
    "all_methods": "pruning_method",
    "method": "pruning_method",
    "one_shot_method": "pruning_method",
    "prune": "one_shot",
    "ranking": "pruning_method",
}
__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "SCOPES",
    "SCORES",
    "Allocation",
    "Calibration",
    "Pattern",
    "PruneConfig",
    "PruningMethod",
    "Scope",
    "ScoreState",
    "Sensitivity",
    "Statistics",
    "all_methods",
    "method",
    "one_shot_method",
    "prune",
    "ranking",
]

__getattr__ = lazy_names(__name__, _HOMES)
