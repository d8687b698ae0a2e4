"""The memory that this process may still use."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

if sys.platform != "win32":
    import resource

PROCESS_GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
MMAP_THRESHOLD, LEAST_MAPPED = -3, 2**20  # M_MMAP_THRESHOLD of glibc's malloc.h, and bytes


def free_memory() -> int:
    """Bytes: the least of what the machine has, and of what the limits of cgroups and of the process leave.

    The limits of a process are those of its address space and of its data (`ulimit -v`, `ulimit -d`).
    """
    return max(0, min(psutil.virtual_memory().available, *_left_to_process(), *_left_in_groups()))


def return_freed_tensors() -> None:
    """Lets this process return the memory of tensors to the system as soon as they are freed.

    glibc keeps blocks below 32 MB for later, and small objects among them keep them from being used for larger ones.
    Other C libraries are left as they are.
    """
    if sys.platform == "win32":
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(MMAP_THRESHOLD, LEAST_MAPPED)


def _left_to_process() -> Iterator[int]:
    """The bytes that each limit of this process leaves."""
    if sys.platform != "win32":
        used = psutil.Process().memory_info()
        for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0))):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                yield limit - taken


def _left_in_groups() -> Iterator[int]:
    """The bytes that each cgroup of this process leaves; files that it only caches count as free."""
    for line in PROCESS_GROUPS.read_text().splitlines() if PROCESS_GROUPS.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = MOUNT / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, usage, cached = names if controllers else ("memory.max", "memory.current", "inactive_file")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / limit).exists():
                most = (folder / limit).read_text().strip()
                if most.isdecimal():
                    entries = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                    yield int(most) - int((folder / usage).read_text()) + int(entries.get(cached, 0))
