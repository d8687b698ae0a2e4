"""Smoothing scales channels only where the outputs of the model stay equal, bit for bit."""

import pytest
import torch
from transformers import PreTrainedModel

from aerogel.models import load_tokenizer, prunable_weights
from aerogel.pruning.blocks import input_moments, walk
from aerogel.pruning.calibration import Calibration
from aerogel.pruning.rounding import round_blocks
from aerogel.pruning.smoothing import smooth
from builders import ARCHITECTURES, prose, text_data

NAMES = sorted(set(ARCHITECTURES) - {"albert"})  # its blocks run several times, and are not calibrated
PRE_NORM = {"gpt2", "opt", "gpt-neox", "llama", "t5"}  # the norms are in front of linear layers and of nothing else


def calibration(name: str) -> Calibration:
    return Calibration(
        text_data(prose(200)), load_tokenizer("tiny-gpt2" if name in ("gpt2", "llama") else "tiny-bart"), 8, 32
    )


def build(name: str) -> PreTrainedModel:
    model = ARCHITECTURES[name].build()
    with torch.no_grad():
        for weight in prunable_weights(model):
            weight.matrix[:, 3] *= 50  # columns with larger weights than others
            weight.matrix[0, 5] = 0
    return model


@pytest.mark.parametrize("name", NAMES)
def test_outputs_stay_equal_and_zeros_stay(name: str) -> None:
    model = build(name)
    batches = calibration(name).batches(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        output = model(**batches[0]).logits
        for block in walk(model, prunable_weights(model), batches, True, "test"):
            smooth(block)
            moments, _ = input_moments(block.module, block.weights, block.states, block.calls, True)
            assert all(torch.equal(block.moments[key], total) for key, total in moments.items())
        assert torch.equal(model(**batches[0]).logits, output)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert any("norm" in key.lower() or ".ln_" in key for key in changed) == (name in PRE_NORM)
    assert all(not weight.matrix[0, 5] for weight in prunable_weights(model))


def test_an_outlier_channel_gets_a_smaller_range() -> None:
    model = build("llama")
    up, down = model.model.layers[0].mlp.up_proj.weight.detach(), model.model.layers[0].mlp.down_proj.weight.detach()
    up[7] *= 2**8  # the block computes the same with an outlier among the inputs of `down`
    down[:, 7] /= 2**8
    block = next(walk(model, prunable_weights(model), calibration("llama").batches(model), True, "test"))
    with torch.no_grad():
        smooth(block)
    norms = block.moments["model.layers.0.mlp.down_proj"].diagonal().sqrt()
    assert norms[7] < 4 * norms.median()


def test_weights_that_another_block_shares_are_not_scaled() -> None:
    model = build("llama")
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    batches = calibration("llama").batches(model)
    norms = [block.post_attention_layernorm.weight.clone() for block in (first, second)]
    round_blocks(model, batches)
    assert torch.equal(first.post_attention_layernorm.weight, norms[0])
    assert torch.equal(second.post_attention_layernorm.weight, norms[1])
