"""The machine and library versions that a measurement was taken with, and the memory of a process."""

import os
import platform
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

LIBRARIES = ("aerogel", "torch", "transformers", "datasets", "accelerate", "numpy")


def environment() -> dict[str, Any]:
    """Processor, cores, memory, threads and versions, as JSON values."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's model name, or its architecture if the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return name.group(1).strip() if name else platform.processor() or platform.machine()


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, other systems kilobytes
