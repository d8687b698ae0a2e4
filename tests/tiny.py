"""Tiny random models of any class of transformers, and inputs for them, derived from their configurations."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

# all names of configuration fields that set a size; each configuration gets those that it has
WIDTH, HEADS, INNER, LAYERS = 32, 4, 64, 2
SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size"], WIDTH),
    **dict.fromkeys(["word_embed_proj_dim", "projection_dim", "lru_width", "attention_hidden_size"], WIDTH),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"], LAYERS),
    **dict.fromkeys(["decoder_layers", "num_decoder_layers", "num_encoder_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"], HEADS),
    **dict.fromkeys(
        ["intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim"], INNER
    ),
    **dict.fromkeys(["d_inner", "n_inner", "ffn_hidden_size"], INNER),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len", "context_length"], 64),
    **dict.fromkeys(["head_dim", "d_kv"], WIDTH // HEADS),
    "num_key_value_heads": HEADS // 2,
    "vocab_size": 200,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "image_size": 32,
    "patch_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


def tiny_config(kind: type[PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """A configuration of this class with `SIZES`, also in its sub-configurations, and then `changes`."""
    default = kind().to_dict()
    values = {name: size for name, size in SIZES.items() if default.get(name) is not None}
    for name in ("layer_types", "mlp_layer_types"):
        if isinstance(default.get(name), list):
            values[name] = default[name][:LAYERS]
    for name, part in kind.sub_configs.items():
        if name in default and part is not transformers.AutoConfig:
            values[name] = tiny_config(part).to_dict()
    return kind(**values | changes)


def tiny_model(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A model in evaluation mode. All its linear layers affect the outputs; biases and norms are not constant."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 1 and name not in ("A_log", "dt_bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif isinstance(module, nn.Linear | Conv1D) and name == "weight":
                    parameter.normal_(std=module.weight.shape[isinstance(module, nn.Linear)] ** -0.5)
    if config.is_encoder_decoder and model.can_generate():
        model.generation_config.decoder_start_token_id = 1
    return model


def tiny_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Arguments of `model.forward`, for a batch of two."""
    torch.manual_seed(1)
    takes, main = inspect.signature(model.forward).parameters, model.main_input_name
    inputs = {}
    if main in ("input_ids", "inputs"):
        inputs[main] = torch.randint(5, 190, (2, 9))
        if "attention_mask" in takes:
            inputs["attention_mask"] = torch.ones(2, 9, dtype=torch.long)
    elif main == "input_values":
        inputs["input_values"] = torch.randn(2, 1600)
    elif main == "input_features":
        inputs["input_features"] = torch.randn(2, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    if "pixel_values" in takes:
        parts = [getattr(model.config, name, None) for name in ("encoder", "vision_config")] + [model.config]
        size = next((part.image_size for part in parts if hasattr(part, "image_size")), 64)
        sizes = size if isinstance(size, list | tuple) else (size, size)
        inputs["pixel_values"] = torch.randn(2, 3, *sizes)
    if "decoder_input_ids" in takes:
        inputs["decoder_input_ids"] = torch.randint(5, 190, (2, 7))
    return inputs


def outputs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All floating-point outputs of the model in float32, without caches."""
    torch.manual_seed(2)
    with torch.no_grad():
        return _floating(model(**inputs))


def _floating(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output.float()] if output.is_floating_point() else []
    if isinstance(output, dict):
        return _floating([value for name, value in output.items() if "past_key" not in name and "cache" not in name])
    return [tensor for part in output for tensor in _floating(part)] if isinstance(output, list | tuple) else []
