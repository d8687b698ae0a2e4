"""Compressing real models: the same answers, and the same weights back."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aerogel as ag
from aerogel.errors import AerogelError, AerogelWarning, ModelError
from aerogel.models import prunable_weights
from aerogel.models.int8 import round_to_grid
from aerogel.runtime.kernel import native
from aerogel.runtime.layers import SparseLinear, sparse_layers
from aerogel.runtime.values import VALUE_TYPES
from builders import WIDE_FAMILIES, instruction_set, pruned

MODULE = native()
INSTRUCTION_SETS = MODULE.instruction_sets() if MODULE else []
DECODERS = ("gpt2", "llama", "opt")


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("family", WIDE_FAMILIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 7), (3, 20), (2, 64), (1, 130)], ids=str)
def test_answers_are_the_dense_models(family: str, shape: tuple[int, int]) -> None:
    dense = pruned(family)
    sparse = ag.compress(copy.deepcopy(dense))
    tokens, mask = torch.randint(3, 100, shape), torch.ones(shape, dtype=torch.long)
    if shape[1] > 4:
        mask[0, -3:] = 0
    calls: list[dict[str, Any]] = (
        [{"use_cache": True}, {"use_cache": False}] if family not in ("bert", "roberta") else [{}]
    )
    for call in calls:
        with torch.inference_mode():
            expected = dense(tokens, attention_mask=mask, **call)[0][mask.bool()]
            found = sparse(tokens, attention_mask=mask, **call)[0][mask.bool()]
        assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "llama"])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_fused_blocks_on_every_instruction_set(family: str, name: str) -> None:
    dense = pruned(family)
    sparse = ag.compress(copy.deepcopy(dense))
    with instruction_set(name), torch.inference_mode():
        for shape in ((1, 1), (3, 20), (1, 70)):
            tokens = torch.randint(3, 100, shape)
            expected, found = dense(tokens)[0], sparse(tokens)[0]
            assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("family", DECODERS)
def test_generated_tokens_are_the_dense_models(family: str) -> None:
    dense = pruned(family)
    sparse = ag.compress(copy.deepcopy(dense))
    tokens = torch.randint(3, 100, (1, 8))
    call = dict(max_new_tokens=20, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(tokens))
    assert torch.equal(dense.generate(tokens, **call), sparse.generate(tokens, **call))


@pytest.mark.parametrize("family", WIDE_FAMILIES)
def test_decompressing_gives_every_bit_back(family: str) -> None:
    model = pruned(family)
    before, classes = state(model), [type(module) for module in model.modules()]
    assert ag.compress(model) is model
    assert sparse_layers(model)
    assert ag.decompress(model) is model
    assert [type(module) for module in model.modules()] == classes
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_without_kernels_the_answers_are_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = pruned(family)
    tokens = torch.randint(3, 100, (2, 9))
    monkeypatch.setattr("aerogel.runtime.kernel.native", lambda: None)
    sparse = ag.compress(copy.deepcopy(dense))
    with torch.inference_mode():
        torch.testing.assert_close(sparse(tokens)[0], dense(tokens)[0])


@pytest.mark.parametrize("last", ["bfloat16", "int8"])
@pytest.mark.parametrize("first", [None, "bfloat16", "int8"])
def test_compressing_twice_is_compressing_as_asked_last(first: Any, last: Any) -> None:
    twice = ag.compress(ag.compress(pruned("bert"), first), last)
    once = ag.compress(ag.decompress(ag.compress(pruned("bert"), first)), last)
    assert twice.config.quantization_config.values == last
    for (name, layer), (_, other) in zip(sparse_layers(once), sparse_layers(twice), strict=True):
        assert layer.values.dtype == other.values.dtype == getattr(torch, last)
        assert torch.equal(layer.matrix, other.matrix), name


def test_int8_packs_every_prunable_layer() -> None:
    model = pruned("bert", sparsity=0.1)
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    ag.compress(model, values="int8")
    assert {name for name, _ in sparse_layers(model)} == before.keys()
    assert "values=int8" in repr(model)
    ag.decompress(model)
    for weight in prunable_weights(model):
        assert torch.equal(weight.matrix, round_to_grid(before[weight.name]))


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "opt"])
def test_int8_is_the_same_with_kernels_and_without(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = pruned(family)
    tokens = torch.randint(3, 100, (8, 20))
    models = [ag.compress(copy.deepcopy(dense), values="int8")]
    with torch.inference_mode():
        found = [models[0](tokens)[0]]
        monkeypatch.setattr("aerogel.runtime.kernel.native", lambda: None)
        found += [model(tokens)[0] for model in (ag.compress(copy.deepcopy(dense), values="int8"),)]
        exact = dense(tokens)[0]
    # values between two integers may be rounded the other way; independent errors would differ by 1.4 times their size
    assert (found[0] - found[1]).norm() <= 1.2 * (found[1] - exact).norm()


def test_a_model_can_have_values_of_several_types() -> None:
    model = ag.compress(pruned("bert"))
    layers = [layer for _, layer in sparse_layers(model)]
    for layer, value_type in zip(layers, itertools.cycle(["int8", "bfloat16", "float32"]), strict=False):
        layer.round_values(VALUE_TYPES[value_type])
    tokens = torch.randint(3, 100, (2, 9))
    dense = ag.decompress(copy.deepcopy(model))
    with torch.inference_mode():
        expected, found = dense(tokens)[0], model(tokens)[0]
    assert (found - expected).norm() <= 0.1 * expected.norm()
    assert {str(layer.values.dtype) for layer in layers} == {"torch.int8", "torch.bfloat16", "torch.float32"}


@pytest.mark.parametrize("compressed", [False, True])
def test_weights_that_are_no_numbers_have_no_integers(compressed: bool) -> None:
    model = pruned("bert")
    name = "encoder.layer.1.output.dense"
    model.get_submodule(name).weight.data[0, 0] = torch.nan
    if compressed:
        model = ag.compress(model)
    before = [layer.values.dtype for _, layer in sparse_layers(model)]
    with pytest.raises(ModelError, match=rf"{name}.*int8"):
        ag.compress(model, values="int8")
    assert [layer.values.dtype for _, layer in sparse_layers(model)] == before


def test_unknown_values_are_answered_with_the_nearest() -> None:
    model = pruned("bert")
    with pytest.raises(ModelError, match=r"'int9'.*int8"):
        ag.compress(model, values="int9")  # type: ignore[arg-type]
    assert not sparse_layers(model)
    assert not hasattr(model.config, "quantization_config")


def test_what_cannot_be_packed_is_left_as_it_was() -> None:
    model = pruned("bert").double()
    with pytest.raises(ModelError, match="float64"):
        ag.compress(model)
    assert not sparse_layers(model)
    assert not hasattr(model.config, "quantization_config")


def test_dense_layers_stay_dense() -> None:
    model = pruned("bert", sparsity=0.1)
    ag.compress(model)
    assert not sparse_layers(model)


def test_blocks_with_one_dense_layer_still_agree() -> None:
    for name in ("attention.self.key", "attention.output.dense", "intermediate.dense", "output.dense"):
        dense = pruned("bert")
        layer = dense.encoder.layer[0].get_submodule(name)
        nn.init.normal_(layer.weight, std=0.1)
        with pytest.warns(AerogelWarning, match=f"1 matrix,.*encoder.layer.0.{name}"):
            sparse = ag.compress(copy.deepcopy(dense))
        assert isinstance(sparse.encoder.layer[0].get_submodule(name), nn.Linear)
        tokens = torch.randint(3, 100, (2, 30))
        with torch.inference_mode():
            expected, found = dense(tokens)[0], sparse(tokens)[0]
        assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_attention_weights_can_be_looked_at() -> None:
    model = pruned("bert")
    model.set_attn_implementation("eager")
    ag.compress(model)
    with torch.inference_mode():
        looked = model(torch.randint(3, 100, (2, 9)), output_attentions=True, output_hidden_states=True)
    assert len(looked.attentions) == 2
    assert looked.attentions[0].shape == (2, 4, 9, 9)
    assert len(looked.hidden_states) == 3


def test_hidden_states_are_the_dense_models() -> None:
    dense = pruned("bert")
    sparse = ag.compress(copy.deepcopy(dense))
    tokens = torch.randint(3, 100, (2, 9))
    with torch.inference_mode():
        expected = dense(tokens, output_hidden_states=True).hidden_states
        found = sparse(tokens, output_hidden_states=True).hidden_states
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_training_says_to_decompress() -> None:
    model = ag.compress(pruned("bert"))
    with pytest.raises(AerogelError, match="decompress"):
        model(torch.randint(3, 100, (2, 9)))[0].sum().backward()


def test_moving_says_to_decompress() -> None:
    model = ag.compress(pruned("bert"))
    with pytest.raises(ModelError, match=r"meta.*aerogel\.decompress"):
        model.to("meta")


def test_operators_of_other_devices_say_so() -> None:
    """As they are called for tensors on a GPU, which is not here."""
    layer = SparseLinear.of(nn.Linear(8, 4))
    gpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(ModelError, match=r"meta.*aerogel\.decompress"):
        torch.ops.aerogel.linear.default.redispatch(gpu, torch.empty(2, 8, device="meta"), layer.arrays, layer.block)


def test_a_model_elsewhere_is_not_compressed() -> None:
    with pytest.raises(ModelError, match=r"encoder\.layer\.0\.attention\.self\.query.*meta"):
        ag.compress(WIDE_FAMILIES["bert"]().to("meta"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    dense = pruned("bert").to(dtype)
    sparse = ag.compress(copy.deepcopy(dense))
    tokens = torch.randint(3, 100, (2, 9))
    with torch.inference_mode():
        expected, found = dense(tokens)[0], sparse(tokens)[0]
    assert found.dtype == dtype
    assert (found.float() - expected.float()).norm() <= 0.05 * expected.float().norm()
    restored = ag.decompress(sparse).state_dict()
    assert all(torch.equal(tensor, restored[name]) for name, tensor in dense.state_dict().items())


def test_compiles_and_exports_whole_with_any_batch_and_length() -> None:
    model = ag.compress(pruned("bert"))
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=128)
    tokens, others = torch.randint(3, 100, (2, 20)), torch.randint(3, 100, (3, 33))
    with torch.inference_mode():
        expected = model(others)[0]
    with torch.no_grad():
        exported = torch.export.export(
            model, (tokens,), dynamic_shapes={"input_ids": {0: batch, 1: length}}, strict=False
        )
        torch.testing.assert_close(exported.module()(others)[0], expected)
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        torch.testing.assert_close(compiled(tokens)[0], model(tokens)[0])
        torch.testing.assert_close(compiled(others)[0], expected, rtol=1e-4, atol=1e-4)
