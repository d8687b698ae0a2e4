from .calibration import BatchCalibration as BatchCalibration, Calibration as Calibration
from .choices import (
    ALLOCATIONS as ALLOCATIONS,
    METHODS as METHODS,
    ROUNDED_VALUES as ROUNDED_VALUES,
    SCOPES as SCOPES,
    SCORES as SCORES,
    UNSTRUCTURED as UNSTRUCTURED,
    Allocation as Allocation,
    RoundedValues as RoundedValues,
    Scope as Scope,
)
from .config import PruneConfig as PruneConfig
from .one_shot import prune as prune
from .pattern import Pattern as Pattern
from .pruning_method import (
    PruningMethod as PruningMethod,
    ScoreState as ScoreState,
    Statistics as Statistics,
    all_methods as all_methods,
    method as method,
    one_shot_method as one_shot_method,
    ranking as ranking,
)
from .sensitivity import Sensitivity as Sensitivity
