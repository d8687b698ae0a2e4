"""Llama."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from aerogel.runtime.fused.calls import ACTIVATIONS, FeedForward, can_attend, causal_attention, is_sparse


class FusedLlamaDecoderLayer(LlamaDecoderLayer):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        core, mlp, config = self.self_attn, self.mlp, self.self_attn.config
        norm, layers = self.post_attention_layernorm, None
        if is_sparse(self, mlp.gate_proj, mlp.up_proj, mlp.down_proj) and config.hidden_act in ACTIVATIONS:
            layers = FeedForward(mlp.up_proj, mlp.down_proj, config.hidden_act, gate=mlp.gate_proj, before=norm)
        projections = core.q_proj, core.k_proj, core.v_proj, core.o_proj
        if is_sparse(self, *projections) and can_attend(config, attention_mask):
            hidden_states = causal_attention(
                hidden_states,
                core,
                *projections,
                sizes=(config.num_attention_heads, config.num_key_value_heads, core.head_dim),
                cache=past_key_values,
                mask=attention_mask,
                angles=position_embeddings,
                before=self.input_layernorm,
                then=layers,
            )
            return hidden_states if layers else hidden_states + mlp(norm(hidden_states))
        attended, _ = core(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = attended + hidden_states
        return layers(hidden_states) if layers else hidden_states + mlp(norm(hidden_states))
