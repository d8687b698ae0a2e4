"""Latency, throughput, memory and size of models, measured in fresh processes."""

from aerogel.benchmark.machine import environment, usable_cores
from aerogel.benchmark.measure import BenchConfig, Measurement, bench
from aerogel.benchmark.subject import Subject

__all__ = ["BenchConfig", "Measurement", "Subject", "bench", "environment", "usable_cores"]
