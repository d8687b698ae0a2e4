from .encode import context_length as context_length
from .kind import Task as Task, TaskKind as TaskKind
from .load import TaskData as TaskData, TaskSource as TaskSource, load_for as load_for, load_task as load_task
from .metrics import METRICS as METRICS, Metric as Metric
from .noise import IGNORED as IGNORED
from .predictions import InputSettings as InputSettings, Score as Score
from .read import Examples as Examples
from .sources import check_task as check_task
from .table import TASKS as TASKS
from .tables import is_table as is_table
