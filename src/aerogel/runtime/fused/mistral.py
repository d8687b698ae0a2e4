"""Mistral."""

from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from aerogel.runtime.fused.llama import LlamaLike


class FusedMistralDecoderLayer(LlamaLike, MistralDecoderLayer):
    pass
