"""Adapters of peft on packed models: one sparse base, many adapters, and the outputs of the dense pruned base."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

import aerogel as ag
from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import load, save
from aerogel.runtime.layers import sparse_layers

NAMES = ["tiny-bert", "tiny-gpt2", "tiny-bart"]
TOKENS = torch.arange(3, 33).view(2, 15)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers, for what peft calls
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),  # peft sets it for Conv1D by itself, and says so
]


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model(input_ids=TOKENS).logits
    return output


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=2e-4, rtol=1e-4)


def adapter(model: PreTrainedModel, folder: Path, seed: int, **options: Any) -> Path:
    """Writes an adapter with random weights for all linear layers."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False, **options)
    peft.get_peft_model(copy.deepcopy(model), config).save_pretrained(str(folder))
    return folder


@pytest.fixture(params=NAMES)
def pruned(request: pytest.FixtureRequest) -> PreTrainedModel:
    model, _ = load(request.param)
    ag.prune(model, sparsity=0.9)
    return model


def test_many_adapters_on_one_packed_base(pruned: PreTrainedModel, tmp_path: Path) -> None:
    folders = [adapter(pruned, tmp_path / name, seed, r=4) for seed, name in enumerate(["first", "second"])]
    save(ag.compress(copy.deepcopy(pruned)), None, tmp_path / "packed")
    plain = logits(pruned)
    expected = []
    for folder in folders:
        expected.append(logits(peft.PeftModel.from_pretrained(copy.deepcopy(pruned), str(folder)).eval()))
    assert not same(expected[0], expected[1])
    base = type(pruned).from_pretrained(tmp_path / "packed")
    count = len(sparse_layers(base))
    model = peft.PeftModel.from_pretrained(base, str(folders[0]), adapter_name="first")
    model.load_adapter(str(folders[1]), adapter_name="second")
    for name, wanted in zip(["first", "second", "first"], [*expected, expected[0]], strict=True):
        model.set_adapter(name)
        assert same(logits(model.eval()), wanted)
    with model.disable_adapter():
        assert same(logits(model), plain)
    with torch.inference_mode():
        mixed = model(input_ids=TOKENS, adapter_names=["second", "first"]).logits
    assert same(mixed, torch.stack([expected[1][0], expected[0][1]]))
    assert len(sparse_layers(model)) == count
    unloaded = model.unload()
    assert unloaded is base
    assert same(logits(base), plain)
    assert len(sparse_layers(base)) == count


@pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION), reason=f"transformers needs peft {MIN_PEFT_VERSION}"
)
def test_adapters_that_transformers_loads(pruned: PreTrainedModel, tmp_path: Path) -> None:
    folder = adapter(pruned, tmp_path / "first", 0, r=4)
    expected, plain = logits(peft.PeftModel.from_pretrained(copy.deepcopy(pruned), str(folder)).eval()), logits(pruned)
    packed = ag.compress(pruned)
    packed.load_adapter(str(folder), adapter_name="first")
    assert same(logits(packed.eval()), expected)
    packed.disable_adapters()
    assert same(logits(packed), plain)


@pytest.mark.parametrize("values", ["float32", "int8"])
def test_an_adapter_merges_after_decompression(pruned: PreTrainedModel, tmp_path: Path, values: str) -> None:
    folder = adapter(pruned, tmp_path / "first", 0, r=4)
    rounded = ag.decompress(ag.compress(pruned, values="int8" if values == "int8" else None))
    expected = peft.PeftModel.from_pretrained(copy.deepcopy(rounded), str(folder)).merge_and_unload()
    model = peft.PeftModel.from_pretrained(ag.compress(rounded), str(folder))
    with pytest.raises(ModelError, match=r"aerogel\.decompress"):
        ag.merge(model)
    ag.decompress(model.get_base_model())
    merged = model.merge_and_unload()
    assert type(merged) is type(expected)
    state = expected.state_dict()
    assert merged.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in merged.state_dict().items())


def test_merging_into_packed_layers_makes_them_dense(tmp_path: Path) -> None:
    model, _ = load("tiny-gpt2")
    ag.prune(model, sparsity=0.9)
    folder = str(adapter(model, tmp_path, 0, r=4))
    expected = logits(peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval())
    adapted = peft.PeftModel.from_pretrained(ag.compress(model), folder)
    with pytest.warns(AerogelWarning, match=r"transformer\.h\."):
        merged = adapted.merge_and_unload()
    assert not sparse_layers(merged)
    assert same(logits(merged), expected)


def test_dora_needs_the_dense_weights(tmp_path: Path) -> None:
    model, _ = load("tiny-bert")
    ag.prune(model, sparsity=0.9)
    folder = adapter(model, tmp_path, 0, r=4, use_dora=True)
    expected = logits(peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval())
    with pytest.warns(AerogelWarning, match=r"bert\.encoder\.layer"):
        adapted = peft.PeftModel.from_pretrained(ag.compress(model), str(folder))
    assert same(logits(adapted.eval()), expected)


def test_an_adapter_on_a_packed_model_is_not_trained() -> None:
    model, _ = load("tiny-gpt2")
    ag.prune(model, sparsity=0.9)
    adapted = peft.get_peft_model(ag.compress(model), peft.LoraConfig(target_modules=["c_fc"]))
    with pytest.raises(ModelError, match=r"aerogel\.decompress"):
        adapted(input_ids=TOKENS, labels=TOKENS).loss.backward()


@pytest.mark.parametrize("first", ["aerogel, peft", "peft, aerogel"])
def test_the_order_of_the_imports_does_not_matter(first: str) -> None:
    script = (
        f"import {first}\n"
        "from peft.tuners.lora import model\n"
        "assert model.dispatch_default.__module__ == 'aerogel.runtime.peft_private', model.dispatch_default\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
