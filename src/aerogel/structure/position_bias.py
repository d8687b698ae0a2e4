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
        return super().forward(hidden_states, attention_mask, kept_bias(self, position_bias), **keywords)


class KeptT5Attention(T5Attention):
    kept_heads: list[int]
    original_heads: int

    def forward(
        self, hidden_states: Tensor, *arguments: Any, position_bias: Tensor | None = None, **keywords: Any
    ) -> Any:
        """As T5's; the bias that it gets and returns is that of all original heads, (1, heads, length, keys)."""
        cache = keywords.get("cache", keywords.get("past_key_values"))
        past = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        past = past.clone() if isinstance(past, Tensor) else past  # that of a static cache grows in place
        kept = kept_bias(self, position_bias)
        output, kept, weights = super().forward(hidden_states, *arguments, position_bias=kept, **keywords)
        if position_bias is None:
            position_bias = all_bias(self, hidden_states, kept.shape[3], past)
        return output, position_bias, weights

    def compute_bias(self, *arguments: Any, **keywords: Any) -> Tensor:
        """That of the kept heads, which the forward of T5 adds to their scores."""
        return super().compute_bias(*arguments, **keywords)[:, self.kept_heads]


def kept_bias(core: Any, bias: Tensor | None) -> Tensor | None:
    """The part of the kept heads in a bias of all original heads, (batch or 1, heads, length, keys)."""
    heads = getattr(core, "kept_heads", None)
    return bias if bias is None or heads is None else bias[:, heads]


def all_bias(core: T5Attention, x: Tensor, keys: int, past: Any = 0) -> Tensor:
    """The bias of all original heads in an attention of T5 that gets none from the layer before."""
    if core.has_relative_attention_bias:
        return T5Attention.compute_bias(core, x.shape[1], keys, device=x.device, past_seen_tokens=past)
    return x.new_zeros(1, getattr(core, "original_heads", core.n_heads), x.shape[1], keys)


KEPT = {"T5Attention": KeptT5Attention, "MPNetSelfAttention": KeptMPNetAttention}
