"""GPT-2."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from aerogel.runtime.fused.calls import ACTIVATIONS, can_attend, causal_attention, feed_forward, is_sparse


class FusedGPT2Block(GPT2Block):
    def forward(
        self,
        hidden_states: Any,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        **kwargs: Any,
    ) -> Tensor:
        core, config = self.attn, self.attn.config
        up, down = self.mlp.c_fc, self.mlp.c_proj
        activation = config.activation_function
        if encoder_hidden_states is not None or not is_sparse(self, up, down) or activation not in ACTIVATIONS:
            return super().forward(
                hidden_states,
                past_key_values,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                use_cache=use_cache,
                **kwargs,
            )
        sizes = (core.num_heads, core.num_heads, core.head_dim)
        if not is_sparse(self, core.c_attn, core.c_proj) or not can_attend(config, attention_mask):
            attended, _ = core(
                self.ln_1(hidden_states),
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                use_cache=use_cache,
                **kwargs,
            )
            hidden_states = attended + hidden_states
        else:
            hidden_states = causal_attention(
                hidden_states,
                core,
                core.c_attn,
                None,
                None,
                core.c_proj,
                sizes=sizes,
                cache=past_key_values,
                mask=attention_mask,
                before=self.ln_1,
            )
        return feed_forward(hidden_states, up, down, activation, before=self.ln_2)
