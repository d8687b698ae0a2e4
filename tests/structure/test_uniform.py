"""Uniform models are ordinary ones: transformers alone loads them."""

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from aerogel.errors import ModelError, PruningError
from aerogel.models import load_model
from aerogel.structure import shrink, shrink_uniform, sublayers
from structured import CLASSES, build, difference, zeroed
from tiny import outputs, tiny_inputs

ALONE = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
folder, kind = sys.argv[1:]
model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
assert not any(report.values()), report
assert "aerogel" not in sys.modules
with torch.no_grad():
    save_file({"logits": model(**load_file(f"{folder}/inputs")).logits.contiguous()}, f"{folder}/outputs")
"""


def alone(model: PreTrainedModel, folder: Path) -> torch.Tensor:
    """The logits of a saved model in a process without aerogel."""
    model.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in tiny_inputs(model).items()}, folder / "inputs")
    command = [sys.executable, "-c", ALONE, str(folder), type(model).__name__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "outputs")["logits"]


def uniform_kept(model: PreTrainedModel, heads: bool) -> dict[str, Sequence[int]]:
    """Other 20 neurons in each layer, and one structure less of each attention."""
    kept: dict[str, Sequence[int]] = {}
    for number, sublayer in enumerate(sublayers(model)):
        if sublayer.kind == "feed_forward":
            kept[sublayer.name] = range(number, number + 20)
        elif heads:
            kept[sublayer.name] = range(1, sublayer.count)
    return kept


def has_heads(family: str) -> bool:
    return family.startswith(("llama", "mistral", "qwen", "t5"))


@pytest.mark.parametrize("family", CLASSES)
def test_fewer_structures_in_all_layers(family: str, tmp_path: Path) -> None:
    model = build(family)
    kept, inputs = uniform_kept(model, has_heads(family)), tiny_inputs(model)
    expected = outputs(zeroed(model, kept), inputs)
    shrink_uniform(model, kept)
    assert difference(outputs(model, inputs), expected) < 1e-5
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    for loaded in (type(model).from_pretrained(tmp_path), load_model(tmp_path)):
        assert all(map(torch.equal, outputs(loaded, inputs), outputs(model, inputs)))
    assert [sublayer.count for sublayer in sublayers(loaded)] == [sublayer.count for sublayer in sublayers(model)]


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "opt", "llama", "qwen2", "bart", "t5"])
def test_transformers_loads_it_without_aerogel(family: str, tmp_path: Path) -> None:
    model = build(family)
    kept = uniform_kept(model, has_heads(family))
    first = "decoder.block.0" if family == "t5" else sublayers(model)[0].block
    kept |= {sublayer.name: () for sublayer in sublayers(model) if sublayer.block == first}
    inputs = tiny_inputs(model)
    expected = without_first_layer(model, kept, first)
    shrink_uniform(model, kept)
    assert difference(outputs(model, inputs), expected) < 1e-5
    assert difference([alone(model, tmp_path)], [model(**inputs).logits.detach()]) < 1e-6
    if model.can_generate() and family not in ("bert", "distilbert"):
        text = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False)
        ids = inputs["input_ids"]
        assert torch.equal(model.generate(ids, **text), model.generate(ids, use_cache=False, **text))


def without_first_layer(model: PreTrainedModel, kept: dict[str, Sequence[int]], first: str) -> list[torch.Tensor]:
    """The outputs of a dense model whose first block returns its input."""
    dense = zeroed(model, {name: structures for name, structures in kept.items() if structures})

    def passed_on(block: torch.nn.Module, arguments: tuple, keywords: dict, output: object) -> object:
        states = arguments[0] if arguments else keywords["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    dense.get_submodule(first).register_forward_hook(passed_on, with_kwargs=True)
    return outputs(dense, tiny_inputs(model))


@pytest.mark.parametrize(
    ("family", "kept", "words"),
    [
        ("bert", {"bert.encoder.layer.0.intermediate": range(9)}, r"intermediate.* 64.* 9|intermediate.* 9.* 64"),
        ("bert", {"bert.encoder.layer.1.attention.self": [0]}, r"attention.self.* 1 of 4 heads"),
        ("bert", {f"bert.encoder.layer.{number}.intermediate": () for number in range(2)}, "intermediate_size"),
        ("t5", {"decoder.block.1.layer.0.SelfAttention": [0, 1]}, "num_heads"),
        ("llama", {"model.layers.0.self_attn": [0]}, "num_key_value_heads|num_attention_heads"),
        ("llama", {"model.layers.0.mlp": [64]}, "64"),
    ],
)
def test_what_a_stock_configuration_can_not_say_is_refused(
    family: str, kept: dict[str, Sequence[int]], words: str
) -> None:
    model = build(family)
    before, inputs = copy.deepcopy(model.config).to_dict(), tiny_inputs(model)
    expected = outputs(model, inputs)
    with pytest.raises(PruningError, match=words):
        shrink_uniform(model, kept)
    assert model.config.to_dict() == before
    assert all(map(torch.equal, outputs(model, inputs), expected))


def test_layers_that_share_a_position_bias_keep_the_same_heads() -> None:
    model = build("t5")
    kept = uniform_kept(model, heads=True) | {"encoder.block.1.layer.0.SelfAttention": [0, 1, 2]}
    with pytest.raises(PruningError, match=r"encoder.block.1.*\[0, 1, 2\].*\[1, 2, 3\]"):
        shrink_uniform(model, kept)


def test_a_t5_that_could_not_generate_is_refused() -> None:
    model = build("t5")
    kept: dict[str, Sequence[int]] = {
        sublayer.name: () for sublayer in sublayers(model) if sublayer.block == "encoder.block.0"
    }
    with pytest.raises(PruningError, match=r"num_decoder_layers.* 2.* 1"):
        shrink_uniform(model, kept)


def test_heads_that_the_configuration_refuses() -> None:
    model = build("llama")
    model.config.hidden_size = 33  # of which 2 is not a divisor
    with pytest.raises(PruningError, match="33"):
        shrink_uniform(model, uniform_kept(model, heads=True))


def test_all_layers_can_not_be_dropped() -> None:
    model = build("gpt2")
    with pytest.raises(PruningError, match=r"transformer\.h"):
        shrink_uniform(model, {sublayer.name: () for sublayer in sublayers(model)})


def test_a_shrunk_model_and_unknown_names_are_refused() -> None:
    model = build("bert")
    with pytest.raises(ModelError, match=r"layer\.0\.intermediate"):
        shrink_uniform(model, {"bert.encoder.layer.0.intermediat": [0]})
    shrink(model, {"bert.encoder.layer.0.intermediate": [0]})
    with pytest.raises(PruningError, match="shrink"):
        shrink_uniform(model, {})
