"""What is packed can be loaded: layers that a sparse layer can't replace stay dense."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import load_model
from aerogel.runtime.codec import encode
from aerogel.runtime.layers import sparse_layers
from aerogel.runtime.packable import packable_layers
from aerogel.runtime.packed import pack
from builders import ARCHITECTURES, BERT_LIKE

TOKENS = torch.arange(3, 33).view(2, 15)
SMALL = dict(BERT_LIKE, vocab_size=200)


def falcon() -> PreTrainedModel:
    """Its `FalconLinear` writes out x Wᵀ + b."""
    config = transformers.FalconConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    return transformers.FalconForCausalLM(config)


def zamba2() -> PreTrainedModel:
    """Two of its layers share the weights of one transformer block."""
    config = transformers.Zamba2Config(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=4,
        mamba_d_state=8,
        n_mamba_heads=2,
        mamba_ngroups=1,
        chunk_size=8,
        num_mem_blocks=1,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    )
    return transformers.Zamba2ForCausalLM(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"falcon": falcon, "zamba2": zamba2}
PACKED = {"falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}, "zamba2": {"in_proj", "out_proj"}}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_packed_can_be_loaded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = MODELS[name]().eval()
    ag.prune(dense, sparsity=0.7)
    model = ag.compress(copy.deepcopy(dense))
    assert PACKED[name] <= {path.rsplit(".", 1)[1] for path, _ in sparse_layers(model)}
    assert not any("shared_transformer" in path for path, _ in sparse_layers(model))
    model.save_pretrained(tmp_path / "packed")
    expected = dense(TOKENS).logits
    for loaded in (type(dense).from_pretrained(tmp_path / "packed"), load_model(str(tmp_path / "packed"))):
        assert len(sparse_layers(loaded)) == len(sparse_layers(model))
        torch.testing.assert_close(loaded(TOKENS).logits, expected, atol=1e-4, rtol=0)
        restored = ag.decompress(loaded)
        torch.testing.assert_close(restored(TOKENS).logits, expected, atol=1e-5, rtol=0)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Scaled(nn.Linear):
    def __init__(self, *size: int) -> None:
        super().__init__(*size)
        self.scale = nn.Parameter(torch.ones(1))


class Initialised(nn.Linear):
    """Differs in how it starts alone, as layers of ESMFold do."""


class FalconLinear(nn.Linear):
    """Not the one of transformers."""

    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input)


def test_the_rule() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 4),
            "initialised": Initialised(4, 4),
            "doubled": Doubled(4, 4),
            "scaled": Scaled(4, 4),
            "falcon": FalconLinear(4, 4),
            "tied": nn.Linear(4, 4),
            "other": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
            "hooked": nn.Linear(4, 4),
        }
    )
    model["other"].weight = model["tied"].weight
    model["hooked"].forward = lambda x: x  # as accelerate replaces it, to fetch a weight first
    assert packable_layers(model) == {"plain", "initialised"}


@pytest.mark.parametrize("kind", [Doubled, Scaled])
def test_a_layer_with_a_forward_of_its_own_stays_dense(kind: type[nn.Linear]) -> None:
    model = ARCHITECTURES["bert"].build()
    model.bert.encoder.layer[0].intermediate.dense = kind(32, 64)
    ag.prune(model, sparsity=0.8)
    expected = model(TOKENS).logits
    ag.compress(model)
    assert type(model.bert.encoder.layer[0].intermediate.dense) is kind
    assert len(sparse_layers(model)) == 11
    torch.testing.assert_close(model(TOKENS).logits, expected, atol=1e-5, rtol=0)


def test_a_packed_weight_that_the_model_ties_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = zamba2()
    ag.prune(model, sparsity=0.7)
    ag.compress(model).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    key = next(key for key, value in tensors.items() if "shared_transformer" in key and value.dim() == 2)
    tensors[key] = encode(pack(tensors[key]))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=key.removesuffix(".weight")):
        type(model).from_pretrained(tmp_path)


# optional parts of a body


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pooler", [False, True])
def test_a_body_may_have_a_pooler_or_none(packed: bool, pooler: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SMALL), add_pooling_layer=pooler).eval()
    ag.prune(model, sparsity=0.8)
    if packed:
        ag.compress(model)
    model.save_pretrained(tmp_path)
    expected = model(TOKENS).last_hidden_state
    for wanted in (False, True):  # transformers starts a pooler that is missing
        loaded = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=wanted)
        assert torch.equal(loaded(TOKENS).last_hidden_state, expected)
    assert (load_model(str(tmp_path)).pooler is not None) == pooler  # aerogel makes nothing up
    assert load_model(str(tmp_path)).state_dict().keys() == model.state_dict().keys()


def test_a_mask_token_may_be_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = transformers.ViTForMaskedImageModeling(config)
    ag.prune(model, sparsity=0.8)
    ag.compress(model).save_pretrained(tmp_path)
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    assert len(sparse_layers(loaded)) == len(sparse_layers(model)) > 0
