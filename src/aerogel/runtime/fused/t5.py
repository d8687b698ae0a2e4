"""T5."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Block

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    AttentionNorms,
    FeedForward,
    attention,
    can_attend,
    is_sparse,
    lowest_where_hidden,
    sparse_feed_forward,
)
from aerogel.structure.position_bias import all_bias, kept_bias


class FusedT5Block(FusedBlock, T5Block):
    """Attention with a bias of positions, in the decoder also cross-attention, then the feed-forward layers."""

    def fused(self: Any, call: BlockArguments) -> tuple[Tensor, Tensor, Tensor | None] | None:
        dense, norm = self.layer[-1].DenseReluDense, self.layer[-1].layer_norm
        is_gated = hasattr(dense, "wi_0")
        up, gate = (dense.wi_1, dense.wi_0) if is_gated else (dense.wi, None)
        layers = sparse_feed_forward(up, dense.wo, dense.act, gate=gate, before=norm)
        if not layers or call.hidden_states.dtype == torch.float16:  # which is clamped between layers
            return None
        crosses = self.is_decoder and call.encoder_hidden_states is not None
        first = None if crosses else layers
        x, bias = self._attend(call, call.hidden_states, self.layer[0], first)
        if not crosses:
            return x, bias, None
        x, encoder_bias = self._attend(call, x, self.layer[1], layers)
        return x, bias, encoder_bias

    def _attend(
        self: Any, call: BlockArguments, x: Tensor, layer: Any, feed_forward: FeedForward | None
    ) -> tuple[Tensor, Tensor]:
        """The output of one attention, and of `feed_forward` if that follows, and the bias that was used."""
        crosses = layer is not self.layer[0]
        core = layer.EncDecAttention if crosses else layer.SelfAttention
        encoder = call.encoder_hidden_states if crosses else None
        mask = call.encoder_attention_mask if crosses else call.attention_mask
        bias = call.encoder_decoder_position_bias if crosses else call.position_bias
        projections = core.q, core.k, core.v, core.o
        if call.cache is None and is_sparse(*projections) and can_attend(core.config, mask):
            bias = all_bias(core, x, (x if encoder is None else encoder).shape[1]) if bias is None else bias
            x = attention(
                x,
                projections,
                sizes=(core.n_heads, core.n_heads, core.key_value_proj_dim),
                scale=1.0,
                causal=self.is_decoder and not crosses,
                mask=lowest_where_hidden(mask),
                position_bias=kept_bias(core, bias),
                encoder_hidden_states=encoder,
                norms=AttentionNorms(before=layer.layer_norm),
                feed_forward=feed_forward,
            )
            return x, bias
        states = {"key_value_states": encoder} if crosses else {}
        cache = self.cache_argument(call)
        x, bias, _ = layer(x, attention_mask=mask, position_bias=bias, **states, **cache, **call.others)
        return (feed_forward(x) if feed_forward else x), bias
