"""BART."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.bart.modeling_bart import BartAttention, BartDecoderLayer, BartEncoderLayer

from aerogel.runtime.fused.calls import ACTIVATIONS, FeedForward, attention, can_attend, is_sparse


def _bart_attention(
    block: nn.Module,
    x: Tensor,
    core: BartAttention,
    norm: nn.LayerNorm,
    mask: Tensor | None,
    memory: Tensor | None,
    cache: Any,
    kwargs: Any,
    then: FeedForward | None = None,
) -> Tensor:
    if (
        cache is None
        and is_sparse(block, core.q_proj, core.k_proj, core.v_proj, core.out_proj)
        and can_attend(core.config, mask)
    ):
        return attention(
            x,
            core.q_proj,
            core.k_proj,
            core.v_proj,
            core.out_proj,
            sizes=(core.num_heads, core.num_heads, core.head_dim),
            scale=core.scaling,
            causal=core.is_causal and memory is None,
            mask=mask,
            memory=memory,
            after=norm,
            then=then,
        )
    attended, _ = core(x, key_value_states=memory, attention_mask=mask, past_key_values=cache, **kwargs)
    x = norm(x + attended)
    return then(x) if then else x


class FusedBartEncoderLayer(BartEncoderLayer):
    def forward(self, hidden_states: Tensor, attention_mask: Any, **kwargs: Any) -> Tensor:
        activation = self.self_attn.config.activation_function
        if not is_sparse(self, self.fc1, self.fc2) or activation not in ACTIVATIONS:
            return super().forward(hidden_states, attention_mask, **kwargs)
        norm, layers = (
            self.self_attn_layer_norm,
            FeedForward(self.fc1, self.fc2, activation, after=self.final_layer_norm),
        )
        return _bart_attention(self, hidden_states, self.self_attn, norm, attention_mask, None, None, kwargs, layers)


class FusedBartDecoderLayer(BartDecoderLayer):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = True,
        **kwargs: Any,
    ) -> Tensor:
        activation = self.self_attn.config.activation_function
        if not is_sparse(self, self.fc1, self.fc2) or activation not in ACTIVATIONS:
            return super().forward(
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values,
                use_cache,
                **kwargs,
            )
        layers = FeedForward(self.fc1, self.fc2, activation, after=self.final_layer_norm)
        alone = encoder_hidden_states is None
        x = _bart_attention(
            self,
            hidden_states,
            self.self_attn,
            self.self_attn_layer_norm,
            attention_mask,
            None,
            past_key_values,
            kwargs,
            layers if alone else None,
        )
        if alone:
            return x
        return _bart_attention(
            self,
            x,
            self.encoder_attn,
            self.encoder_attn_layer_norm,
            encoder_attention_mask,
            encoder_hidden_states,
            past_key_values,
            kwargs,
            layers,
        )
