"""Targets of structured pruning that are refused."""

from typing import Any

import pytest

from aerogel.errors import PruningError
from aerogel.structure import StructureConfig


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, "speedup.*parameters.*size.*sparsity"),
        ({"speedup": 2, "sparsity": 0.5}, "speedup.*sparsity"),
        ({"speedup": 1}, "speedup 1"),
        ({"speedup": float("inf")}, "speedup inf"),
        ({"speedup": float("nan")}, "speedup nan"),
        ({"speedup": "2"}, "speedup.*'2'"),
        ({"parameters": 0}, "parameters 0"),
        ({"parameters": 1e6}, "parameters.*1000000"),
        ({"size": -5}, "size -5"),
        ({"sparsity": 1.0}, "sparsity 1"),
        ({"sparsity": 0.5, "seed": -1}, "seed -1"),
    ],
)
def test_a_bad_target_is_refused(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(PruningError, match=names):
        StructureConfig(**settings)
