"""What other libraries do with a packed model: as with the dense one, or a sentence that says what to do."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, pipeline

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import load, save
from aerogel.runtime.layers import sparse_layers
from builders import ARCHITECTURES

TOKENS = torch.arange(3, 33).view(2, 15)


def pruned(name: str) -> PreTrainedModel:
    model = ARCHITECTURES[name].build()
    ag.prune(model, sparsity=0.8)
    return model


def alike(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def copies(model: PreTrainedModel) -> list[PreTrainedModel]:
    file = io.BytesIO()
    torch.save(model, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    return [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved]


@pytest.mark.parametrize("name", ["bert", "gpt2", "albert", "t5"])
def test_dequantize_gives_the_dense_model(name: str, tmp_path: Path) -> None:
    dense = pruned(name)
    packed = ag.compress(copy.deepcopy(dense))
    packed.save_pretrained(tmp_path)
    for model in (*copies(packed), type(dense).from_pretrained(tmp_path)):
        restored = model.dequantize()
        assert restored is model
        assert not sparse_layers(restored)
        assert alike(restored, dense)
        with pytest.raises(ValueError, match="quantize"):
            restored.dequantize()
    half = ag.compress(copy.deepcopy(dense)).dequantize(torch.bfloat16)
    assert alike(half, copy.deepcopy(dense).to(torch.bfloat16))


@pytest.mark.parametrize("name", ["bert", "gpt2", "albert", "t5"])
def test_the_number_of_parameters_is_the_dense_models(name: str, tmp_path: Path) -> None:
    dense = pruned(name)
    count, inner = dense.num_parameters(), dense.num_parameters(exclude_embeddings=True)
    packed = ag.compress(copy.deepcopy(dense))
    packed.save_pretrained(tmp_path)
    for model in (*copies(packed), type(dense).from_pretrained(tmp_path)):
        layers = sparse_layers(model)
        hidden = sum(layer.in_features * layer.out_features for _, layer in layers)
        assert (model.num_parameters(), model.num_parameters(exclude_embeddings=True)) == (count, inner)
        assert model.num_parameters(only_trainable=True) == count - hidden  # packed weights can't be trained
        held = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        assert model.get_memory_footprint() == sum(tensor.nbytes for tensor in held.values())
        assert model.get_memory_footprint() < dense.get_memory_footprint()
        ag.decompress(model)
        assert (model.num_parameters(), "num_parameters" in vars(model)) == (count, False)
        assert model.num_parameters(only_trainable=True) == count


def test_embeddings_can_be_resized(tmp_path: Path) -> None:
    dense, packed = pruned("gpt2"), ag.compress(pruned("gpt2"))
    packed.resize_token_embeddings(8100)
    packed.save_pretrained(tmp_path)
    loaded = type(dense).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(TOKENS).logits[..., :8000], dense(TOKENS).logits, atol=1e-4, rtol=1e-4)
    assert loaded.get_output_embeddings().weight.shape[0] == 8100


@pytest.mark.parametrize("options", [{}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}, {"dtype": "auto"}])
def test_any_way_to_load(options: dict[str, Any], tmp_path: Path) -> None:
    packed = ag.compress(pruned("bert"))
    packed.save_pretrained(tmp_path, max_shard_size="30kB")
    body = AutoModel.from_pretrained(tmp_path, **options)
    loaded = type(packed).from_pretrained(tmp_path, **options)
    assert alike(loaded, packed)
    expected = packed.bert(TOKENS).last_hidden_state
    torch.testing.assert_close(body(TOKENS).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_a_state_goes_into_a_model_of_the_same_layers() -> None:
    first, other = ag.compress(pruned("bert")), ARCHITECTURES["bert"].build(1)
    ag.prune(other, sparsity=0.5)
    second = ag.compress(other)
    second.load_state_dict(first.state_dict())
    assert alike(second, first)


def test_pipelines(tmp_path: Path) -> None:
    model, tokenizer = load("tiny-gpt2")
    ag.prune(model, sparsity=0.5)
    prompt, options = "It was a", {"max_new_tokens": 5, "do_sample": False}
    expected = pipeline("text-generation", model=model, tokenizer=tokenizer)(prompt, **options)
    save(ag.compress(model), tokenizer, tmp_path / "packed")
    generate = pipeline("text-generation", model=str(tmp_path / "packed"), dtype=torch.float32)
    assert generate(prompt, **options) == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "packed").pad_token == tokenizer.pad_token


# what packed layers can't do


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_export_says_what_to_do(dynamo: bool, tmp_path: Path) -> None:
    model = ag.compress(pruned("bert"))
    layer, x = model.bert.encoder.layer[0], torch.randn(2, 5, 32)
    with pytest.raises(Exception, match=r"aerogel\.decompress\(model\)"):
        torch.onnx.export(layer, (x,), tmp_path / "model.onnx", dynamo=dynamo)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_says_where_it_runs() -> None:
    """OpenVINO traces a model too, and its own error names an operator that it does not know."""
    model = ag.compress(pruned("bert"))
    layer, x = model.bert.encoder.layer[0].output.dense, torch.randn(2, 5, 64)
    with pytest.warns(UserWarning, match=r"aerogel\.decompress\(model\)"), torch.inference_mode():
        traced = torch.jit.trace(layer, (x,), check_trace=False)
    assert torch.equal(traced(x), layer(x))


def lora(model: PreTrainedModel, **options: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(**options))


@pytest.mark.filterwarnings("ignore")
def test_other_adapters_on_packed_layers_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"aerogel\.decompress\(model\)"):
        peft.get_peft_model(
            ag.compress(pruned("bert")), peft.IA3Config(target_modules=["query"], feedforward_modules=[])
        )


@pytest.mark.filterwarnings("ignore")
def test_lora_on_the_layers_that_are_dense() -> None:
    dense = ARCHITECTURES["bert"].build()
    ag.prune(dense, sparsity=0.8, exclude=["*.query"])
    expected = dense(TOKENS).logits
    model = lora(ag.compress(dense), target_modules=["query"], init_lora_weights=False)
    adapted: Tensor = model(TOKENS).logits
    assert not torch.allclose(adapted, expected)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(TOKENS).logits, adapted, atol=1e-4, rtol=1e-4)
    assert len(sparse_layers(merged)) == 10
    assert isinstance(merged, transformers.BertForMaskedLM)


def test_moving_to_another_device_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"aerogel\.decompress\(model\)"):
        ag.compress(pruned("bert")).to("meta")
