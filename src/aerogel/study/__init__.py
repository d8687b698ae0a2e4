"""The experiment: specification, trials, store, and running them."""

from aerogel.study.run import State, run_study
from aerogel.study.spec import BUILT_IN, StudySpec, load_spec, parse_spec
from aerogel.study.store import Store
from aerogel.study.trial import Result, Trial

__all__ = ["BUILT_IN", "Result", "State", "Store", "StudySpec", "Trial", "load_spec", "parse_spec", "run_study"]
