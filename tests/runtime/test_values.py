"""The table of number types: the same on all sides, and readable without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aerogel.runtime.values import FLOATS, VALUE_CHOICES, VALUE_TYPES, Values, value_type_of

CSRC = Path(__file__).parents[2] / "csrc"


def test_numbers_are_those_of_the_kernels() -> None:
    enum = re.search(r"enum class ValueType : int \{(.*?)\}", (CSRC / "values.h").read_text())
    assert enum
    found = {name: int(number) for name, number in re.findall(r"(\w+) = (\d+)", enum[1])}
    assert found == {value_type.name: value_type.number for value_type in VALUE_TYPES.values()}


def test_choices_are_types_that_kernels_read() -> None:
    assert VALUE_CHOICES
    assert all(VALUE_TYPES[name].in_kernels for name in VALUE_CHOICES)


def test_values_in_memory_are_of_a_type_that_kernels_read() -> None:
    for name in FLOATS:
        values = Values.of(torch.tensor([1.5, -2]).to(VALUE_TYPES[name].dtype))
        assert values.type.in_kernels
        assert values.data.dtype == values.type.dtype
        assert values.data.tolist() == [1.5, -2]
    with pytest.raises(KeyError, match="float64"):
        value_type_of(torch.float64)


def test_the_choices_are_there_without_torch() -> None:
    script = "import sys\nfrom aerogel.runtime.values import VALUE_CHOICES\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
