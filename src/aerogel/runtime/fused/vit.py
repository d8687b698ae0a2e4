"""ViT, DeiT."""

from typing import Any

from torch import Tensor
from transformers.models.deit.modeling_deit import DeiTLayer
from transformers.models.vit.modeling_vit import ViTLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import AttentionNorms, attention, can_attend, is_sparse, sparse_feed_forward


class _FusedViT(FusedBlock):
    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, config = self.attention, self.attention.config
        projections = core.q_proj, core.k_proj, core.v_proj, core.o_proj
        layers = sparse_feed_forward(self.mlp.fc1, self.mlp.fc2, config.hidden_act, before=self.layernorm_after)
        if not layers or not is_sparse(*projections) or not can_attend(config, call.attention_mask):
            return None
        return attention(
            call.hidden_states,
            projections,
            sizes=(core.num_attention_heads, core.num_attention_heads, core.head_dim),
            scale=core.scaling,
            mask=call.attention_mask,
            norms=AttentionNorms(before=self.layernorm_before),
            feed_forward=layers,
        )


class FusedViTLayer(_FusedViT, ViTLayer):
    pass


class FusedDeiTLayer(_FusedViT, DeiTLayer):
    pass
