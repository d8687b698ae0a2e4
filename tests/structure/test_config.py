"""Targets of structured pruning, as settings and in words."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import PruningError
from aerogel.structure import StructureConfig

TARGETS = st.one_of(
    st.fixed_dictionaries({"speedup": st.floats(1, 1e6, exclude_min=True)}),
    st.fixed_dictionaries({"sparsity": st.floats(0, 1, exclude_max=True)}),
    st.fixed_dictionaries({"parameters": st.integers(1, 2**50)}),
    st.fixed_dictionaries({"size": st.integers(1, 2**50)}),
    st.fixed_dictionaries({"parameters": st.integers(1, 2**20).map(lambda count: count * 10**6)}),
    st.fixed_dictionaries({"size": st.integers(1, 2**20).map(lambda count: count * 1000)}),
)


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


@given(TARGETS, st.booleans(), st.integers(0, 2**32 - 1))
def test_a_target_comes_back_from_its_words(target: dict, uniform: bool, seed: int) -> None:
    config = StructureConfig(**target, uniform=uniform, seed=seed)
    assert StructureConfig.parse(str(config), seed) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("speed=2", "speedup"),
        ("", "speedup"),
        ("uniform", "'uniform'"),
        ("speedup=fast", "'fast'"),
        ("speedup", "speedup"),
        ("speedup=1", "1"),
        ("speedup=nan", "nan"),
        ("sparsity=50%", "0.5"),
        ("size=4TB", "4TB"),
        ("size=inf", "inf"),
        ("parameters=0", "0"),
        ("speedup=2,unifrm", "unifrm"),
        ("speedup=2,sparsity=0.5", "sparsity=0.5"),
    ],
)
def test_other_words_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(PruningError) as error:
        StructureConfig.parse(text)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
