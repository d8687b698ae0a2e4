"""Language-model heads in int8: close to the float head, and never a copy of a weight that was changed."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models.int8 import dequantize, quantize_rows
from aerogel.runtime import kernel
from aerogel.runtime.conversion import packed_types
from aerogel.runtime.fused.head import FusedHead, Int8Head
from aerogel.runtime.layers import SparseLinear
from builders import BART, SMALL, SPECIAL, WIDE

T5: dict[str, Any] = dict(d_model=96, d_kv=24, d_ff=200, num_layers=2, num_heads=4, vocab_size=100)
START = dict(decoder_start_token_id=1)

FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "bert": lambda **changes: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, **WIDE, **changes)),
    "gpt2": lambda **changes: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=96, n_layer=2, n_head=4, vocab_size=100, bos_token_id=1, eos_token_id=2, pad_token_id=0, **changes
        )
    ),
    "llama": lambda **changes: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **dict(tie_word_embeddings=True, num_key_value_heads=2) | SMALL | WIDE | SPECIAL | changes
        )
    ),
    "bart": lambda **changes: transformers.BartForConditionalGeneration(transformers.BartConfig(**BART, **changes)),
    "t5": lambda **changes: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **START, **changes)),
}
UNTIED = [(family, False) for family in FAMILIES if family != "t5"]  # whose classes are always tied
CASES = [*((family, True) for family in FAMILIES), *UNTIED]
TOKENS = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(0))


def pruned(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family](**changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    ag.prune(model, sparsity=0.5)
    return model


def int8(family: str, **changes: Any) -> Any:
    return ag.compress(pruned(family, **changes), values="int8", head_values="int8")


def head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()


def logits(model: PreTrainedModel, tokens: Tensor = TOKENS) -> Tensor:
    with torch.inference_mode():
        decoder = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        result: Tensor = model(tokens, **decoder).logits
        return result


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_logits_are_close_to_those_of_the_float_head(family: str, tied: bool) -> None:
    model = pruned(family, tie_word_embeddings=tied)
    weight = head(model).weight.detach().clone()
    expected = logits(ag.compress(copy.deepcopy(model), values="int8"))
    ag.compress(model, values="int8", head_values="int8")
    assert type(head(model)) is (Int8Head if tied else SparseLinear)
    found = logits(model)
    assert 0 < error(found, expected) < 0.015
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9
    last = logits(model, TOKENS[:1, :1])
    assert (
        error(last, logits(ag.compress(pruned(family, tie_word_embeddings=tied), values="int8"), TOKENS[:1, :1])) < 0.02
    )
    ag.decompress(model)
    assert type(head(model)) is nn.Linear
    assert torch.equal(head(model).weight, weight if tied else dequantize(*quantize_rows(weight)))
    assert not dict(head(model).named_buffers())


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_a_saved_model_gives_the_same_logits(family: str, tied: bool, tmp_path: Path) -> None:
    model = int8(family, tie_word_embeddings=tied)
    names, expected = model.state_dict().keys(), logits(model)
    assert names == ag.compress(pruned(family, tie_word_embeddings=tied), values="int8").state_dict().keys()
    model.save_pretrained(tmp_path / "first")
    for folder in ("first", "again"):
        loaded = type(model).from_pretrained(tmp_path / folder)
        assert type(head(loaded)) is type(head(model))
        assert torch.equal(logits(loaded), expected)
        entry = json.loads((tmp_path / folder / "config.json").read_text())["quantization_config"]
        assert entry == {"quant_method": "aerogel", "version": 3, "values": "int8", "head_values": "int8"}
        if folder == "first":
            loaded.save_pretrained(tmp_path / "again")
    assert loaded.num_parameters() == pruned(family, tie_word_embeddings=tied).num_parameters()


def test_checkpoints_of_a_tied_head_are_those_of_a_float_head(tmp_path: Path) -> None:
    int8("llama").save_pretrained(tmp_path / "int8")
    ag.compress(pruned("llama"), values="int8").save_pretrained(tmp_path / "float")
    files = [tmp_path / name / "model.safetensors" for name in ("int8", "float")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_body_is_loaded_from_a_model_with_an_int8_head(tmp_path: Path) -> None:
    for tied in (True, False):
        folder = tmp_path / str(tied)
        int8("llama", tie_word_embeddings=tied).save_pretrained(folder)
        body = transformers.AutoModel.from_pretrained(folder)
        assert body.get_output_embeddings() is None
        assert packed_types(body)


@pytest.mark.parametrize(("family", "tied"), [case for case in CASES if "bert" not in case])
def test_generation_has_the_logits_of_whole_texts(family: str, tied: bool) -> None:
    model = int8(family, tie_word_embeddings=tied)
    call = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
    generated = model.generate(TOKENS[:1], attention_mask=torch.ones(1, 12, dtype=torch.long), **call)
    tokens = generated.sequences
    decoder = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        expected = model(TOKENS[:1] if decoder else tokens, **decoder).logits[0, -7:-1]
    assert error(torch.cat(generated.logits), expected) < 0.03


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_pickles_give_the_same_logits(family: str) -> None:
    model = int8(family)
    expected, size = logits(model), model.get_memory_footprint()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other), expected)
        assert other.get_memory_footprint() == size
        with torch.no_grad():
            head(other).weight.mul_(2)
        assert torch.equal(logits(model), expected)


def _load_state(model: Any) -> None:
    state = model.state_dict()
    name = next(
        name for name, tensor in state.items() if tensor is not None and tensor.shape == head(model).weight.shape
    )
    model.load_state_dict({name: torch.randn_like(state[name])}, strict=False)


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[5] *= -3


def _in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        model.get_input_embeddings().weight.mul_(torch.randn(100, 1))


def _new_data(model: Any) -> None:
    head(model).weight.data = torch.randn(100, 96)


def _there_and_back(model: Any) -> None:
    head(model).weight.data = torch.randn(100, 96).half()
    head(model).weight.data = head(model).weight.data.float()


def _replaced(model: Any) -> None:
    model.get_input_embeddings().weight = nn.Parameter(torch.randn(100, 96))
    model.tie_weights()


def _new_embeddings(model: Any) -> None:
    model.set_input_embeddings(nn.Embedding(100, 96))
    model.tie_weights()


def _resized(model: Any) -> None:
    model.resize_token_embeddings(130, mean_resizing=False)


def _new_head(model: Any) -> None:
    model.set_output_embeddings(nn.Linear(96, 100, bias=head(model).bias is not None))


CHANGES = [
    _load_state, _in_place, _in_inference_mode, _new_data, _there_and_back, _replaced, _new_embeddings, _resized,
    _new_head,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "bart"])
def test_a_changed_weight_has_a_new_copy(family: str, change: Callable[[Any], None]) -> None:
    model = int8(family)
    before = logits(model)
    change(model)
    assert type(head(model)) is Int8Head
    found = logits(model)
    model.set_output_embeddings(copy.deepcopy(head(model)))  # whose copy is new
    assert torch.equal(found, logits(model))
    assert found.shape != before.shape or error(found, before) > 0.1


def test_casts_have_new_copies() -> None:
    model = int8("llama")
    before = logits(model)
    assert error(logits(model.bfloat16()).float(), before) < 0.1
    rounded = copy.deepcopy(model).float()
    assert torch.equal(logits(rounded), logits(copy.deepcopy(rounded)))
    assert torch.equal(head(rounded).int8.bitmask.scales, quantize_rows(head(rounded).weight)[1])


def test_threads_can_share_a_changed_head() -> None:
    layer = head(int8("llama"))
    x = torch.randn(3, 96)
    results: list[Tensor] = []

    def run() -> None:
        with torch.inference_mode():
            results.append(layer(x))

    for _ in range(20):
        with torch.no_grad():
            layer.weight.normal_()
        results.clear()
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 3
        assert all(torch.equal(result, results[0]) for result in results)


def test_weights_made_in_inference_mode_stay_float() -> None:
    with torch.inference_mode():
        model = pruned("llama")
        expected = head(model).weight.clone()
        ag.compress(model, values="int8", head_values="int8")
        x = torch.randn(3, 96)
        for scale in (1, 2):
            torch.testing.assert_close(head(model)(x), x @ (scale * expected.T))
            head(model).weight.mul_(2)


def test_compiled_graphs_use_the_float_weight() -> None:
    layer, x = head(int8("llama")), torch.randn(3, 96)
    with torch.inference_mode():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), nn.functional.linear(x, layer.weight))
        layer.weight.mul_(2)
        assert torch.equal(compiled(x), nn.functional.linear(x, layer.weight))


def test_without_kernels_the_copy_is_used_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 96)
    with torch.inference_mode():
        expected = head(int8("llama"))(x)
        monkeypatch.setattr(kernel, "native", lambda: None)
        layer = head(int8("llama"))
        assert type(layer) is Int8Head
        torch.testing.assert_close(layer(x), expected)


def test_inputs_of_another_width_are_refused() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="95"):
        head(int8("llama"))(torch.randn(3, 95))


def test_the_copy_counts_in_memory_and_reports() -> None:
    model, without = int8("llama"), ag.compress(pruned("llama"), values="int8")
    bytes_a_weight = (model.get_memory_footprint() - without.get_memory_footprint()) / head(model).weight.numel()
    assert 1 < bytes_a_weight < 1.4
    assert packed_types(model) == {"int8": packed_types(without)["int8"] + 1}
    assert model.num_parameters() == without.num_parameters()
    assert ag.inspect(model) == ag.inspect(without)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "before", [{}, {"values": "bfloat16"}, {"values": "int8"}, {"values": "int8", "head_values": "int8"}]
)
def test_compressing_twice_is_compressing_as_asked_last(before: Any, tied: bool) -> None:
    model = ag.compress(pruned("llama", tie_word_embeddings=tied), **before)
    ag.compress(model, values="int8", head_values="int8")
    assert type(head(model)) is (Int8Head if tied else SparseLinear)
    assert error(logits(model), logits(int8("llama", tie_word_embeddings=tied))) < 0.1
    if tied:
        ag.compress(model, values="int8")
        assert type(head(model)) is (FusedHead if kernel.native() else nn.Linear)
        assert not hasattr(model.config.quantization_config, "head_values")


class OtherHead(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_heads_that_cannot_be_rounded_are_refused() -> None:
    models: list[tuple[Any, str]] = [
        (transformers.BertModel(transformers.BertConfig(**SMALL)), "BertModel"),
        (transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)), "BertForSequenceClassification"),
        (pruned("gpt2"), "OtherHead"),
        (pruned("gpt2"), "lm_head.*NaN"),
        (pruned("gpt2"), "lm_head.*float64"),
    ]
    models[2][0].lm_head = OtherHead(96, 100)
    models[3][0].lm_head.weight.data[3, 3] = torch.nan
    models[4][0].lm_head.double()
    for model, name in models:
        classes = [type(module) for module in model.modules()]
        with pytest.raises(ModelError, match=name):
            ag.compress(model, values="int8", head_values="int8")
        assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize(("values", "head_values", "name"), [
    (None, "int8", "None"), ("bfloat16", "int8", "bfloat16"), ("int8", "int4", "int4"), ("int8", "bfloat16", "bfloat16")
])  # fmt: skip
def test_head_values_are_those_of_the_other_layers(values: Any, head_values: Any, name: str, tmp_path: Path) -> None:
    model = pruned("gpt2")
    with pytest.raises(ModelError, match=name):
        ag.compress(model, values, head_values)
    assert type(head(model)) is nn.Linear
    int8("gpt2").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= {"values": values, "head_values": head_values}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=name):
        type(model).from_pretrained(tmp_path)


def test_a_weight_that_became_nan_is_refused_where_it_is_used() -> None:
    model = int8("llama")
    with torch.no_grad():
        head(model).weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="row 0"):
        logits(model)


def test_a_packed_head_is_not_resized() -> None:
    model = int8("llama", tie_word_embeddings=False)
    expected = logits(model)
    with pytest.raises(ModelError, match="lm_head"):
        model.resize_token_embeddings(130)
    assert torch.equal(logits(model), expected)
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    ag.decompress(model).resize_token_embeddings(130, mean_resizing=False)
    assert logits(model).shape[-1] == 130
