"""Attentions of T5 and MPNet whose heads get a bias of positions: the kept heads select theirs from that of all heads.

One layer computes the bias and all others get the same one, so it stays that of all original heads.
"""

from typing import Any

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention
from transformers.models.t5.modeling_t5 import T5Attention


class KeptMPNetAttention(MPNetSelfAttention):
    kept_heads: list[int]

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **keywords: Any
    ) -> Any:
        if position_bias is not None:
            position_bias = position_bias[:, self.kept_heads]
        return super().forward(hidden_states, attention_mask, position_bias, **keywords)


class KeptT5Attention(T5Attention):
    kept_heads: list[int]
    original_heads: int

    def forward(
        self, hidden_states: Tensor, *arguments: Any, position_bias: Tensor | None = None, **keywords: Any
    ) -> Any:
        """The bias that it returns, (1, original heads, length, keys), is that for the next layer."""
        if position_bias is not None:
            kept = position_bias[:, self.kept_heads]
            output, _, weights = super().forward(hidden_states, *arguments, position_bias=kept, **keywords)
            return output, position_bias, weights
        cache = keywords.get("cache", keywords.get("past_key_values"))
        past = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        past = past.clone() if isinstance(past, Tensor) else past  # that of a static cache grows in place
        output, kept, weights = super().forward(hidden_states, *arguments, **keywords)
        return output, self.bias_of_all_heads(kept.shape[2], kept, past), weights

    def compute_bias(self, *arguments: Any, **keywords: Any) -> Tensor:
        """(1, kept heads, length, keys)."""
        return super().compute_bias(*arguments, **keywords)[:, self.kept_heads]

    def bias_of_all_heads(self, length: int, kept: Tensor, past: Any) -> Tensor:
        if not self.has_relative_attention_bias:  # zeros
            return kept[:, :1].expand(-1, self.original_heads, -1, -1)
        return super().compute_bias(length, kept.shape[3], device=kept.device, past_seen_tokens=past)


KEPT = {"T5Attention": KeptT5Attention, "MPNetSelfAttention": KeptMPNetAttention}
