"""Calls of the fused operators with modules in place of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aerogel.runtime.fused.block import BlockArguments
from aerogel.runtime.fused_operators import (
    AttentionArguments,
    FeedForwardArguments,
    HeadsArguments,
    decoder_block,
)
from aerogel.runtime.layers import SparseLinear
from aerogel.runtime.operators import as_float32, operate
from aerogel.runtime.transformers_private import attention_implementation

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
ONE_PLUS_WEIGHT = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")  # norms that multiply by 1 + weight
NAMES_OF_ACTIVATIONS = {type(ACT2FN[name]): name for name in ACTIVATIONS}
Angles = tuple[Tensor, Tensor] | tuple[None, None]  # cosine and sine


def is_sparse(*layers: nn.Module) -> bool:
    return all(isinstance(layer, SparseLinear) for layer in layers)


def can_attend(config: Any, mask: Tensor | None) -> bool:
    """Whether the fused attention can replace the family's: no attention weights, one mask for all heads."""
    return attention_implementation(config) == "sdpa" and is_for_all_heads(mask)


def is_for_all_heads(mask: Tensor | None) -> bool:
    return mask is None or (mask.dim() == 4 and mask.shape[1] == 1)


def lowest_where_hidden(mask: Tensor | None) -> Tensor | None:
    """An additive mask of the lowest number in place of a boolean one.

    A query without visible keys then gets the mean of all values, as families give that mask their scores this way.
    """
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)


def _arrays(layer: Any) -> list[Tensor]:
    return [] if layer is None else layer.arrays


def _blocks(*layers: Any) -> list[int]:
    return [0 if layer is None else layer.block for layer in layers]


def _norm(norm: Any) -> list[Tensor]:
    if norm is None:
        return []
    return [as_float32(tensor) for tensor in (norm.weight, getattr(norm, "bias", None)) if tensor is not None]


