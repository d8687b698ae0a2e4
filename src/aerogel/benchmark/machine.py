"""The machine and library versions that a measurement was taken with, and the memory of a process."""

import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

if sys.platform != "win32":
    import resource

CPUINFO = Path("/proc/cpuinfo")  # on Linux
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
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def has_amx(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has AMX, which multiplies dense matrices of bfloat16 and int8 much faster than
    AVX-512. False if the system does not say.
    """
    return "amx_tile" in _cpuinfo("flags", cpuinfo).split()


def _cpuinfo(field: str, cpuinfo: Path = CPUINFO) -> str:
    """A field of the first processor, empty if it is missing."""
    found = re.search(rf"^{field}\s*: (.*)", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return found.group(1).strip() if found else ""


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, other systems kilobytes
