"""Gemma."""

from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

from aerogel.runtime.fused.llama import LlamaLike


class FusedGemmaDecoderLayer(LlamaLike, GemmaDecoderLayer):
    pass
