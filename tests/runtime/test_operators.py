"""The operators below the layers: sound for torch, and what does not fit them is refused before a kernel reads it."""

from __future__ import annotations

import copy
import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import aerogel as ag
from aerogel.errors import AerogelWarning, ModelError
from aerogel.runtime import fused_operators  # noqa: F401  (registers the operators of whole blocks)
from aerogel.runtime.kernel import native
from aerogel.runtime.layers import SparseLinear
from aerogel.runtime.values import VALUE_TYPES


def compressed(name: str) -> tuple[Any, Any]:
    """A dense pruned model, and the same compressed."""
    model, _ = ag.load(name)
    ag.prune(model, sparsity=0.8)
    return model, ag.compress(copy.deepcopy(model))


@pytest.mark.parametrize("features", [1, 100, 200, 257, 300])
def test_activations_of_another_width_are_refused(features: int) -> None:
    layer = SparseLinear.of(nn.Linear(256, 64))
    with pytest.raises(ModelError, match=f"256 features, found {features}"), torch.inference_mode():
        layer(torch.randn(5, features))


@pytest.mark.parametrize("features", [100, 1000])
def test_memory_of_another_width_is_refused(features: int) -> None:
    _, model = compressed("tiny-bart")
    ids = torch.randint(10, 90, (2, 6))
    with pytest.raises(ModelError, match=f"found {features}"), torch.inference_mode():
        model(encoder_outputs=(torch.randn(2, 6, features),), decoder_input_ids=ids, use_cache=False)


def answers(model: Any, **inputs: Any) -> Tensor | None:
    """The logits, or `None` where the shapes are refused, as a dense model's operations do."""
    try:
        with torch.inference_mode():
            return model(**inputs).logits
    except (ModelError, RuntimeError):
        return None


def assert_alike(found: Tensor | None, expected: Tensor | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [(3, 1, 40, 40), (1, 1, 40, 40), (1, 1, 1, 40), (1, 1, 1, 8), (1, 1, 8, 8), (2, 1, 1, 40), (1, 1, 2, 40)],
    ids=str,
)
def test_masks_of_any_shape_count_as_in_a_dense_model(shape: tuple[int, ...]) -> None:
    dense, sparse = compressed("tiny-bert")
    inputs = dict(input_ids=torch.randint(10, 1000, (3, 40)), attention_mask=torch.randn(shape))
    assert_alike(answers(sparse, **inputs), answers(dense, **inputs))


@pytest.mark.parametrize("texts", [1, 2, 4])
def test_one_text_may_be_read_by_many(texts: int) -> None:
    dense, sparse = compressed("tiny-bart")
    states = (torch.randn(texts, 50, 128),)
    inputs = dict(encoder_outputs=states, decoder_input_ids=torch.randint(10, 1000, (4, 20)), use_cache=False)
    assert_alike(answers(sparse, **inputs), answers(dense, **inputs))


@pytest.mark.parametrize("shape", [(2, 20), (1, 20), (1, 1), (1, 8), (3, 20)], ids=str)
@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("heads", [(4, 2), (5, 3), (2, 4)], ids=str)
def test_positions_and_heads_of_any_shape_count_as_in_a_dense_model(
    shape: tuple[int, ...], use_cache: bool, heads: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=16 * heads[0],
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
    )
    dense = LlamaForCausalLM(config).eval()
    ag.prune(dense, sparsity=0.8)
    fits = heads[0] % heads[1] == 0
    with nullcontext() if fits else pytest.warns(AerogelWarning, match="LlamaDecoderLayer could not be compared"):
        sparse = ag.compress(copy.deepcopy(dense))
    positions = torch.arange(shape[1]).expand(shape)
    inputs = dict(input_ids=torch.randint(0, 200, (2, 20)), position_ids=positions, use_cache=use_cache)
    assert_alike(answers(sparse, **inputs), answers(dense, **inputs))


