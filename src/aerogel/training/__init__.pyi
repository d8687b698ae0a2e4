from .config import (
    PRECISIONS as PRECISIONS,
    RECOVERY_EPOCHS as RECOVERY_EPOCHS,
    TUNING_EPOCHS as TUNING_EPOCHS,
    Precision as Precision,
    TrainingConfig as TrainingConfig,
)
from .distillation import DistillationConfig as DistillationConfig
from .finetuning import TrainingResult as TrainingResult, finetune as finetune
from .gradual import GradualPruning as GradualPruning
from .masks import SparsityCallback as SparsityCallback
from .merging import merge as merge
from .recovery import (
    SELF as SELF,
    Recovered as Recovered,
    Recovery as Recovery,
    cached_finetune as cached_finetune,
    recover as recover,
)
from .schedule import SCHEDULES as SCHEDULES, ScheduleName as ScheduleName
