"""GPT-2."""

from typing import Any

from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    ACTIVATIONS,
    AttentionNorms,
    FeedForward,
    can_attend,
    causal_attention,
    is_sparse,
)


class FusedGPT2Block(FusedBlock, GPT2Block):
    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, config = self.attn, self.attn.config
        up, down, activation = self.mlp.c_fc, self.mlp.c_proj, config.activation_function
        if call.encoder_hidden_states is not None or not is_sparse(up, down) or activation not in ACTIVATIONS:
            return None
        layers = FeedForward(up, down, activation, before=self.ln_2)
        if is_sparse(core.c_attn, core.c_proj) and can_attend(config, call.attention_mask):
            return causal_attention(
                call,
                core,
                (core.c_attn, None, None, core.c_proj),
                sizes=(core.num_heads, core.num_heads, core.head_dim),
                norms=AttentionNorms(self.ln_1),
                feed_forward=layers,
            )
        normed, cache = self.ln_1(call.hidden_states), self.cache_argument(call)
        attended, _ = core(normed, attention_mask=call.attention_mask, **cache, **call.others)
        return layers(attended + call.hidden_states)
