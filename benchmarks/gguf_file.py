"""A decoder as a GGUF file in float32, which llama.cpp loads and quantizes.

The file has no vocabulary: the benchmarks pass token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from torch import Tensor
from transformers import PreTrainedModel

FAMILIES = {"llama": MODEL_ARCH.LLAMA, "gpt2": MODEL_ARCH.GPT2}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored as (d_in, d_out)


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    config: Any = model.config
    writer = GGUFWriter(path, config.model_type)
    _add_hyperparameters(writer, config)
    names = get_tensor_name_map(FAMILIES[config.model_type], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses the embeddings
        translated = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if translated is None:
            raise ValueError(f"{name}: GGUF has no name for this tensor of a {config.model_type}")
        writer.add_tensor(translated, _converted(name, tensor, config).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_hyperparameters(writer: GGUFWriter, config: Any) -> None:
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "llama":
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    else:
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _converted(name: str, tensor: Tensor, config: Any) -> Tensor:
    if name.endswith("q_proj.weight"):
        return _interleaved(tensor, config.num_attention_heads)
    if name.endswith("k_proj.weight"):
        return _interleaved(tensor, config.num_key_value_heads)
    return tensor.T if name.endswith(CONV1D) else tensor


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """The rows in llama.cpp's order: it rotates pairs of neighbours, transformers the two halves of a head."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape_as(weight)
