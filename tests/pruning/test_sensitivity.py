"""Sensitivity: one part is pruned alone, and more sparsity raises the KL divergence."""

import json
from dataclasses import asdict

import pytest
import torch
from pydantic import TypeAdapter

from aerogel.errors import PruningError
from aerogel.models import load, prunable_weights
from aerogel.pruning import Calibration, Sensitivity, prune
from aerogel.pruning.kl import Reference
from aerogel.pruning.sensitivity import TOKENS, sensitivity
from aerogel.tasks import load_task

TEXT = load_task("python-reference")


@pytest.mark.parametrize("by", ["magnitude", "wanda", "best"])
def test_every_layer_and_kind_has_a_row_and_the_model_stays(by: str) -> None:
    model, tokenizer = load("tiny-gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = sensitivity(model, Calibration(TEXT, tokenizer, 4, 128), "tiny-gpt2", by, (0.0, 0.5, 0.9))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, _ in report.layers] == [f"transformer.h.{index}" for index in range(4)]
    assert [name for name, _ in report.kinds] == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    for _, values in (*report.layers, *report.kinds):
        assert values[0] == pytest.approx(0, abs=1e-4)
        assert values[0] < values[1] < values[2]
    assert TypeAdapter(Sensitivity).validate_json(json.dumps(asdict(report))) == report


def test_a_cell_is_the_kl_with_that_part_pruned_alone() -> None:
    model, tokenizer = load("tiny-bert")
    calibration = Calibration(TEXT, tokenizer, 4, 128)
    report = sensitivity(model, calibration, by="magnitude", sparsities=(0.7,))
    reference = Reference(model, calibration.batches(model), TOKENS)
    others = [weight.name for weight in prunable_weights(model) if weight.kind != "intermediate.dense"]
    prune(model, sparsity=0.7, exclude=tuple(others))
    assert dict(report.kinds)["intermediate.dense"] == (pytest.approx(reference.kl(model), rel=1e-4),)


def test_a_sparsity_out_of_range_and_a_score_of_training_are_refused() -> None:
    model, tokenizer = load("tiny-gpt2")
    calibration = Calibration(TEXT, tokenizer, 4, 128)
    with pytest.raises(PruningError, match=r"1\.5 .*\[0, 1\)"):
        sensitivity(model, calibration, sparsities=(0.5, 1.5))
    with pytest.raises(PruningError, match="aerogel finetune --score obs"):
        sensitivity(model, calibration, by="obs")
