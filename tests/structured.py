"""Tiny models of all families that can lose heads and neurons, and random choices of what they keep."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.structure import sublayers
from aerogel.structure.sublayers import columns
from tiny import tiny_config, tiny_model

WINDOW: dict[str, Any] = dict(
    sliding_window=4, layer_types=["full_attention", "sliding_attention"], use_sliding_window=True
)
CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig, {}),
    "bert-decoder": (transformers.BertLMHeadModel, transformers.BertConfig, dict(is_decoder=True)),
    "roberta": (transformers.RobertaForMaskedLM, transformers.RobertaConfig, {}),
    "xlm-r": (transformers.XLMRobertaForMaskedLM, transformers.XLMRobertaConfig, {}),
    "distilbert": (transformers.DistilBertForMaskedLM, transformers.DistilBertConfig, {}),
    "mpnet": (transformers.MPNetForMaskedLM, transformers.MPNetConfig, {}),
    "electra": (transformers.ElectraForMaskedLM, transformers.ElectraConfig, dict(embedding_size=16)),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config, dict(n_inner=64)),
    "opt": (transformers.OPTForCausalLM, transformers.OPTConfig, {}),
    "opt-post-norm": (transformers.OPTForCausalLM, transformers.OPTConfig, dict(do_layer_norm_before=False)),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {}),
    "llama-biases": (transformers.LlamaForCausalLM, transformers.LlamaConfig, dict(attention_bias=True, mlp_bias=True)),
    "mistral": (transformers.MistralForCausalLM, transformers.MistralConfig, dict(sliding_window=4)),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, WINDOW),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, WINDOW | dict(head_dim=16)),
    "bart": (transformers.BartForConditionalGeneration, transformers.BartConfig, {}),
    "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config, {}),
    "t5-gated": (transformers.T5ForConditionalGeneration, transformers.T5Config, dict(feed_forward_proj="gated-gelu")),
}
GENERATING = [
    family for family, (kind, _, _) in CLASSES.items() if kind.__name__.endswith(("LM", "LMHeadModel", "tion"))
]
GENERATING = [family for family in GENERATING if not CLASSES[family][0].__name__.endswith("MaskedLM")]


def build(family: str) -> PreTrainedModel:
    """A model of two layers (T5 and BART: and two in the decoder) with 4 heads and 64 neurons each."""
    kind, config, changes = CLASSES[family]
    return tiny_model(kind, tiny_config(config, **changes))


def random_kept(model: PreTrainedModel, seed: int, empty: float = 0.25) -> dict[str, list[int]]:
    """Random structures for each sub-layer of a model; with probability `empty` as few as it can keep."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for sublayer in sublayers(model):
        count = sublayer.at_least
        if torch.rand((), generator=generator) >= empty:
            count = int(torch.randint(max(1, count), sublayer.count + 1, (), generator=generator))
        kept[sublayer.name] = sorted(torch.randperm(sublayer.count, generator=generator)[:count].tolist())
    return kept


def zeroed(model: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> PreTrainedModel:
    """A dense copy with zeros in the columns of all structures that are not kept."""
    dense = copy.deepcopy(model)
    for sublayer in sublayers(dense):
        structures = kept.get(sublayer.name, range(sublayer.count))
        cut = [index for index in range(sublayer.count) if index not in structures]
        sublayer.output.matrix[:, columns(cut, sublayer.size)] = 0
    return dense


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(first, second, strict=True))
