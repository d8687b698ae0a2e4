"""DistilBERT."""

from typing import Any

from torch import Tensor
from transformers.models.distilbert.modeling_distilbert import TransformerBlock

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import AttentionNorms, attention, can_attend, is_sparse, sparse_feed_forward


class FusedTransformerBlock(FusedBlock, TransformerBlock):
    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, config, ffn = self.attention, self.attention.config, self.ffn
        projections = core.q_lin, core.k_lin, core.v_lin, core.out_lin
        layers = sparse_feed_forward(ffn.lin1, ffn.lin2, config.activation, after=self.output_layer_norm)
        if not layers or not is_sparse(*projections) or not can_attend(config, call.attention_mask):
            return None
        return attention(
            call.hidden_states,
            projections,
            sizes=(core.n_heads, core.n_heads, core.attention_head_size),
            scale=core.scaling,
            mask=call.attention_mask,
            norms=AttentionNorms(after=self.sa_layer_norm),
            feed_forward=layers,
        )
