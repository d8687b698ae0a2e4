"""Models that read the weight of a layer instead of calling it."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

import aerogel as ag
from aerogel.errors import AerogelWarning, ModelError
from aerogel.runtime.layers import SparseLinear
from builders import ARCHITECTURES


def sparse(kind: type[nn.Module] = nn.Linear) -> tuple[Any, SparseLinear]:
    torch.manual_seed(0)
    dense: Any = nn.Linear(48, 32) if kind is nn.Linear else Conv1D(32, 48)
    dense.weight.data[torch.rand_like(dense.weight) < 0.7] = 0
    return dense, SparseLinear.of(copy.deepcopy(dense))


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_asking_for_shape_and_type_leaves_a_layer_packed(kind: type[nn.Module]) -> None:
    dense, layer = sparse(kind)
    weight = layer.weight
    for name in ("shape", "dtype", "device", "ndim", "is_meta", "layout", "requires_grad"):
        expected = getattr(dense.weight.detach(), name)
        assert getattr(weight, name) == expected, name
    assert (weight.size(0), weight.numel(), len(weight.shape)) == (len(dense.weight), dense.weight.numel(), 2)
    assert weight.is_floating_point()
    assert str(tuple(weight.shape)) in repr(weight)
    assert isinstance(layer, SparseLinear)


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda weight: torch.ones(2, weight.shape[1]) @ weight.T,
    "linear": lambda weight: functional.linear(torch.ones(2, weight.shape[1]), weight),
    "sum": lambda weight: weight.sum(),
    "joined": lambda weight: torch.cat([weight, weight]),
    "slice": lambda weight: weight[1:3, ::2],
    "copy": lambda weight: weight.detach().clone(),
    "cast": lambda weight: weight.to(torch.bfloat16),
    "numpy": lambda weight: torch.tensor(weight.detach().numpy()),
    "list": lambda weight: torch.tensor(weight.tolist()),
    "dlpack": lambda weight: torch.from_dlpack(weight.detach()).clone(),
    "array": lambda weight: torch.tensor(numpy.asarray(weight.detach())),
    "deep copy": lambda weight: copy.deepcopy(weight).detach(),
    "pickle": lambda weight: pickle.loads(pickle.dumps(weight)).detach(),
    "in place": lambda weight: weight.detach().mul_(2),
    "masked": lambda weight: torch.where(weight == 0, 1.0, weight),
}


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("read", READS)
def test_reading_values_gives_those_of_the_dense_layer(kind: type[nn.Module], read: str) -> None:
    dense, layer = sparse(kind)
    layer.name = "blocks.3.mixer.out"
    with pytest.warns(AerogelWarning, match=r"blocks\.\*\.mixer\.out"), torch.no_grad():
        found = READS[read](layer.weight)
    with torch.no_grad():
        torch.testing.assert_close(found, READS[read](dense.weight), rtol=0, atol=0)
    assert type(layer) is kind
    assert torch.equal(layer.weight, dense.weight)  # also what was written in place
    assert layer.state_dict().keys() == dense.state_dict().keys()
    x = torch.randn(3, 48)
    assert torch.equal(layer(x), dense(x))


# These reach the memory of a tensor without an operation of torch.
DIRECT: dict[str, Callable[[Tensor], Any]] = {
    "list": lambda weight: weight.tolist(),
    "numpy": lambda weight: weight.numpy().tolist(),
    "array": lambda weight: numpy.asarray(weight).tolist(),
    "pickle": lambda weight: pickle.loads(pickle.dumps(weight)).tolist(),
    "dlpack": lambda weight: torch.from_dlpack(weight).tolist(),
    "bytes": lambda weight: bytes(weight.untyped_storage()),
}


@pytest.mark.parametrize("read", DIRECT)
def test_memory_is_that_of_the_dense_layer(read: str) -> None:
    dense, layer = sparse()
    for module in (dense, layer):
        module.requires_grad_(False)
    with pytest.warns(AerogelWarning):
        found = DIRECT[read](layer.weight)
    assert found == DIRECT[read](dense.weight)


def test_data_that_is_replaced_is_not_lost() -> None:
    _, layer = sparse()
    with pytest.warns(AerogelWarning):
        layer.weight.data = torch.ones(32, 48)
    assert bool((layer.weight == 1).all())


@pytest.mark.parametrize(
    "replace",
    [
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(32, 48))),
        lambda layer: setattr(layer, "weight", torch.zeros(32, 48)),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_packed_layer_refuses_another_weight(replace: Callable[[nn.Module], None]) -> None:
    _, layer = sparse()
    layer.name = "blocks.3.mixer.out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AerogelWarning)
        with pytest.raises(ModelError, match=r"blocks\.3\.mixer\.out.*decompress"):
            replace(layer)


def test_a_weight_may_be_kept_and_read_later() -> None:
    dense, layer = sparse()
    kept = layer.weight
    with pytest.warns(AerogelWarning), torch.no_grad():
        assert torch.equal(layer.weight + 0, dense.weight)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert torch.equal(kept + 0, dense.weight)


SMALL = dict(vocab_size=200, hidden_size=64, num_hidden_layers=2)


@pytest.mark.filterwarnings("ignore:.*reads the weight of layer")
@pytest.mark.parametrize("name", ["Mamba", "FalconMamba"])
def test_models_that_read_weights_agree_with_dense_ones(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL)
    dense = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ag.prune(dense, sparsity=0.7)
    packed = ag.compress(copy.deepcopy(dense))
    tokens = torch.randint(5, 190, (2, 9))
    with torch.inference_mode():
        expected, first, second = dense(tokens).logits, packed(tokens).logits, packed(tokens).logits
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-4)


def test_a_layer_of_torch_attention_is_read() -> None:
    """`nn.MultiheadAttention` hands the weight of its output projection to a function."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.MultiheadAttention(32, 2, batch_first=True) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x, x, x, need_weights=False)[0]
            return x

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 5, 32)
    for block in model.blocks:
        block.out_proj.weight.data[torch.rand(32, 32) < 0.7] = 0
    expected = model(x)
    for block in model.blocks:
        block.out_proj = SparseLinear.of(block.out_proj)
    with pytest.warns(AerogelWarning), torch.inference_mode():
        torch.testing.assert_close(model(x), expected)


def test_a_model_that_asks_for_types_compiles_whole() -> None:
    """T5 compares the dtype of its states with that of a weight."""
    model = ARCHITECTURES["t5"].build()
    ag.prune(model, sparsity=0.8)
    ag.compress(model)
    tokens = torch.randint(3, 100, (2, 9))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        inputs = dict(input_ids=tokens, decoder_input_ids=tokens, use_cache=False)
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
    assert any(isinstance(module, SparseLinear) for module in model.modules())


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_compiled_graph_reads_the_values_too(kind: type[nn.Module]) -> None:
    dense, layer = sparse(kind)
    read = torch.compile(lambda: layer.weight * 2, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(read(), dense.weight * 2)
    assert isinstance(layer, SparseLinear)
