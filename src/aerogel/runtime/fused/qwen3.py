"""Qwen3."""

from typing import Any

from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from aerogel.runtime.fused.calls import AttentionNorms
from aerogel.runtime.fused.llama import LlamaLike


class FusedQwen3DecoderLayer(LlamaLike, Qwen3DecoderLayer):
    def attention_norms(self: Any) -> AttentionNorms:
        core = self.self_attn
        return AttentionNorms(before=self.input_layernorm, query=core.q_norm, key=core.k_norm)
