"""MPNet."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import AttentionNorms, attention, is_for_all_heads, is_sparse, sparse_feed_forward
from aerogel.structure.position_bias import kept_bias


class FusedMPNetLayer(FusedBlock, MPNetLayer):
    """BERT's block with a bias of relative positions, computed without transformers' attention functions."""

    def fused(self: Any, call: BlockArguments) -> tuple[Tensor] | None:
        core, up, out = self.attention.attn, self.intermediate, self.output
        projections, mask = (core.q, core.k, core.v, core.o), call.attention_mask
        layers = sparse_feed_forward(up.dense, out.dense, up.intermediate_act_fn, after=out.LayerNorm)
        if not layers or not is_sparse(*projections) or not is_for_all_heads(mask):
            return None
        if mask is not None and mask.dtype == torch.bool:  # its own code adds what it gets
            return None
        x = attention(
            call.hidden_states,
            projections,
            sizes=(core.num_attention_heads, core.num_attention_heads, core.attention_head_size),
            scale=core.attention_head_size**-0.5,
            mask=mask,
            position_bias=kept_bias(core, call.position_bias),
            norms=AttentionNorms(after=self.attention.LayerNorm),
            feed_forward=layers,
        )
        return (x,)
