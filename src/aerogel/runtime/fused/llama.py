"""Llama."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from aerogel.runtime.fused.calls import ACTIVATIONS, attention, can_attend, feed_forward, is_sparse


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
        if is_sparse(self, core.q_proj, core.k_proj, core.v_proj, core.o_proj) and can_attend(
            config, attention_mask, past_key_values
        ):
            hidden_states = attention(
                hidden_states,
                core.q_proj,
                core.k_proj,
                core.v_proj,
                core.o_proj,
                heads=(config.num_attention_heads, config.num_key_value_heads, core.head_dim),
                scale=core.scaling,
                causal=True,
                mask=attention_mask,
                angles=position_embeddings,
                before=self.input_layernorm,
            )
        else:
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
        norm, activation = self.post_attention_layernorm, config.hidden_act
        if not is_sparse(self, mlp.gate_proj, mlp.up_proj, mlp.down_proj) or activation not in ACTIVATIONS:
            return hidden_states + mlp(norm(hidden_states))
        return feed_forward(hidden_states, mlp.up_proj, mlp.down_proj, activation, gate=mlp.gate_proj, before=norm)
