from .analysis import WeightReport as WeightReport, inspect as inspect
from .benchmark import bench as bench
from .errors import AerogelError as AerogelError
from .evaluation import evaluate as evaluate
from .models import load as load, prunable_weights as prunable_weights
from .pruning import Pattern as Pattern, PruneConfig as PruneConfig, prune as prune
from .pruning.calibration import calibration as calibration
from .report import build_report as build_report
from .runtime import compress as compress, decompress as decompress, prune_checkpoint as prune_checkpoint
from .structure import StructureConfig as StructureConfig, prune_structure as prune_structure
from .study import StudySpec as StudySpec, load_spec as load_spec, run_study as run_study
from .tasks import load_task as load_task
from .training import (
    GradualPruning as GradualPruning,
    SparsityCallback as SparsityCallback,
    finetune as finetune,
    merge as merge,
)

__version__: str
