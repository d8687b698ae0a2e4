"""GPT-2."""

from typing import Any

from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    AttentionNorms,
    DecoderLayers,
    FeedForward,
    can_attend,
    causal_attention,
    is_sparse,
    sparse_feed_forward,
)


class FusedGPT2Block(FusedBlock, GPT2Block):
    def decoder_layers(self: Any) -> DecoderLayers | None:
        core, layers = self.attn, self._sparse_layers()
        if not layers or not is_sparse(core.c_attn, core.c_proj):
            return None
        projections, sizes = (core.c_attn, None, None, core.c_proj), (core.num_heads, core.num_heads, core.head_dim)
        return DecoderLayers(core, projections, sizes, AttentionNorms(self.ln_1), layers, rotary=False)

    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        if call.encoder_hidden_states is not None:
            return None
        core, attention = self.attn, self.decoder_layers()
        if attention and can_attend(core.config, call.attention_mask):
            return causal_attention(call, attention)
        layers = self._sparse_layers()
        if not layers:
            return None
        normed, cache = self.ln_1(call.hidden_states), self.cache_argument(call)
        attended, _ = core(normed, attention_mask=call.attention_mask, **cache, **call.others)
        return layers(attended + call.hidden_states)

    def _sparse_layers(self: Any) -> FeedForward | None:
        activation = self.attn.config.activation_function
        return sparse_feed_forward(self.mlp.c_fc, self.mlp.c_proj, activation, before=self.ln_2)
