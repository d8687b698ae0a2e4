"""The experiment: specification, trials, store, and running them.

Names are imported when they are first used: reading a study's TOML needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.study.run import StudyProgress, run_study
    from aerogel.study.source import BUILT_IN
    from aerogel.study.spec import StudySpec, load_spec, parse_spec
    from aerogel.study.store import Store

_HOMES = {
    "BUILT_IN": "source",
    "Store": "store",
    "StudyProgress": "run",
    "StudySpec": "spec",
    "load_spec": "spec",
    "parse_spec": "spec",
    "run_study": "run",
}
__all__ = ["BUILT_IN", "Store", "StudyProgress", "StudySpec", "load_spec", "parse_spec", "run_study"]

__getattr__ = lazy_names(__name__, _HOMES)