def _settings(norm: Any) -> tuple[float, bool, float]:
    """The epsilon of a norm, whether it subtracts the mean, and what it adds to its weight."""
    if norm is None:
        return 0.0, True, 0.0
    if isinstance(norm, nn.LayerNorm):
        return norm.eps, True, 0.0
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return epsilon, False, 1.0 if type(norm).__name__ in ONE_PLUS_WEIGHT else 0.0


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layers of a block: to be called, or passed to its attention."""

    up: Any
    down: Any
    activation: str
    gate: Any = None
    joined: bool = False  # `up` has the rows of both, and those of the gate first
    before: Any = None
    branch: Any = None
    after: Any = None

    @property
    def arguments(self) -> FeedForwardArguments:
        epsilon, centred, offset = _settings(self.before or self.after)
        return FeedForwardArguments(
            gate=_arrays(self.gate),
            up=self.up.arrays,
            down=self.down.arrays,
            blocks=_blocks(self.gate, self.up, self.down),
            joined=self.joined,
            activation=ACTIVATIONS[self.activation],
            before=_norm(self.before),
            branch=_norm(self.branch),
            after=_norm(self.after),
            epsilon=epsilon,
            centred=centred,
            offset=offset,
        )

    def __call__(self, x: Tensor) -> Tensor:
        self.up.check_input(x)
        return operate("feed_forward", x, *self.arguments)


class AttentionNorms(NamedTuple):
    """Norms of a block's attention: of x, of each head's queries and keys, of what is added to x, and of the sum."""

    before: Any = None
    query: Any = None
    key: Any = None
    branch: Any = None
    after: Any = None


def sparse_feed_forward(up: nn.Module, down: nn.Module, activation: Any, **others: Any) -> FeedForward | None:
    """The feed-forward layers, or `None` unless they are sparse, with an activation that the kernels have.

    `activation` is its name in transformers or its module; `others` are the other fields of `FeedForward`.
    """
    name = activation if isinstance(activation, str) else NAMES_OF_ACTIVATIONS.get(type(activation))
    gate = others.get("gate") or up
    return FeedForward(up, down, name, **others) if is_sparse(up, down, gate) and name in ACTIVATIONS else None


def attention(
    x: Tensor,
    layers: Sequence[Any],
    *,
    sizes: tuple[int, int, int],
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    relative: tuple[Tensor | None, Tensor | None] = (None, None),
    encoder_hidden_states: Tensor | None = None,
    angles: Angles = (None, None),
    norms: AttentionNorms,
    feed_forward: FeedForward | None = None,
) -> Tensor:
    """x + attention by `layers` (query, key, value, out), and `feed_forward` of that, in one operator.

    `relative` are the keys and the queries of relative positions in `AttentionArguments`.
    """
    query, key, value, out = layers
    source = x if encoder_hidden_states is None else encoder_hidden_states
    query.check_input(x)
    (key or query).check_input(source)
    heads = _heads((query, key, value), sizes, angles, norms)
    arguments = _attention_arguments(
        out, norms, scale
    )._replace(
        encoder_hidden_states=encoder_hidden_states,
        causal=causal and mask is None,  # a mask hides later tokens itself
        mask=None if mask is None else mask[..., : source.shape[1]],
        position_bias=position_bias,
        relative_keys=relative[0],
        relative_queries=relative[1],
    )
    if feed_forward is None:
        return operate("attention", x, *heads, *arguments)
    return operate("block", x, *heads, *arguments, *feed_forward.arguments)


def _attention_arguments(out: Any, norms: AttentionNorms, scale: float) -> AttentionArguments:
    """Causal attention of x to itself, without anything else added to the scores."""
    return AttentionArguments(
        encoder_hidden_states=None,
        out=out.arrays,
        out_block=out.block,
        scale=scale,
        causal=True,
        mask=None,
        position_bias=None,
        relative_keys=None,
        relative_queries=None,
        branch=_norm(norms.branch),
        after=_norm(norms.after),
    )


def _heads(
    layers: tuple[Any, Any, Any], sizes: tuple[int, int, int], angles: Angles, norms: AttentionNorms
) -> HeadsArguments:
    query, key, value = map(_arrays, layers)
    epsilon, centred, offset = _settings(norms.before or norms.after)
    return HeadsArguments(
        query=query,
        key=key,
        value=value,
        blocks=_blocks(*layers),
        sizes=list(sizes),
        cosine=angles[0],
        sine=angles[1],
        before=_norm(norms.before),
        query_norm=_norm(norms.query),
        key_norm=_norm(norms.key),
        epsilon=epsilon,
        centred=centred,
        offset=offset,
    )


@dataclass(frozen=True)
class DecoderLayers:
    """The layers of a decoder block: causal attention, then feed-forward layers.

    Attributes:
        core: the family's attention module.
        projections: query, key, value, out; or query with the rows of all three, None, None, out.
        sizes: heads, key heads, head size.
        rotary: whether queries and keys are rotated by their positions.
    """

    core: Any
    projections: tuple[Any, Any, Any, Any]
    sizes: tuple[int, int, int]
    norms: AttentionNorms
    feed_forward: FeedForward | None
    rotary: bool = True

    def heads(self, angles: Angles = (None, None)) -> HeadsArguments:
        return _heads(self.projections[:3], self.sizes, angles, self.norms)


def native_block(layers: DecoderLayers) -> Any:
    """The record of the kernels."""
    assert layers.feed_forward
    attention = _attention_arguments(layers.projections[3], layers.norms, layers.core.scaling)
    return decoder_block(layers.heads(), attention, layers.feed_forward.arguments, layers.projections[0].in_features)


def causal_attention(call: BlockArguments, layers: DecoderLayers) -> Tensor:
    """x + attention of each token to earlier ones and to those in the call's cache; then the feed-forward layers."""
    core, sizes, norms, feed_forward = layers.core, layers.sizes, layers.norms, layers.feed_forward
    x, mask, angles = call.hidden_states, call.attention_mask, call.position_embeddings or (None, None)
    if call.cache is None:
        settings = dict(sizes=sizes, scale=core.scaling, causal=core.is_causal, mask=mask, angles=angles, norms=norms)
        return attention(x, layers.projections, **settings, feed_forward=feed_forward)
    query, *_, out = layers.projections
    query.check_input(x)
    heads = operate("heads", x, *layers.heads(angles)).view(*x.shape[:2], -1, sizes[2]).transpose(1, 2)
    queries, keys, values = heads.split([sizes[0], sizes[1], sizes[1]], dim=1)
    cache = call.cache.self_attention_cache if isinstance(call.cache, EncoderDecoderCache) else call.cache
    keys, values = cache.update(keys, values, core.layer_idx)
    attended, _ = sdpa_attention_forward(core, queries, keys, values, mask, scaling=core.scaling)
    added = out(attended.reshape(*x.shape[:2], -1))
    x = x + (norms.branch(added) if norms.branch else added)
    return feed_forward(x) if feed_forward else x
