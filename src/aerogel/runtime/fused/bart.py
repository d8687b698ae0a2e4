"""BART."""

from typing import Any

from torch import Tensor, nn
from transformers.models.bart.modeling_bart import BartDecoderLayer, BartEncoderLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import ACTIVATIONS, AttentionNorms, FeedForward, attention, can_attend, is_sparse


class _FusedBart(FusedBlock):
    """Attention, in the decoder also cross-attention, then the feed-forward layers, each followed by a norm."""

    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        activation = self.self_attn.config.activation_function
        if not is_sparse(self.fc1, self.fc2) or activation not in ACTIVATIONS:
            return None
        layers = FeedForward(self.fc1, self.fc2, activation, after=self.final_layer_norm)
        crosses = call.encoder_hidden_states is not None
        first = None if crosses else layers
        x = self._attend(call, call.hidden_states, self.self_attn, self.self_attn_layer_norm, first)
        return self._attend(call, x, self.encoder_attn, self.encoder_attn_layer_norm, layers) if crosses else x

    def _attend(
        self: Any, call: BlockArguments, x: Tensor, core: Any, norm: nn.LayerNorm, feed_forward: FeedForward | None
    ) -> Tensor:
        crosses = core is not self.self_attn
        encoder = call.encoder_hidden_states if crosses else None
        mask = call.encoder_attention_mask if crosses else call.attention_mask
        projections = core.q_proj, core.k_proj, core.v_proj, core.out_proj
        if call.cache is None and is_sparse(*projections) and can_attend(core.config, mask):
            return attention(
                x,
                projections,
                sizes=(core.num_heads, core.num_heads, core.head_dim),
                scale=core.scaling,
                causal=core.is_causal and not crosses,
                mask=mask,
                encoder_hidden_states=encoder,
                norms=AttentionNorms(after=norm),
                feed_forward=feed_forward,
            )
        cache = self.cache_argument(call)
        attended, _ = core(x, key_value_states=encoder, attention_mask=mask, **cache, **call.others)
        x = norm(x + attended)
        return feed_forward(x) if feed_forward else x


class FusedBartEncoderLayer(_FusedBart, BartEncoderLayer):
    pass


class FusedBartDecoderLayer(_FusedBart, BartDecoderLayer):
    pass
