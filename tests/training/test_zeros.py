"""The zeros of pruned weights are kept, and weights that only start at zero are trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from transformers import PreTrainedModel

from aerogel.errors import AerogelWarning
from aerogel.models import prunable_weights
from aerogel.models.prunable import TARGETS
from aerogel.pruning import prune
from aerogel.training import SparsityCallback
from aerogel.training.zeros import zero_masks
from builders import ARCHITECTURES, train


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    return zero_masks(prunable_weights(model, TARGETS))


class LowRank(nn.Module):
    """An adapter as people write them by hand; its last layer starts at zero."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.base_layer, self.down, self.up = layer, nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        return self.base_layer(states) + self.up(self.down(states))


class Gated(LowRank):
    """The same without the name that marks an adapter."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__(layer, size)
        self.inner = self.base_layer
        del self.base_layer

    def forward(self, states: Tensor) -> Tensor:
        return self.inner(states) + self.up(self.down(states))


@pytest.mark.filterwarnings("ignore::aerogel.errors.AerogelWarning")
@pytest.mark.parametrize("kind", [LowRank, Gated])
def test_layers_that_start_at_zero_are_trained_as_without_the_callback(tmp_path: Path, kind: type[LowRank]) -> None:
    learnt = []
    for callbacks in ([], [SparsityCallback()]):
        model = ARCHITECTURES["gpt2"].build()
        prune(model, sparsity=0.8)
        model.requires_grad_(False)  # so that the zeros stay without the callback too
        torch.manual_seed(0)
        for block in model.transformer.h:
            block.attn.c_proj = kind(block.attn.c_proj, 32)
        train(model, tmp_path, *callbacks)
        learnt.append({name: value for name, value in model.state_dict().items() if ".up." in name or ".down." in name})
    without, held = learnt
    assert all(torch.equal(value, held[name]) for name, value in without.items())
    assert all((value != 0).all() for value in held.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, for what peft calls
def test_an_adapter_of_peft_is_trained_and_the_zeros_under_it_are_kept(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = ARCHITECTURES["bert"].build()
    masks = prune(model, sparsity=0.8)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query", "value"]))
    adapted.base_model.model.bert.encoder.layer[0].requires_grad_(True)  # some of the model's own weights learn too
    train(adapted, tmp_path, SparsityCallback())
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            assert (value != 0).all(), name
    for weight, mask in zip(prunable_weights(adapted), masks.values(), strict=True):
        assert torch.equal(weight.zeros, ~mask)


def gate(model: PreTrainedModel) -> None:
    nn.init.zeros_(model.bert.encoder.layer[0].output.dense.weight)


def head(model: PreTrainedModel) -> None:
    nn.init.zeros_(model.cls.predictions.transform.dense.weight)


def rows_of_a_head(model: PreTrainedModel) -> None:
    nn.init.zeros_(model.cls.predictions.transform.dense.weight[:3])


def rows_of_the_embeddings(model: PreTrainedModel) -> None:
    nn.init.zeros_(model.bert.embeddings.word_embeddings.weight[-5:])


@pytest.mark.filterwarnings("ignore::aerogel.errors.AerogelWarning")
@pytest.mark.parametrize("change", [gate, head, rows_of_a_head, rows_of_the_embeddings])
def test_weights_that_start_at_zero_are_not_pruned_weights(change: Any) -> None:
    model = ARCHITECTURES["bert"].build()
    pruned = prune(model, sparsity=0.5)
    with torch.no_grad():
        change(model)
    blank = {weight.name for weight in prunable_weights(model) if weight.zeros.all()}
    assert set(masks_of(model)) == set(pruned) - blank


@pytest.mark.parametrize("sparsity", [0.002, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", ["unstructured", "block:4x1", "block:1x8"])
def test_all_pruned_weights_are_kept_at_zero(sparsity: float, scope: Any, pattern: str) -> None:
    model = ARCHITECTURES["bert"].build()
    with torch.no_grad():  # embeddings of rare words are small, so that pruning takes whole rows of them
        model.bert.embeddings.word_embeddings.weight[100:] *= 0.1
    targets, small = ("blocks", "embeddings"), ("*token_type*",)  # of which 99% would be all
    pruned = prune(model, sparsity=sparsity, scope=scope, pattern=pattern, targets=targets, exclude=small)
    masks = masks_of(model)
    for weight in prunable_weights(model, targets, small):
        if not pruned[weight.name].all():
            assert torch.equal(masks[weight.name], weight.zeros), weight.name


def test_pruned_neurons_are_kept_at_zero() -> None:
    model = ARCHITECTURES["bert"].build()
    layer = model.bert.encoder.layer[1].intermediate.dense
    torch_prune.ln_structured(layer, "weight", 0.25, n=2, dim=0)
    torch_prune.remove(layer, "weight")
    assert {name: int(zeros.sum()) for name, zeros in masks_of(model).items() if "intermediate" in name} == {
        "bert.encoder.layer.1.intermediate.dense": layer.weight.numel() // 4
    }


def test_matrices_of_zeros_alone_are_named() -> None:
    model = ARCHITECTURES["bert"].build()
    with torch.no_grad():
        gate(model)
    with pytest.warns(AerogelWarning, match=r"bert\.encoder\.layer\.0\.output\.dense"):
        masks_of(model)
