"""Qwen2."""

from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from aerogel.runtime.fused.llama import LlamaLike


class FusedQwen2DecoderLayer(LlamaLike, Qwen2DecoderLayer):
    pass
