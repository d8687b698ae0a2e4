from .run import StudyProgress as StudyProgress, run_study as run_study
from .source import BUILT_IN as BUILT_IN
from .spec import StudySpec as StudySpec, load_spec as load_spec, parse_spec as parse_spec
from .store import Store as Store
