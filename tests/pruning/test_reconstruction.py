"""Reconstruction moves sub-modules towards their dense outputs and changes only the remaining weights."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.models import load_tokenizer, prunable_weights
from aerogel.pruning.blocks import Block, walk
from aerogel.pruning.calibration import Calibration
from aerogel.pruning.reconstruction import reconstruct, stages
from builders import ARCHITECTURES, prose, text_data


def first_block(model: PreTrainedModel, name: str) -> Block:
    tokenizer = load_tokenizer("tiny-gpt2" if name in ("gpt2", "llama") else "tiny-bart")
    batches = Calibration(text_data(prose(200)), tokenizer, 8, 32).batches(model)
    return next(walk(model, prunable_weights(model), batches, False, "test"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", [("LlamaAttention", 4), ("LlamaMLP", 3)]),
        ("gpt2", [("GPT2Attention", 2), ("GPT2MLP", 2)]),
        ("bert", [("BertAttention", 4), ("BertLayer", 2)]),
        ("bart", [("BartAttention", 4), ("BartEncoderLayer", 2)]),
        ("t5", [("T5LayerSelfAttention", 4), ("T5LayerFF", 2)]),
    ],
)
def test_attention_and_mlp_are_found_by_structure(name: str, expected: list[tuple[str, int]]) -> None:
    found = stages(first_block(ARCHITECTURES[name].build(), name))
    assert [(type(stage.module).__name__, len(stage.weights)) for stage in found] == expected


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "bart", "t5"])
def test_outputs_come_nearer_and_zeros_stay(name: str) -> None:
    model = ARCHITECTURES[name].build()
    with torch.no_grad():
        for weight in prunable_weights(model):
            weight.matrix.mul_(8)  # a random model's outputs hardly depend on its tiny weights
    block = first_block(model, name)

    def outputs(module: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [call.run(module, hidden)[call.tokens] for call, hidden in zip(block.calls, block.states, strict=True)]
            )

    wanted = outputs(block.module)
    dense = {weight.name: weight.matrix.clone() for weight in block.weights}
    masks = {}
    with torch.no_grad():
        for weight in block.weights:
            mask = weight.matrix.abs() > weight.matrix.abs().median()
            weight.matrix.mul_(mask)
            masks[weight.name] = mask
    pruned = outputs(block.module)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    reconstruct(block, dense, masks, 20)
    assert (outputs(block.module) - wanted).square().mean() < 0.9 * (pruned - wanted).square().mean()
    assert all(not weight.matrix[~masks[weight.name]].any() for weight in block.weights)
    trained = {f"{weight.name}.weight" for weight in block.weights}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == trained
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
