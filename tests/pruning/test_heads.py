"""Pruning by predictions works for every head, and without one by hidden states."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aerogel.models import prunable_weights
from aerogel.models.logits import prediction_logits
from aerogel.pruning import BatchCalibration, prune
from aerogel.pruning.batches import subsample
from aerogel.pruning.blocks import walk
from aerogel.pruning.fisher import output_gradients, sampled_nll
from aerogel.pruning.kl import Reference
from aerogel.pruning.sensitivity import sensitivity
from heads import HEADS, MODELS, inputs

SPREAD = ["several labels", "tokens", "span, encoder-decoder", "choices", "body", "body, encoder-decoder"]
SPREAD += ["images", "speech", "speech to text"]


def kl(dense: nn.Module, data: list[dict[str, Tensor]], **settings: Any) -> float:
    """The KL divergence that pruning causes on the calibration data."""
    model: Any = copy.deepcopy(dense)
    reference = Reference(model, BatchCalibration(data).batches(model), 10_000)
    masks = prune(model, sparsity=0.5, calibration=data, **settings)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert zeros == round(sum(mask.numel() for mask in masks.values()) / 2)
    assert all(not weight.matrix[~masks[weight.name]].any() for weight in prunable_weights(model))
    return reference.kl(model)


@pytest.mark.parametrize("name", HEADS)
def test_best_changes_the_predictions_of_any_model_little(name: str) -> None:
    model = MODELS[name]()
    data = [inputs(model, 4, seed) for seed in range(2)]
    assert 0 < kl(model, data, method="best") < kl(model, data, method="random") / 2


@pytest.mark.parametrize("name", SPREAD)
def test_sensitivity_is_measured_on_the_predictions(name: str) -> None:
    model = MODELS[name]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = sensitivity(model, [inputs(model)], by="magnitude", sparsities=(0.0, 0.5, 0.95))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {layer for layer, _ in report.layers} == {weight.layer for weight in prunable_weights(model)}
    for _, values in report.layers:
        assert values[0] == pytest.approx(0, abs=1e-4)
        assert values[2] > 1e-4
    assert report.text == "batches"


@pytest.mark.parametrize("name", SPREAD)
def test_gradients_are_those_of_all_predictions_on_unpadded_examples(name: str) -> None:
    model = MODELS[name]()
    batches = BatchCalibration([inputs(model)]).batches(model)
    weights = prunable_weights(model)
    gradients = output_gradients(model, weights, batches, 10_000, seed=0)
    last = weights[-1]
    outputs: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    handle = last.module.register_forward_hook(keep)
    for row in subsample(batches, 10_000):
        sampled_nll(prediction_logits(model, row), generator).backward()
    handle.remove()
    rows = torch.cat([output.grad.flatten(0, -2) for output in outputs if output.grad is not None])
    torch.testing.assert_close(gradients[last.name], rows.square().mean(0).sqrt(), rtol=1e-3, atol=1e-7)
    assert any(values.max() > 0 for values in gradients.values())


@pytest.mark.parametrize("name", ["span", "body", "images", "speech"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(method="best", swap=True, reconstruct=2),
        dict(method="magnitude", allocation="search"),
        dict(method="wanda", allocation="progression", values="int8"),
        dict(method="best", pattern="2:4"),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_option_that_looks_at_data_takes_batches(name: str, settings: dict[str, Any]) -> None:
    model = MODELS[name]()
    data = [inputs(model, 4, seed) for seed in range(2)]
    assert 0 < kl(model, data, **settings) < kl(model, data, method="random")


@pytest.mark.parametrize("name", ["speech", "choices", "body, encoder-decoder"])
def test_moments_are_of_real_positions_alone(name: str) -> None:
    """What is in the padding does not matter."""
    model = MODELS[name]()
    batch = inputs(model)
    other = dict(batch)
    main, mask = model.main_input_name, batch["attention_mask"].bool()
    other[main] = torch.where(mask, batch[main], batch[main].flip(-1).roll(1, 0))
    assert not torch.equal(other[main], batch[main])
    moments = []
    for data in (batch, other):
        batches = BatchCalibration([data]).batches(model)
        blocks = walk(model, prunable_weights(model), batches, True, "testing")
        moments.append({name: value for block in blocks for name, value in block.moments.items()})
    for weight, expected in moments[0].items():
        torch.testing.assert_close(moments[1][weight], expected, rtol=1e-4, atol=1e-4)
