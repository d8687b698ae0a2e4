"""BERT, RoBERTa."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer

from aerogel.runtime.fused.calls import ACTIVATIONS, FeedForward, attention, can_attend, is_sparse


class _FusedBert:
    """BERT's block and those written after it: attention, then the feed-forward layers, each normalised afterwards."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        core, out = self.attention.self, self.attention.output
        if (
            encoder_hidden_states is not None
            or not is_sparse(self, core.query, core.key, core.value, out.dense)
            or past_key_values is not None
            or not can_attend(core.config, attention_mask)
        ):
            return super().forward(  # type: ignore[misc]
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        layers = self._sparse_layers()
        attended = attention(
            hidden_states,
            core.query,
            core.key,
            core.value,
            out.dense,
            sizes=(core.num_attention_heads, core.num_attention_heads, core.attention_head_size),
            scale=core.scaling,
            causal=core.is_causal,
            mask=attention_mask,
            after=out.LayerNorm,
            then=layers,
        )
        return attended if layers else super().feed_forward_chunk(attended)  # type: ignore[misc]

    def feed_forward_chunk(self: Any, attention_output: Tensor) -> Tensor:
        layers = self._sparse_layers()
        return layers(attention_output) if layers else super().feed_forward_chunk(attention_output)  # type: ignore[misc]

    def _sparse_layers(self: Any) -> FeedForward | None:
        up, down, activation = self.intermediate.dense, self.output.dense, self.attention.self.config.hidden_act
        if not is_sparse(self, up, down) or activation not in ACTIVATIONS:
            return None
        return FeedForward(up, down, activation, after=self.output.LayerNorm)


class FusedBertLayer(_FusedBert, BertLayer):
    pass


class FusedRobertaLayer(_FusedBert, RobertaLayer):
    pass
