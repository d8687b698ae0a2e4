"""Llama, and what the blocks of many decoders share with it."""

from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    AttentionNorms,
    DecoderLayers,
    FeedForward,
    can_attend,
    causal_attention,
    is_sparse,
    sparse_feed_forward,
)


class LlamaLike(FusedBlock):
    """Llama's block and those like it: causal attention with rotary positions, then gated feed-forward layers."""

    def attention_norms(self: Any) -> AttentionNorms:
        return AttentionNorms(before=self.input_layernorm)

    def feed_forward_norms(self: Any) -> tuple[nn.Module, nn.Module | None]:
        """Of the layers' input, and of what they add to it."""
        return self.post_attention_layernorm, None

    def decoder_layers(self: Any) -> DecoderLayers | None:
        core = self.self_attn
        projections = core.q_proj, core.k_proj, core.v_proj, core.o_proj
        if not is_sparse(*projections) or getattr(core, "attn_logit_softcapping", None):
            return None
        heads, key_heads = (layer.out_features // core.head_dim for layer in (core.q_proj, core.k_proj))
        sizes = heads, key_heads, core.head_dim
        return DecoderLayers(core, projections, sizes, self.attention_norms(), self._sparse_layers())

    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, attention = self.self_attn, self.decoder_layers()
        if attention and can_attend(core.config, call.attention_mask) and call.position_embeddings:
            x = causal_attention(call, attention)
            return x if attention.feed_forward else self._dense_layers(x)
        norms, layers = self.attention_norms(), self._sparse_layers()
        if not layers:
            return None
        attended, _ = core(
            self.input_layernorm(call.hidden_states),
            attention_mask=call.attention_mask,
            position_embeddings=call.position_embeddings,
            **self.cache_argument(call),
            **call.others,
        )
        return layers(call.hidden_states + (norms.branch(attended) if norms.branch else attended))

    def _sparse_layers(self: Any) -> FeedForward | None:
        mlp, config = self.mlp, self.self_attn.config
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        before, branch = self.feed_forward_norms()
        return sparse_feed_forward(
            mlp.up_proj, mlp.down_proj, activation, gate=mlp.gate_proj, before=before, branch=branch
        )

    def _dense_layers(self: Any, x: Tensor) -> Tensor:
        before, branch = self.feed_forward_norms()
        added = self.mlp(before(x))
        return x + (branch(added) if branch else added)


class FusedLlamaDecoderLayer(LlamaLike, LlamaDecoderLayer):
    pass
