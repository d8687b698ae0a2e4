"""Pruning runs on the model's device alone, shown without a GPU."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from second_device import SETTINGS

SCRIPT = Path(__file__).with_name("second_device.py")


@cache
def results() -> dict[str, Any]:
    """What the script prints, run once."""
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert run.returncode == 0, run.stderr
    lines = map(json.loads, run.stdout.splitlines())
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_tensor_of_the_cpu_meets_one_of_the_models_device(name: str) -> None:
    assert results()[name] == {"name": name, "disagreeing": 0.0}
