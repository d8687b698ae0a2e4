"""Gemma 2. Its attention caps the scores, and stays the family's own code."""

from typing import Any

from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer

from aerogel.runtime.fused.calls import AttentionNorms
from aerogel.runtime.fused.llama import LlamaLike


class Gemma2Like(LlamaLike):
    """Gemma 2's block and those like it: norms also apply to what attention and the feed-forward layers add."""

    def attention_norms(self: Any) -> AttentionNorms:
        return AttentionNorms(before=self.input_layernorm, branch=self.post_attention_layernorm)

    def feed_forward_norms(self: Any) -> tuple[nn.Module, nn.Module | None]:
        return self.pre_feedforward_layernorm, self.post_feedforward_layernorm


class FusedGemma2DecoderLayer(Gemma2Like, Gemma2DecoderLayer):
    pass
