"""Private names of transformers: each still does what `transformers_private` uses it for."""

from __future__ import annotations

import importlib

import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from aerogel.runtime import transformers_private as private


def bert() -> BertForMaskedLM:
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)
    return BertForMaskedLM(BertConfig(**sizes))


def test_the_attention_implementation_has_a_name() -> None:
    model = bert()
    assert private.attention_implementation(model.config) == "sdpa", "config._attn_implementation"
    model.set_attn_implementation("eager")
    assert private.attention_implementation(model.config) == "eager", "config._attn_implementation"


def test_some_layers_stay_in_float32() -> None:
    class Precise(BertForMaskedLM):
        _keep_in_fp32_modules_strict = ("dense",)

    assert "dense" in private.float32_layers(Precise(bert().config), torch.bfloat16), "PreTrainedModel._get_dtype_plan"


def test_a_class_says_which_tensors_may_be_missing_or_unexpected() -> None:
    class Lenient(BertForMaskedLM):
        _keys_to_ignore_on_load_missing = (r"position_ids$",)
        _keys_to_ignore_on_load_unexpected = (r"pooler",)

    for name in ("_keys_to_ignore_on_load_missing", "_keys_to_ignore_on_load_unexpected"):
        assert hasattr(PreTrainedModel, name), name
    model = Lenient(bert().config)
    assert private.may_be_missing(model, "x.position_ids")
    assert not private.may_be_missing(model, "pooler")
    private.hide_keys(model, ["x.weight"])
    assert private.may_be_unexpected(model, "x.weight")
    assert private.may_be_unexpected(model, "pooler")
    assert not private.may_be_unexpected(model, "xyweight")
    private.unhide_keys(model)
    assert not private.may_be_unexpected(model, "x.weight")
    assert private.may_be_unexpected(model, "pooler")


def test_tensors_marked_as_loaded_are_not_initialised() -> None:
    model = bert()
    weight = model.cls.predictions.transform.dense.weight
    with torch.no_grad():
        weight.fill_(3)
    private.keep_uninitialized(weight)
    model.init_weights()
    assert (weight == 3).all(), "transformers initialises tensors with _is_hf_initialized"


def test_names_in_checkpoints_are_mapped_to_names_in_models() -> None:
    model = bert()
    keys = ["bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight", "unknown"]
    names = private.names_in_model(model, keys, model.state_dict())
    assert names[keys[1]] == {keys[1]}, "transformers.core_model_loading.rename_source_key"
    assert names[keys[0]] == {keys[1]}, "transformers.conversion_mapping.get_model_conversion_mapping"
    assert private.joined_weights(model, keys) == []


def test_hooks_that_capture_outputs_are_known_by_their_module() -> None:
    importlib.import_module(private.OUTPUT_CAPTURING)
    model = bert()
    model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    modules = {getattr(hook, "__module__", "") for hook in hooks}
    assert modules == {private.OUTPUT_CAPTURING}, f"hooks of transformers {transformers.__version__}: {modules}"
