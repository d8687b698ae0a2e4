"""int8 weights under a bit mask against the same weights in quads: every instruction set, every tail."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import aerogel as ag
from aerogel.runtime import kernel
from aerogel.runtime.bitmask import Bitmask, smallest
from aerogel.runtime.layers import SparseLinear, sparse_layers
from aerogel.runtime.packed import PackedWeight, pack
from aerogel.runtime.values import VALUE_TYPES
from builders import instruction_set, pruned

MODULE = kernel.native()
INSTRUCTION_SETS = MODULE.instruction_sets() if MODULE else []
INT8 = VALUE_TYPES["int8"]
needs_kernels = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native kernels were not built")
SHAPES = [(1, 1), (5, 3), (16, 64), (17, 65), (130, 301), (769, 129), (300, 767), (60, 768), (33, 769), (20, 3073)]


def matrix(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator) * kept


def same(first: PackedWeight, second: PackedWeight) -> bool:
    tensors = zip(first.tensors, second.tensors, strict=True)
    return replace(first, cells=second.cells, values=second.values) == second and all(
        torch.equal(*each) for each in tensors
    )


def layers(weight: Tensor, bias: Tensor | None = None) -> tuple[SparseLinear, SparseLinear]:
    """In quads, and under a bit mask whatever that takes."""
    quads, masked = [SparseLinear(pack(weight, INT8), None if bias is None else nn.Parameter(bias)) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aerogel.runtime.layers.smallest", Bitmask.of)
        masked.set_one_token()
    assert masked.bits is not None
    return quads, masked


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 2000), columns=st.integers(1, 2000), density=st.floats(0, 1), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_bit_mask_holds_the_same_weight(rows: int, columns: int, density: float, seed: int) -> None:
    packed = pack(matrix(rows, max(1, min(columns, 100_000 // rows)), density, seed).to(torch.bfloat16), INT8)
    masked = Bitmask.of(packed)
    assert same(masked.to_packed(torch.bfloat16), packed)
    assert torch.equal(masked.unscaled(), packed.unscaled())
    assert torch.equal(masked.to_dense(packed.dtype), packed.to_dense())
    is_dense = packed.unscaled().count_nonzero() > 7 / 8 * packed.unscaled().numel()
    held = packed.unscaled().numel() if is_dense else packed.unscaled().count_nonzero()
    assert len(masked.values) == masked.starts[-1] == held
    assert len(masked.bits) == (1 if is_dense else packed.shape[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bit_mask_is_the_same_without_kernels(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(matrix(*shape, 0.3), INT8)
    masked = Bitmask.of(packed)
    monkeypatch.setattr(kernel, "native", lambda: None)
    assert all(torch.equal(*each) for each in zip(masked.tensors, Bitmask.of(packed).tensors, strict=True))
    assert same(masked.to_packed(packed.dtype), packed)


@needs_kernels
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 0.5, 0.9, 1.0])
def test_results_are_those_of_quads(name: str, shape: tuple[int, int], density: float) -> None:
    """To the bit, also those of one token, which are those of a tile."""
    bias = torch.randn(shape[0])
    x = 3 * torch.randn(140, shape[1]) + 1
    for quads, masked in (layers(matrix(*shape, density)), layers(matrix(*shape, density), bias)):
        with instruction_set(name), torch.inference_mode():
            expected = quads(x)
            for tokens in (140, 65, 33, 17, 3):
                assert torch.equal(masked(x[:tokens]), expected[:tokens])
            for tokens in range(1, 18):
                assert torch.equal(masked(x[:tokens]), expected[:tokens])


@needs_kernels
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_integers_are_those_of_the_scalar_code(name: str) -> None:
    _, masked = layers(matrix(300, 768, 0.3))
    x = 3 * torch.randn(1, 768) + 1
    with torch.inference_mode():
        with instruction_set("scalar"):
            expected = masked(x)
        with instruction_set(name):
            assert torch.equal(masked(x), expected)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 2000), columns=st.integers(1, 2000), density=st.floats(0, 1), tokens=st.integers(1, 70),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_results_of_any_shape_are_those_of_quads(
    rows: int, columns: int, density: float, tokens: int, seed: int
) -> None:
    quads, masked = layers(matrix(rows, max(1, min(columns, 100_000 // rows)), density, seed))
    x = torch.randn(max(tokens, 3), quads.in_features, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        assert torch.equal(masked(x[:tokens]), quads(x)[:tokens])


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_results_do_not_depend_on_the_threads(threads: int) -> None:
    quads, masked = layers(matrix(1000, 600, 0.2), torch.randn(1000))
    x, before = torch.randn(3, 600), torch.get_num_threads()
    with torch.inference_mode():
        expected = quads(x)
        try:
            torch.set_num_threads(threads)
            assert torch.equal(masked(x), expected)
            assert torch.equal(masked(x[:1]), expected[:1])
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_token_that_is_not_finite_is_nan(bad: float) -> None:
    _, masked = layers(matrix(100, 900, 0.1))
    for tokens in (1, 2, 5, 40):
        x = torch.randn(tokens, 900)
        with torch.inference_mode():
            expected = masked(x)
            x[tokens // 2, 7] = bad
            expected[tokens // 2] = torch.nan
            torch.testing.assert_close(masked(x), expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(("density", "most"), [(1.0, 1.04), (0.5, 0.66), (0.2, 0.36), (0.1, 0.26)])
def test_memory(density: float, most: float) -> None:
    """In bytes a weight, with all that belongs to a row."""
    for shape in [(576, 576), (192, 576), (1536, 576), (576, 1536), (3072, 768)]:
        weight = smallest(pack(matrix(*shape, density), INT8))
        assert isinstance(weight, Bitmask)
        assert sum(tensor.nbytes for tensor in weight.tensors) <= most * shape[0] * shape[1]


def test_quads_are_kept_where_they_take_less() -> None:
    weight = torch.randn(200, 576).view(200, -1, 4) * (torch.rand(200, 144, 1) < 0.1)
    packed = pack(weight.flatten(1), INT8)
    assert smallest(packed) is packed
    floats = pack(matrix(50, 70, 0.1))
    assert smallest(floats) is floats


def masked_layers(model: nn.Module) -> set[str]:
    return {name for name, layer in sparse_layers(model) if layer.bits is not None}


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "llama"])
def test_layers_that_run_token_by_token_have_a_bit_mask(family: str, tmp_path: Path) -> None:
    model = ag.compress(pruned(family), values="int8")
    expected = {"bert": "nothing", "bart": "model.decoder."}.get(family, "")
    names = {name for name, _ in sparse_layers(model) if name.startswith(expected)}
    assert masked_layers(model) == names
    model.save_pretrained(tmp_path)
    assert masked_layers(type(model).from_pretrained(tmp_path)) == names


def test_only_int8_has_a_bit_mask() -> None:
    model = ag.compress(pruned("gpt2"))
    assert not masked_layers(model)
    assert masked_layers(ag.compress(model, values="int8")) == {name for name, _ in sparse_layers(model)}
    assert not masked_layers(ag.compress(model, values="bfloat16"))


def in_quads(model: nn.Module) -> Any:
    """A copy whose layers have no bit mask."""
    model = copy.deepcopy(model)
    for _, layer in sparse_layers(model):
        packed, layer.one_token = layer.packed, False
        layer._set_weight(packed)
    assert not masked_layers(model)
    return model


@pytest.mark.parametrize("family", ["gpt2", "bart", "llama"])
def test_a_model_is_the_same_in_both_layouts(family: str) -> None:
    model = ag.compress(pruned(family), values="int8")
    quads, names, tokens = in_quads(model), masked_layers(model), torch.randint(3, 100, (2, 20))
    state = quads.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert ag.inspect(model) == ag.inspect(quads)
    with torch.inference_mode():
        logits = quads(tokens)[0]
        for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert masked_layers(other) == names
            assert torch.equal(other(tokens)[0], logits)
        model.load_state_dict(state)
        assert masked_layers(model) == names
        assert torch.equal(model(tokens)[0], logits)
    dense, expected = ag.decompress(model).state_dict(), ag.decompress(quads).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in dense.items())


def test_a_model_is_the_same_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = ag.compress(pruned("opt"), values="int8"), torch.randint(3, 100, (2, 9))
    assert masked_layers(model)
    with torch.inference_mode():
        expected = in_quads(model)(tokens)[0]
        monkeypatch.setattr(kernel, "native", lambda: None)
        found = model(tokens)[0]
    assert (found - expected).norm() <= 1e-2 * expected.norm()


def test_compiles_whole() -> None:
    _, masked = layers(matrix(40, 70, 0.3))
    with torch.inference_mode():
        for tokens in (1, 5):
            x = torch.randn(tokens, 70)
            assert torch.equal(torch.compile(masked, fullgraph=True, backend="eager")(x), masked(x))
    graph = torch.export.export(masked, (torch.randn(5, 70),)).module()
    assert torch.equal(graph(x), masked(x))
