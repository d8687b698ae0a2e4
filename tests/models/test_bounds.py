"""Small files can't request large amounts of memory or time; large but consistent models load."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import load_model
from aerogel.models.bounds import FREE_BYTES, FREE_LAYERS
from aerogel.runtime.codec import encode
from aerogel.runtime.packed import pack
from builders import ARCHITECTURES, BERT_LIKE


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(params=["dense", "packed"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.8)
    if request.param == "packed":
        ag.compress(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def loaders(folder: Path) -> list[Callable[[], object]]:
    """aerogel checks dense and packed folders; transformers checks packed ones only."""
    packed = "quantization_config" in json.loads((folder / "config.json").read_text())
    own: list[Callable[[], object]] = [lambda: load_model(str(folder))]
    return [*own, lambda: transformers.AutoModel.from_pretrained(folder)] if packed else own


@pytest.mark.parametrize("count", [FREE_LAYERS + 1, 10**5, 10**12])
def test_more_layers_than_tensors_are_refused_before_a_model_is_built(count: int, saved: Path) -> None:
    configure(saved, num_hidden_layers=count)
    for loader in loaders(saved):
        with pytest.raises(ModelError, match=rf"{count} .*num_hidden_layers"):
            loader()


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 2**31},
        {"max_position_embeddings": 2**34},
        {"intermediate_size": 2**30},
        {"hidden_size": 2**16},
    ],
)
def test_a_model_much_larger_than_its_files_is_refused_before_it_is_allocated(
    change: dict[str, int], saved: Path
) -> None:
    configure(saved, **change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for loader in loaders(saved):
        with pytest.raises(ModelError, match=r"GB.* MB"):
            loader()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < FREE_BYTES / 1024


def test_packed_zeros_are_bounded(tmp_path: Path) -> None:
    """A packed matrix without values takes 34 bytes for any size."""
    config = transformers.BertConfig(**BERT_LIKE | dict(vocab_size=8, intermediate_size=2**22, num_hidden_layers=12))
    with torch.device("meta"):
        model = transformers.BertForMaskedLM(config)
    content = encode(pack(torch.zeros(1, 1)))
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("dense.weight") and ".layer." in name:
            tensors[name] = content.clone()
        elif tensor.numel() < 2**20:
            tensors[name] = torch.zeros(tensor.shape)
    for name in [name for name in model.state_dict() if name.endswith("intermediate.dense.bias")]:
        tensors[name] = torch.zeros(1)  # refused before it is read
    tensors.pop("cls.predictions.decoder.weight", None)
    tensors.pop("cls.predictions.decoder.bias", None)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["BertForMaskedLM"]
    config.quantization_config = {"quant_method": "aerogel", "version": 2}
    config.save_pretrained(tmp_path)
    for loader in loaders(tmp_path):
        with pytest.raises(ModelError, match=r"0\.\d GB|[1-9]\.\d GB"):
            loader()


def test_a_new_head_is_bounded(tmp_path: Path) -> None:
    ARCHITECTURES["bert"].build().save_pretrained(tmp_path)
    labels = tuple(f"{number}" for number in range(3))
    assert load_model(str(tmp_path), ag.models.Head("classification", labels)).config.num_labels == 3


# large or unusual models that are valid


@pytest.mark.parametrize("packed", [False, True])
def test_one_layer_may_be_called_many_times(packed: bool, tmp_path: Path) -> None:
    config = ARCHITECTURES["albert"].config()
    config.num_hidden_layers = 60  # more than its 20 tensors
    model = transformers.AlbertForMaskedLM(config)
    ag.prune(model, sparsity=0.8)
    if packed:
        ag.compress(model)
    model.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).config.num_hidden_layers == 60


def test_a_model_that_is_almost_all_zeros_loads(tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**BERT_LIKE | dict(vocab_size=8, hidden_size=768)))
    for weight in ag.prunable_weights(model):
        torch.nn.init.zeros_(weight.parameter)
    ag.compress(model).save_pretrained(tmp_path)
    load_model(str(tmp_path))
