"""What it costs: time, memory and bytes, measured in fresh processes."""

from aerogel.benchmark.machine import environment
from aerogel.benchmark.measure import BenchConfig, Measurement, bench
from aerogel.benchmark.subject import Subject

__all__ = ["BenchConfig", "Measurement", "Subject", "bench", "environment"]
