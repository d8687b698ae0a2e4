"""2:4 models on a GPU: what is refused everywhere, and with a GPU what the layers compute."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, GPT2LMHeadModel, PreTrainedModel

from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import PrunableWeight
from aerogel.pruning import prune
from aerogel.runtime import compress, decompress
from aerogel.runtime.semi_structured import TwoToFourLinear, why_dense
from tiny import tiny_config, tiny_model

WIDE = {"hidden_size": 128, "n_embd": 128, "intermediate_size": 256, "num_attention_heads": 4, "n_head": 4}


def model_of(kind: type[PreTrainedModel], pattern: str = "2:4") -> PreTrainedModel:
    default = kind.config_class().to_dict()
    config = tiny_config(kind.config_class, **{name: size for name, size in WIDE.items() if name in default})
    if hasattr(config, "n_inner"):
        config.n_inner = 256
    model = tiny_model(kind, config)
    prune(model, pattern=pattern, sparsity=None if pattern == "2:4" else 0.5)
    return model.to(torch.bfloat16)


def layer(rows: int, columns: int, dtype: torch.dtype = torch.float16) -> PrunableWeight:
    dense = nn.Linear(columns, rows, dtype=dtype)
    with torch.no_grad():
        dense.weight.fill_(1).view(rows, -1, 4)[..., :2] = 0
    return PrunableWeight("the layer", dense)


def test_a_layer_of_2_4_weights_in_16_bits_can_run_sparse() -> None:
    assert not why_dense(layer(64, 128))
    assert not why_dense(layer(64, 128, torch.bfloat16))


def test_one_group_with_three_weights_keeps_a_layer_dense() -> None:
    weight = layer(32, 64)
    weight.matrix[3, 5] = 1
    assert "1 of 512" in why_dense(weight)


@pytest.mark.parametrize(("rows", "columns"), [(48, 64), (64, 96)])
def test_another_shape_keeps_a_layer_dense(rows: int, columns: int) -> None:
    assert f"{rows}x{columns}" in why_dense(layer(rows, columns))


def test_another_dtype_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"the layer.*float32"):
        why_dense(layer(64, 64, torch.float32))


def test_values_are_refused_with_a_gpu() -> None:
    with pytest.raises(ModelError, match=r"int8.*cuda"):
        compress(model_of(BertForSequenceClassification), values="int8", device="cuda")


def test_another_kind_of_device_is_refused() -> None:
    with pytest.raises(ModelError, match="meta"):
        compress(model_of(BertForSequenceClassification), device="meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_a_model_is_refused_and_stays_as_it_is() -> None:
    model = model_of(BertForSequenceClassification)
    with pytest.raises(ModelError, match="cuda"):
        compress(model, device="cuda")
    assert not any(isinstance(module, TwoToFourLinear) for module in model.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [BertForSequenceClassification, GPT2LMHeadModel])
def test_a_2_4_model_agrees_with_the_dense_one_and_is_restored_bit_for_bit(kind: type[PreTrainedModel]) -> None:
    model = model_of(kind).to("cuda")
    dense = copy.deepcopy(model)
    ids = torch.arange(26, device="cuda").view(2, 13) + 10  # 26 tokens are not a multiple of 8
    compress(model, device="cuda")
    assert sum(isinstance(module, TwoToFourLinear) for module in model.modules()) >= 8
    with torch.inference_mode():
        expected, found = dense(input_ids=ids).logits.float(), model(input_ids=ids).logits.float()
    assert (found - expected).norm() <= 0.02 * expected.norm()
    with pytest.raises(ModelError, match="decompress"):
        model.state_dict()
    restored = decompress(model).state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in dense.state_dict().items())


@pytest.mark.gpu
def test_what_stays_dense_is_said() -> None:
    model = model_of(BertForSequenceClassification)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.fill_(1)
    with pytest.warns(AerogelWarning, match="layer.0.output.dense"):
        compress(model, device="cuda")
    assert type(model.bert.encoder.layer[0].output.dense) is nn.Linear
    assert type(model.bert.encoder.layer[1].output.dense) is TwoToFourLinear


@pytest.mark.gpu
@pytest.mark.parametrize("change", ["float32", "unstructured"])
def test_a_model_that_is_not_2_4_in_16_bits_is_refused(change: str) -> None:
    model = model_of(BertForSequenceClassification, "unstructured" if change == "unstructured" else "2:4")
    if change == "float32":
        model.float()
    with pytest.raises(ModelError, match=r"attention\.self\.query"):
        compress(model, device="cuda")
    assert not any(isinstance(module, TwoToFourLinear) for module in model.modules())
