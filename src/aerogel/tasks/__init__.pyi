from .encode import context_length as context_length
from .kind import Task as Task, TaskKind as TaskKind
from .load import TaskData as TaskData, check_task as check_task, load_task as load_task
from .metrics import METRICS as METRICS
from .noise import IGNORED as IGNORED
from .predictions import InputSettings as InputSettings, Score as Score
from .read import Examples as Examples
from .table import TASKS as TASKS
