"""Llama."""

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    ACTIVATIONS,
    AttentionNorms,
    FeedForward,
    can_attend,
    causal_attention,
    is_sparse,
)


class FusedLlamaDecoderLayer(FusedBlock, LlamaDecoderLayer):
    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, mlp, config = self.self_attn, self.mlp, self.self_attn.config
        norm, layers = self.post_attention_layernorm, None
        if is_sparse(mlp.gate_proj, mlp.up_proj, mlp.down_proj) and config.hidden_act in ACTIVATIONS:
            layers = FeedForward(mlp.up_proj, mlp.down_proj, config.hidden_act, gate=mlp.gate_proj, before=norm)
        projections = core.q_proj, core.k_proj, core.v_proj, core.o_proj
        if is_sparse(*projections) and can_attend(config, call.attention_mask) and call.position_embeddings:
            x = causal_attention(
                call,
                core,
                projections,
                sizes=(config.num_attention_heads, config.num_key_value_heads, core.head_dim),
                norms=AttentionNorms(self.input_layernorm),
                feed_forward=layers,
            )
            return x if layers else x + mlp(norm(x))
        if not layers:
            return None
        attended, _ = core(
            self.input_layernorm(call.hidden_states),
            attention_mask=call.attention_mask,
            position_embeddings=call.position_embeddings,
            **self.cache_argument(call),
            **call.others,
        )
        return layers(attended + call.hidden_states)
