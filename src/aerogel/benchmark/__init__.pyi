from .machine import environment as environment, usable_cores as usable_cores
from .measure import BenchConfig as BenchConfig, Measurement as Measurement, bench as bench
from .runtimes import RUNTIMES as RUNTIMES
from .subject import Subject as Subject
