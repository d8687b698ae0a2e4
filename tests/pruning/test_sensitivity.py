"""Pruning one part alone: nothing else changes, more sparsity does more damage, and the map shows every cell."""

import json

import pytest
import torch

from aerogel.errors import PruningError
from aerogel.models import load, prunable_weights
from aerogel.pruning import Calibration, Sensitivity, prune
from aerogel.pruning.kl import Reference
from aerogel.pruning.sensitivity import TOKENS, sensitivity
from aerogel.tasks import load_task

TEXT = load_task("python-reference").text("train")


@pytest.mark.parametrize("by", ["magnitude", "wanda", "best"])
def test_every_layer_and_kind_has_a_row_and_the_model_stays(by: str) -> None:
    model, tokenizer = load("tiny-gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivity(model, Calibration("manual", TEXT, tokenizer, 4, 128), "tiny-gpt2", by, (0.0, 0.5, 0.9))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, _ in found.layers] == [f"transformer.h.{place}" for place in range(4)]
    assert [name for name, _ in found.kinds] == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    for _, values in (*found.layers, *found.kinds):
        assert values[0] == pytest.approx(0, abs=1e-4)
        assert values[0] < values[1] < values[2]
    assert Sensitivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    texts = [text.get_text() for text in found.plot().axes[0].texts]
    assert len(texts) == 8 * 3


def test_a_cell_is_the_damage_of_that_part_pruned_alone() -> None:
    model, tokenizer = load("tiny-bert")
    calibration = Calibration("manual", TEXT, tokenizer, 4, 128)
    found = sensitivity(model, calibration, by="magnitude", sparsities=(0.7,))
    reference = Reference(model, calibration.batches(model), TOKENS)
    others = [weight.name for weight in prunable_weights(model) if weight.kind != "intermediate.dense"]
    prune(model, sparsity=0.7, exclude=tuple(others))
    assert dict(found.kinds)["intermediate.dense"] == (pytest.approx(reference.divergence(model), rel=1e-4),)


def test_sparsities_that_are_none_are_refused() -> None:
    model, tokenizer = load("tiny-gpt2")
    with pytest.raises(PruningError, match=r"sparsity 1\.5 is outside \[0, 1\)$"):
        sensitivity(model, Calibration("manual", TEXT, tokenizer, 4, 128), sparsities=(0.5, 1.5))
