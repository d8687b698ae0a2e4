from .machine import environment as environment, has_amx as has_amx, usable_cores as usable_cores
from .measure import BenchConfig as BenchConfig, Measurement as Measurement, bench as bench
from .runtimes import RUNTIMES as RUNTIMES
from .subject import Subject as Subject
