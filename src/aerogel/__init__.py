"""aerogel makes transformers sparse, and makes it count.

Names are imported when they are first used, so that `import aerogel` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aerogel.lazy import lazy_names
from aerogel.registration import register

if TYPE_CHECKING:
    from aerogel.analysis import WeightReport, inspect
    from aerogel.benchmark import bench
    from aerogel.errors import AerogelError
    from aerogel.evaluation import evaluate
    from aerogel.models import load, prunable_weights
    from aerogel.pruning import Pattern, PruneConfig, prune
    from aerogel.pruning.calibration import calibration
    from aerogel.report import build_report
    from aerogel.runtime import compress, decompress
    from aerogel.study import StudySpec, load_spec, run_study
    from aerogel.tasks import load_task
    from aerogel.training import GradualPruning, SparsityCallback, finetune, merge

_HOMES = {
    "AerogelError": "errors",
    "GradualPruning": "training",
    "Pattern": "pruning",
    "PruneConfig": "pruning",
    "SparsityCallback": "training",
    "StudySpec": "study",
    "WeightReport": "analysis",
    "bench": "benchmark",
    "build_report": "report",
    "calibration": "pruning.calibration",
    "compress": "runtime",
    "decompress": "runtime",
    "evaluate": "evaluation",
    "finetune": "training",
    "inspect": "analysis",
    "load": "models",
    "load_spec": "study",
    "load_task": "tasks",
    "merge": "training",
    "prunable_weights": "models",
    "prune": "pruning",
    "run_study": "study",
}
__all__ = [
    "AerogelError",
    "GradualPruning",
    "Pattern",
    "PruneConfig",
    "SparsityCallback",
    "StudySpec",
    "WeightReport",
    "bench",
    "build_report",
    "calibration",
    "compress",
    "decompress",
    "evaluate",
    "finetune",
    "inspect",
    "load",
    "load_spec",
    "load_task",
    "merge",
    "prunable_weights",
    "prune",
    "run_study",
]


register()


_find = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("aerogel")
    return _find(name)


def __dir__() -> list[str]:
    return __all__
