from .config import TrainingConfig as TrainingConfig
from .distillation import DistillationConfig as DistillationConfig
from .finetuning import TrainingResult as TrainingResult, finetune as finetune
from .gradual import GradualPruning as GradualPruning
from .masks import SparsityCallback as SparsityCallback
from .merging import merge as merge
from .recovery import (
    Recovered as Recovered,
    Recovery as Recovery,
    cached_finetune as cached_finetune,
    recover as recover,
)
