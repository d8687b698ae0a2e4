"""GPT-2."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from aerogel.runtime.fused.calls import ACTIVATIONS, FeedForward, can_attend, causal_attention, is_sparse


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
        layers = FeedForward(up, down, activation, before=self.ln_2)
        if is_sparse(self, core.c_attn, core.c_proj) and can_attend(config, attention_mask):
            return causal_attention(
                hidden_states,
                core,
                core.c_attn,
                None,
                None,
                core.c_proj,
                sizes=(core.num_heads, core.num_heads, core.head_dim),
                cache=past_key_values,
                mask=attention_mask,
                before=self.ln_1,
                then=layers,
            )
        attended, _ = core(
            self.ln_1(hidden_states),
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        return layers(attended + hidden_states)
