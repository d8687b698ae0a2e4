"""BERT, RoBERTa, XLM-R, ELECTRA."""

from typing import Any

from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from aerogel.runtime.fused.block import BlockArguments, FusedBlock, has_inner_hooks
from aerogel.runtime.fused.calls import ACTIVATIONS, AttentionNorms, FeedForward, attention, can_attend, is_sparse
from aerogel.structure.empty import EmptyAttention


class _FusedBert(FusedBlock):
    """BERT's block and those like it: attention, then the feed-forward layers, each followed by a norm."""

    takes_empty = True

    def fused(self: Any, call: BlockArguments) -> Tensor | None:
        core, out = self.attention.self, self.attention.output
        if isinstance(core, EmptyAttention):
            return None
        projections = core.query, core.key, core.value, out.dense
        if call.encoder_hidden_states is not None or call.cache is not None:
            return None
        if not is_sparse(*projections) or not can_attend(core.config, call.attention_mask):
            return None
        layers = self._sparse_layers()
        attended = attention(
            call.hidden_states,
            projections,
            sizes=(core.num_attention_heads, core.num_attention_heads, core.attention_head_size),
            scale=core.scaling,
            causal=core.is_causal,
            mask=call.attention_mask,
            norms=AttentionNorms(after=out.LayerNorm),
            feed_forward=layers,
        )
        return attended if layers else super().feed_forward_chunk(attended)  # type: ignore[misc]

    def feed_forward_chunk(self: Any, attention_output: Tensor) -> Tensor:
        """Called after attention by the family's own forward."""
        layers = None if self.training or has_inner_hooks(self) else self._sparse_layers()
        return layers(attention_output) if layers else super().feed_forward_chunk(attention_output)  # type: ignore[misc]

    def _sparse_layers(self: Any) -> FeedForward | None:
        up, down, activation = self.intermediate.dense, self.output.dense, self.attention.self.config.hidden_act
        if not is_sparse(up, down) or activation not in ACTIVATIONS:
            return None
        return FeedForward(up, down, activation, after=self.output.LayerNorm)


class FusedBertLayer(_FusedBert, BertLayer):
    pass


class FusedRobertaLayer(_FusedBert, RobertaLayer):
    pass


class FusedXLMRobertaLayer(_FusedBert, XLMRobertaLayer):
    pass


class FusedElectraLayer(_FusedBert, ElectraLayer):
    pass
