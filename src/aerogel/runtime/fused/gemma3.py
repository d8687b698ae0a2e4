"""Gemma 3."""

from typing import Any

from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

from aerogel.runtime.fused.calls import AttentionNorms
from aerogel.runtime.fused.gemma2 import Gemma2Like


class FusedGemma3DecoderLayer(Gemma2Like, Gemma3DecoderLayer):
    def attention_norms(self: Any) -> AttentionNorms:
        core = self.self_attn
        return super().attention_norms()._replace(query=core.q_norm, key=core.k_norm)
