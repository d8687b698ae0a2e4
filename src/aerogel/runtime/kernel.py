"""The native kernels, if they were built, on the threads that PyTorch uses."""

import ctypes
import importlib
import logging
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

log = logging.getLogger(__name__)


@cache
def native() -> ModuleType | None:
    """The compiled module, or `None`, with one warning in the log, where it was not built.

    The environment variable `AEROGEL_NATIVE=0` disables it, and `AEROGEL_ISA` names the instruction set to use.
    """
    if os.environ.get("AEROGEL_NATIVE") == "0":
        log.warning("aerogel runs without its kernels (AEROGEL_NATIVE=0): same results, through torch, slower")
        return None
    try:
        module = importlib.import_module("aerogel.runtime.native")
    except ImportError as error:
        log.warning(f"aerogel was installed without its kernels ({error}): same results, through torch, slower")
        return None
    name = os.environ.get("AEROGEL_ISA")
    if name and not module.use_instruction_set(name):
        log.warning(f"AEROGEL_ISA={name} can't run here: expected one of {', '.join(module.instruction_sets())}")
    module.set_openmp(_gomp_parallel())
    return module


def required() -> ModuleType:
    """The compiled module, where a caller needs it."""
    module = native()
    assert module is not None
    return module


def fields(record: Any, **values: Any) -> Any:
    """A record of the compiled module with these fields set."""
    for name, value in values.items():
        setattr(record, name, value)
    return record


def _gomp_parallel() -> int:
    """The address of the entry point of the OpenMP runtime that torch uses, 0 where there is none.

    GNU's, LLVM's and Intel's runtimes all have `GOMP_parallel`. It is looked up in torch's own library: other packages
    load runtimes too, and the threads of two runtimes would spin against each other.
    """
    if not sys.platform.startswith("linux"):
        return 0
    try:
        path = str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0