def test_a_text_without_tokens_is_refused() -> None:
    _, model = compressed("tiny-bert")
    with pytest.raises((ModelError, RuntimeError)), torch.inference_mode():
        model(torch.zeros(2, 0, dtype=torch.long))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_answers_do_not_hang_on_the_default_dtype(name: str) -> None:
    dense, sparse = compressed(name)
    ids = torch.randint(10, 90, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    calls = [(ids, mask), (ids[:1, :1], mask[:1, :1])]
    with torch.inference_mode():
        expected = [dense(given, attention_mask=seen)[0] for given, seen in calls]
        torch.set_default_dtype(torch.float64)
        try:
            found = [sparse(given, attention_mask=seen)[0] for given, seen in calls]
        finally:
            torch.set_default_dtype(torch.float32)
    for ours, theirs, (_, seen) in zip(found, expected, calls, strict=True):
        torch.testing.assert_close(ours[seen.bool()], theirs[seen.bool()], rtol=1e-4, atol=1e-4)


def test_packing_does_not_hang_on_the_default_device() -> None:
    linear = nn.Linear(300, 40)
    with torch.device("meta"):
        layer = SparseLinear.of(linear)
        again = SparseLinear.of(linear)
        again.load_state_dict(layer.state_dict())
        assert torch.equal(layer.matrix, linear.weight)
        assert torch.equal(again.matrix, linear.weight)


@pytest.mark.parametrize("zeros", [(0.8, 0.9, 0.5), (0.9, 0.8, 0.98), (0.98, 0.5, 0.9)], ids=str)
def test_gate_up_and_down_have_blocks_of_their_own(zeros: tuple[float, float, float]) -> None:
    if native() is None:
        pytest.skip("the native kernels were not built")
    torch.manual_seed(0)
    layers = [nn.Linear(300, 900), nn.Linear(300, 900), nn.Linear(900, 300)]
    with torch.no_grad():
        for layer, share in zip(layers, zeros, strict=True):
            layer.weight[torch.rand_like(layer.weight) < share] = 0
    gate, up, down = (SparseLinear.of(layer) for layer in layers)
    assert gate.block != up.block
    blocks, norm = [layer.block for layer in (gate, up, down)], torch.ones(300)
    for tokens in (1, 40, 200):
        x = torch.randn(tokens, 300)
        with torch.inference_mode():
            arrays = [layer.arrays for layer in (gate, up, down)]
            found = torch.ops.aerogel.feed_forward(x, *arrays, blocks, False, "silu", [], [], [norm], 1e-5, True, 0.0)
            expected = x + layers[2](nn.functional.silu(layers[0](x)) * layers[1](x))
            expected = nn.functional.layer_norm(expected, (300,), norm)
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_operators_are_sound(name: str) -> None:
    if native() is None:
        pytest.skip("the native kernels were not built")
    norm, head_norm, angles = [torch.rand(96), torch.rand(96)], [torch.rand(24)], torch.rand(1, 9, 24)

    def layer(rows: int, columns: int) -> list[Tensor]:
        made = SparseLinear.of(nn.Linear(columns, rows), VALUE_TYPES[name])
        return [tensor.detach() for tensor in made.arrays]

    x, block = torch.randn(2, 9, 96), SparseLinear.of(nn.Linear(96, 96), VALUE_TYPES[name]).block
    ops = torch.ops.aerogel
    check = torch.library.opcheck
    check(ops.linear.default, (x, layer(50, 96), block))
    check(ops.dense_linear.default, (x[:1, :1], torch.randn(70, 96)))
    check(ops.dense_linear.default, (x, torch.randn(70, 96)))
    hidden = layer(200, 96), layer(96, 200)
    check(ops.feed_forward.default, (x, [], *hidden, [0, block, block], False, "gelu", [], norm, norm, 1e-5, True, 0.5))
    four = [layer(96, 96) for _ in range(4)]
    sizes = [4, 4, 24]
    mask = torch.rand(2, 1, 9, 9) > 0.3
    heads = (*four[:3], [block] * 3, sizes)
    normed = (*heads, angles, angles, norm, head_norm, head_norm, 1e-5, False, 0.5)
    check(
        ops.attention.default,
        (x, *normed, None, four[3], block, 0.2, False, mask, torch.rand(1, 4, 9, 9), *torch.rand(2, 17, 96), norm, []),
    )
    check(ops.heads.default, (x, *normed))
    attention = (
        *heads,
        None,
        None,
        [],
        [],
        [],
        1e-5,
        True,
        0.0,
        None,
        four[3],
        block,
        0.2,
        True,
        None,
        None,
        None,
        None,
        [],
        norm,
    )
    layers = ([], *hidden, [0, block, block], False, "gelu", norm, [], [], 1e-5, False, 0.0)
    check(ops.block.default, (x, *attention, *layers))
    for shape in ((1, 1), (1, 2), (1, 40), (2, 64), (3, 64), (4, 64), (4, 130), (30, 5)):  # tiles shared, and not
        x = torch.randn(*shape, 96)
        expected = ops.feed_forward(ops.attention(x, *attention), *layers)
        torch.testing.assert_close(ops.block(x, *attention, *layers), expected)


def replace_weights(model: Any) -> None:
    other = compressed("tiny-bert")[1]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.load_state_dict(other.state_dict())


def replace_biases_and_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, SparseLinear | nn.LayerNorm) and module.bias is not None:
            module.bias = nn.Parameter(module.bias + 1)


def move_memory(model: Any) -> None:
    model.share_memory()


def double_memory(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 2


@pytest.mark.parametrize("change", [replace_weights, replace_biases_and_norms, move_memory, double_memory])
def test_results_follow_arrays_that_are_replaced(change: Any) -> None:
    model, ids = compressed("tiny-bert")[1], torch.randint(10, 90, (2, 6))
    with torch.inference_mode():
        before = model(input_ids=ids)[0]
    change(model)
    gc.collect()
    with torch.inference_mode():
        after = model(input_ids=ids)[0]
        expected = ag.decompress(copy.deepcopy(model))(input_ids=ids)[0]
        torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4)
    assert (change is move_memory) == torch.equal(before, after)


def test_a_copy_does_not_use_the_memory_of_its_original() -> None:
    model, ids = compressed("tiny-bert")[1], torch.randint(10, 90, (2, 6))
    with torch.inference_mode():
        expected = model(input_ids=ids)[0]
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, SparseLinear):
                    layer.values.zero_()
        torch.testing.assert_close(copied(input_ids=ids)[0], expected, rtol=0, atol=0)


def test_the_profiler_sees_the_operators() -> None:
    if native() is None:
        pytest.skip("the native kernels were not built")
    model, ids = compressed("tiny-bert")[1], torch.randint(10, 90, (2, 6))
    with torch.inference_mode():
        expected = model(input_ids=ids)[0]
        with torch.profiler.profile() as profiled:
            found = model(input_ids=ids)[0]
    assert "aerogel::block" in {event.key for event in profiled.key_averages()}
    assert torch.equal(found, expected)
