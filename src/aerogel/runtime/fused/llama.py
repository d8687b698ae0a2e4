"""Llama."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from aerogel.runtime.fused.calls import ACTIVATIONS, can_attend, causal_attention, feed_forward, is_sparse


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
        layers = core.q_proj, core.k_proj, core.v_proj, core.o_proj
        sizes = (config.num_attention_heads, config.num_key_value_heads, core.head_dim)
        if not is_sparse(self, *layers) or not can_attend(config, attention_mask):
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
        else:
            hidden_states = causal_attention(
                hidden_states,
                core,
                *layers,
                sizes=sizes,
                cache=past_key_values,
                mask=attention_mask,
                angles=position_embeddings,
                before=self.input_layernorm,
            )
        norm, activation = self.post_attention_layernorm, config.hidden_act
        if not is_sparse(self, mlp.gate_proj, mlp.up_proj, mlp.down_proj) or activation not in ACTIVATIONS:
            return hidden_states + mlp(norm(hidden_states))
        return feed_forward(hidden_states, mlp.up_proj, mlp.down_proj, activation, gate=mlp.gate_proj, before=norm)
