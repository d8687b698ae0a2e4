"""DeBERTa-v2, DeBERTa-v3."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock
from aerogel.runtime.fused.calls import (
    AttentionNorms,
    attention,
    is_for_all_heads,
    is_sparse,
    lowest_where_hidden,
    sparse_feed_forward,
)


class FusedDebertaV2Layer(FusedBlock, DebertaV2Layer):
    """BERT's block with disentangled attention, computed without transformers' attention functions."""

    def fused(self: Any, call: BlockArguments) -> tuple[Tensor, None] | None:
        core, own, out, mask = self.attention.self, self.attention.output, self.output, call.attention_mask
        projections = core.query_proj, core.key_proj, core.value_proj, own.dense
        layers = sparse_feed_forward(
            self.intermediate.dense, out.dense, self.intermediate.intermediate_act_fn, after=out.LayerNorm
        )
        if not layers or not is_sparse(*projections) or mask is None or not is_for_all_heads(mask):
            return None
        if core.relative_attention and not _has_distances(call):
            return None
        terms = 1 + sum(kind in core.pos_att_type for kind in ("c2p", "p2c"))
        x = attention(
            call.hidden_states,
            projections,
            sizes=(core.num_attention_heads, core.num_attention_heads, core.attention_head_size),
            scale=(core.attention_head_size * terms) ** -0.5,
            mask=lowest_where_hidden(mask.bool()),
            relative=_relative(core, call) if core.relative_attention else (None, None),
            norms=AttentionNorms(after=own.LayerNorm),
            feed_forward=layers,
        )
        return x, None


def _has_distances(call: BlockArguments) -> bool:
    """Whether the relative positions (1, length, length) depend on query - key alone, as the model's own do."""
    positions, length = call.relative_pos, call.hidden_states.shape[1]
    if positions is None or call.rel_embeddings is None or positions.shape != (1, length, length):
        return False
    return torch.compiler.is_compiling() or torch.equal(positions[:, 1:, 1:], positions[:, :-1, :-1])


def _relative(core: Any, call: BlockArguments) -> tuple[Tensor | None, Tensor | None]:
    """The projected embeddings of relative positions, a row for each distance: keys (c2p) and queries (p2c)."""
    assert call.relative_pos is not None
    assert call.rel_embeddings is not None
    positions, span = call.relative_pos[0], core.pos_ebd_size
    buckets = torch.cat([positions[:, 0].flip(0), positions[0, 1:]])  # by key - query, from 1 - length on
    embeddings = call.rel_embeddings[: 2 * span]

    def rows(layer: Any, buckets: Tensor) -> Tensor:
        index = (buckets + span).clamp(0, 2 * span - 1)
        few = len(index) < len(embeddings)
        projected: Tensor = layer(embeddings[index]) if few else layer(embeddings)[index]
        return projected

    key = core.key_proj if core.share_att_key else getattr(core, "pos_key_proj", None)
    query = core.query_proj if core.share_att_key else getattr(core, "pos_query_proj", None)
    return (
        rows(key, buckets) if "c2p" in core.pos_att_type else None,
        rows(query, -buckets) if "p2c" in core.pos_att_type else None,
    )
