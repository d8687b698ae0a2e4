"""The fused operators, called with modules instead of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aerogel.runtime.fused.block import BlockArguments
from aerogel.runtime.layers import SparseLinear

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def is_sparse(*layers: nn.Module) -> bool:
    return all(isinstance(layer, SparseLinear) for layer in layers)


def can_attend(config: Any, mask: Tensor | None) -> bool:
    """Whether the fused attention computes what the family's does: no weights to look at, one mask for all heads."""
    return config._attn_implementation == "sdpa" and (mask is None or (mask.dim() == 4 and mask.shape[1] == 1))


def _arrays(layer: Any) -> list[Tensor]:
    return [] if layer is None else layer.arrays


def _blocks(*layers: Any) -> list[int]:
    return [0 if layer is None else layer.block for layer in layers]


def _norm(norm: Any) -> list[Tensor]:
    if norm is None:
        return []
    return [tensor.float() for tensor in (norm.weight, getattr(norm, "bias", None)) if tensor is not None]


def _settings(norm: Any) -> tuple[float, bool]:
    """Its epsilon, and whether it subtracts the mean."""
    return (norm.eps, True) if isinstance(norm, nn.LayerNorm) else (norm.variance_epsilon, False)


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layers of a block, to be called, or to be handed to its attention."""

    up: Any
    down: Any
    activation: str
    gate: Any = None
    before: Any = None
    after: Any = None

    @property
    def arguments(self) -> list[Any]:
        return [
            _arrays(self.gate),
            self.up.arrays,
            self.down.arrays,
            _blocks(self.gate, self.up, self.down),
            ACTIVATIONS[self.activation],
            _norm(self.before),
            _norm(self.after),
            *_settings(self.before or self.after),
        ]

    def __call__(self, x: Tensor) -> Tensor:
        self.up.check_input(x)
        return torch.ops.aerogel.feed_forward(x, *self.arguments)


def attention(
    x: Tensor,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    *,
    sizes: tuple[int, int, int],
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
    memory: Tensor | None = None,
    angles: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    before: Any = None,
    after: Any = None,
    then: FeedForward | None = None,
) -> Tensor:
    """Attention, and `then` of its result, in one operator."""
    source = x if memory is None else memory
    query.check_input(x)
    (key or query).check_input(source)
    if mask is not None:
        mask = mask[..., : source.shape[1]]
    operator = torch.ops.aerogel.block if then else torch.ops.aerogel.attention
    return operator(
        x,
        memory,
        query.arrays,
        _arrays(key),
        _arrays(value),
        out.arrays,
        _blocks(query, key, value, out),
        sizes,
        scale,
        causal and mask is None,  # where there is a mask it has the order of time in it
        mask,
        *angles,
        _norm(before),
        _norm(after),
        *_settings(before or after),
        *(then.arguments if then else ()),
    )


def causal_attention(
    call: BlockArguments,
    core: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    *,
    sizes: tuple[int, int, int],
    before: Any,
    then: FeedForward | None,
) -> Tensor:
    """x + attention of each token to those before it, also in the call's cache, to which x is added, and `then` of it.

    `core` is the family's module.
    """
    x, mask, angles = call.hidden_states, call.attention_mask, call.position_embeddings or (None, None)
    if call.cache is None:
        return attention(
            x,
            query,
            key,
            value,
            out,
            sizes=sizes,
            scale=core.scaling,
            causal=True,
            mask=mask,
            angles=angles,
            before=before,
            then=then,
        )
    query.check_input(x)
    together = torch.ops.aerogel.heads(
        x,
        query.arrays,
        _arrays(key),
        _arrays(value),
        _blocks(query, key, value),
        sizes,
        *angles,
        _norm(before),
        *_settings(before),
    )
    each = together.view(*x.shape[:2], -1, sizes[2]).transpose(1, 2)
    queries, keys, values = each.split([sizes[0], sizes[1], sizes[1]], dim=1)
    cache = call.cache.self_attention_cache if isinstance(call.cache, EncoderDecoderCache) else call.cache
    keys, values = cache.update(keys, values, core.layer_idx)
    attended, _ = sdpa_attention_forward(core, queries, keys, values, mask, scaling=core.scaling)
    x = x + out(attended.reshape(*x.shape[:2], -1))
    return then(x) if then else x
