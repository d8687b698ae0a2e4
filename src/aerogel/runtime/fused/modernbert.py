"""ModernBERT."""

from typing import Any

from torch import Tensor, nn
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import AttentionNorms, attention, can_attend, is_sparse, sparse_feed_forward


class FusedModernBertEncoderLayer(FusedBlock, ModernBertEncoderLayer):
    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, mlp, config, heads = self.attn, self.mlp, self.config, self.config.num_attention_heads
        layers = sparse_feed_forward(mlp.Wi, mlp.Wo, config.hidden_activation, joined=True, before=self.mlp_norm)
        if not layers or not is_sparse(core.Wqkv, core.Wo) or not call.position_embeddings:
            return None
        if not can_attend(config, call.attention_mask):
            return None
        is_normed = not isinstance(self.attn_norm, nn.Identity)  # the first block is not: the embeddings are
        return attention(
            call.hidden_states,
            (core.Wqkv, None, None, core.Wo),
            sizes=(heads, heads, core.head_dim),
            scale=core.head_dim**-0.5,
            mask=call.attention_mask,
            angles=call.position_embeddings,
            norms=AttentionNorms(before=self.attn_norm if is_normed else None),
            feed_forward=layers,
        )
