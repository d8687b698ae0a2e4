"""Pruned models are written packed, and packed ones as the dense models that they stand for."""

from pathlib import Path

import pytest
import torch

from aerogel.errors import ModelError
from aerogel.models import Provenance, load, load_model, prunable_weights
from aerogel.models.int8 import round_to_grid
from aerogel.pruning import prune
from aerogel.runtime.layers import sparse_layers
from aerogel.runtime.unpacking import unpack
from aerogel.runtime.writing import save_pruned


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
@pytest.mark.parametrize("pack", [True, False])
def test_a_pruned_model_is_packed_where_that_pays_off(sparsity: float, pack: bool, tmp_path: Path) -> None:
    model, tokenizer = load("tiny-bert")
    prune(model, sparsity=sparsity)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saved = save_pruned(model, tokenizer, tmp_path / "out", "tiny-bert", Provenance(), pack=pack)
    assert saved.is_packed == (pack and sparsity > 0.5)
    assert saved.zeros.sparsity == pytest.approx(sparsity, abs=1e-3)
    assert saved.zeros.weights > saved.zeros.prunable
    again = load_model(tmp_path / "out")
    assert bool(sparse_layers(again)) == saved.is_packed
    if saved.is_packed:
        unpack(str(tmp_path / "out"), tmp_path / "dense")
        again = load_model(tmp_path / "dense")
    else:
        with pytest.raises(ModelError, match="out"):
            unpack(str(tmp_path / "out"), tmp_path / "dense")
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_weights_have_the_types_of_the_source(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-bert")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    model = load_model(tmp_path / "source")
    prune(model, sparsity=0.8)
    source = str(tmp_path / "source")
    assert save_pruned(model, tokenizer, tmp_path / "out", source, Provenance(), pack=False).dtype == "bfloat16"
    again = load_model(tmp_path / "out", dtype="auto")
    assert {weight.matrix.dtype for weight in prunable_weights(again)} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_in_int8_are_written_and_dequantized(dtype: torch.dtype, tmp_path: Path) -> None:
    """The integers are those of the float32 weights, also for a source in 16 bits."""
    source = tmp_path / "source"
    model, tokenizer = load("tiny-bert")
    model.to(dtype).save_pretrained(source)
    model = load_model(source)
    prune(model, sparsity=0.2)
    for weight in prunable_weights(model):
        weight.matrix.copy_(round_to_grid(weight.matrix))
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    saved = save_pruned(model, tokenizer, tmp_path / "out", str(source), Provenance(), pack=True, values="int8")
    assert (saved.is_packed, saved.dtype) == (True, str(dtype).removeprefix("torch."))
    unpacked = unpack(str(tmp_path / "out"), tmp_path / "dense")
    assert unpacked.dequantized == len(before)
    for weight in prunable_weights(load_model(tmp_path / "dense", dtype="auto")):
        assert torch.equal(weight.matrix, before[weight.name].to(dtype))


def test_values_are_of_packed_models_alone(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saved = save_pruned(model, tokenizer, tmp_path / "out", "tiny-bert", Provenance(), pack=False, values="int8")
    assert not saved.is_packed
    again = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.items())
