"""Models without weights, and the size of models in float32."""

import os
from pathlib import Path

import pytest
import torch
import transformers

from aerogel.errors import ModelError
from aerogel.models import load_model, parameter_count
from aerogel.models.skeleton import float32_bytes, skeleton
from tiny import tiny_config, tiny_model


@pytest.mark.parametrize(
    "kind", [transformers.LlamaForCausalLM, transformers.BertForMaskedLM, transformers.GPT2LMHeadModel]
)
def test_it_is_the_loaded_model_with_its_parameters_on_meta(tmp_path: Path, kind: type) -> None:
    tiny_model(kind, tiny_config(kind.config_class)).bfloat16().save_pretrained(tmp_path)
    loaded, empty = load_model(tmp_path), skeleton(tmp_path)
    assert type(empty) is kind
    assert not empty.training
    assert parameter_count(empty) == parameter_count(loaded)
    assert all(parameter.is_meta and parameter.dtype == torch.float32 for parameter in empty.parameters())
    expected, buffers = (dict(model.named_non_persistent_buffers()) for model in (loaded, empty))
    assert buffers.keys() == expected.keys()
    assert all(torch.equal(buffers[name], expected[name]) for name in expected)


def test_the_size_in_float32(tmp_path: Path) -> None:
    model = tiny_model(transformers.LlamaForCausalLM, tiny_config(transformers.LlamaConfig)).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert float32_bytes(tmp_path) == 4 * model.num_parameters()
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(ModelError, match=shard.name):
        float32_bytes(tmp_path)
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        float32_bytes(tmp_path)
