"""The free memory follows the limits of the process."""

import subprocess
import sys

import psutil
import pytest

from aerogel.memory import free_memory

LIMITED = """
import resource, sys
import psutil
from aerogel.memory import free_memory
used = getattr(psutil.Process().memory_info(), sys.argv[2])
limit = used + 100_000_000
resource.setrlimit(getattr(resource, sys.argv[1]), (limit, limit))
print(free_memory())
"""


def test_it_is_at_most_what_the_machine_has() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "used"), [("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")])
def test_it_is_what_a_limit_leaves(limit: str, used: str) -> None:
    process = subprocess.run([sys.executable, "-c", LIMITED, limit, used], capture_output=True, text=True, check=True)
    assert 90_000_000 < int(process.stdout) <= 100_000_000
