"""The record of what was kept: read, checked, and refused if it is damaged."""

import copy
import pickle
from typing import Any

import pytest

from aerogel.errors import ModelError
from aerogel.models import load
from aerogel.structure import KeptHeads, KeptNeurons, Plan, shrink

NAME = "encoder.layer.0.attention.self"


def test_its_content_is_read_back() -> None:
    plan = Plan({NAME: KeptHeads((0, 3), 4), "encoder.layer.0.intermediate": KeptNeurons(0, 64)})
    assert plan.content() == {
        NAME: {"heads": [0, 3], "of": 4},
        "encoder.layer.0.intermediate": {"neurons": 0, "of": 64},
    }
    assert Plan.of(plan.content()) == plan


def test_other_tools_find_the_method_of_the_mark() -> None:
    model, _ = load("tiny-bert")
    shrink(model, {"bert.encoder.layer.0.attention.self": [1]})
    for marked in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert marked.config.quantization_config.quant_method == "aerogel"


@pytest.mark.parametrize("content", [None, {}, [], "all", 3])
def test_other_content_is_refused(content: Any) -> None:
    with pytest.raises(ModelError, match=r"structure .*config\.json"):
        Plan.of(content)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        4,
        {},
        {"heads": [0]},
        {"of": 4},
        {"heads": [0], "neurons": 1, "of": 4},
        {"heads": [0], "of": 4, "more": 1},
        {"heads": 2, "of": 4},
        {"heads": [4], "of": 4},
        {"heads": [-1], "of": 4},
        {"heads": [1, 0], "of": 4},
        {"heads": [1, 1], "of": 4},
        {"heads": [True], "of": 4},
        {"heads": ["0"], "of": 4},
        {"heads": [0], "of": "4"},
        {"heads": [0], "of": 4.0},
        {"neurons": 5, "of": 4},
        {"neurons": -1, "of": 4},
        {"neurons": False, "of": 4},
        {"neurons": None, "of": 4},
    ],
)
def test_an_entry_that_says_something_else_is_refused(entry: Any) -> None:
    with pytest.raises(ModelError, match=rf"{NAME}.*heads.*neurons"):
        Plan.of({NAME: entry})
