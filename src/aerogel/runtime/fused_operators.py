"""The operators that fused blocks call; they need the native kernels.

torch passes tensors, lists and numbers to an operator, one by one, and no records. So the arguments after the first are
the fields of a named tuple, in order. A norm is its weight and bias, or an empty list for none.
"""

from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.attention_inputs import attention_mask, position_bias, relative_positions, rotary, spread
from aerogel.runtime.kernel import fields, required
from aerogel.runtime.operators import (
    LayerKey,
    addresses,
    define,
    kept_records,
    layer_key,
    native_linear,
    native_norm,
    project,
)

Angles = tuple[Tensor, Tensor]
SCHEMA_TYPES: dict[Any, str] = {Tensor | None: "Tensor?", list[Tensor]: "Tensor[]", list[int]: "int[]"}
SCHEMA_TYPES |= {kind: kind.__name__ for kind in (int, float, bool, str)}


class FeedForwardArguments(NamedTuple):
    """after(x + branch(down(activation(gate n) * up n))), n = before(x); with an empty `gate`, down(activation(up n)).

    If they are `joined`, `up` has the rows of both, and those of the gate first. `blocks` are those of gate, up and
    down; `epsilon`, `centred` (the mean is subtracted) and `offset` (added to the weight) apply to all norms.
    """

    gate: list[Tensor]
    up: list[Tensor]
    down: list[Tensor]
    blocks: list[int]
    joined: bool
    activation: str
    before: list[Tensor]
    branch: list[Tensor]
    after: list[Tensor]
    epsilon: float
    centred: bool
    offset: float


class HeadsArguments(NamedTuple):
    """Queries, keys and values of before(x), x (batch, length, features), side by side.

    If `key` and `value` are empty, `query` has the rows of all three. `sizes` are (heads, key heads, head size);
    `query_norm` and `key_norm` apply to each head; then `cosine` and `sine` (batch or 1, length, head size) rotate
    queries and keys.
    """

    query: list[Tensor]
    key: list[Tensor]
    value: list[Tensor]
    blocks: list[int]
    sizes: list[int]
    cosine: Tensor | None
    sine: Tensor | None
    before: list[Tensor]
    query_norm: list[Tensor]
    key_norm: list[Tensor]
    epsilon: float
    centred: bool
    offset: float


class AttentionArguments(NamedTuple):
    """after(x + branch(out(softmax(scale q kᵀ + mask) v))), where q, k, v are those of `HeadsArguments`.

    With `encoder_hidden_states` (batch, keys, features), k and v are of these. `mask` (batch or 1, 1, length or 1,
    keys) is added, or if it is boolean is true for visible keys. `position_bias` (batch or 1, heads, length, keys) is
    added too.

    Disentangled attention (DeBERTa, https://arxiv.org/abs/2006.03654, equation 4) adds the products of queries with
    `relative_keys`, and of keys with `relative_queries`, before the scale. Both are (2 length - 1, heads * head size):
    the rows for key - query, and for query - key, from 1 - length to length - 1.
    """

    encoder_hidden_states: Tensor | None
    out: list[Tensor]
    out_block: int
    scale: float
    causal: bool
    mask: Tensor | None
    position_bias: Tensor | None
    relative_keys: Tensor | None
    relative_queries: Tensor | None
    branch: list[Tensor]
    after: list[Tensor]


HEADS_END = len(HeadsArguments._fields)
ATTENTION_END = HEADS_END + len(AttentionArguments._fields)
NormKey = tuple[tuple[int, ...], float, bool, float]


def _projection_keys(call: HeadsArguments, columns: int, key_columns: int) -> tuple[LayerKey, ...]:
    weights = zip((call.query, call.key, call.value), (columns, key_columns, key_columns), call.blocks, strict=True)
    return tuple([layer_key(*weight) for weight in weights if weight[0]])


def _norm_key(norm: list[Tensor], call: HeadsArguments | FeedForwardArguments) -> NormKey:
    return addresses(norm), call.epsilon, call.centred, call.offset


@kept_records
def _projections(keys: tuple[LayerKey, ...], sizes: tuple[int, ...]) -> tuple[list[Any], int]:
    """The layers, and the number of their rows; raises `ModelError` unless these fit `sizes`."""
    heads, key_heads, size = sizes
    rows = [key.rows for key in keys]
    each = [heads * size, key_heads * size, key_heads * size]
    if key_heads < 1 or heads % key_heads or rows not in (each, [sum(each)]):
        raise ModelError(
            f"attention with {heads} heads and {key_heads} key heads of size {size} does not fit weights of "
            f"{', '.join(map(str, rows))} rows: check the model's configuration"
        )
    return [native_linear(key) for key in keys], sum(rows)


def heads(x: Tensor, *arguments: Any) -> Tensor:
    """What a block computes before its cache of keys: `HeadsArguments`."""
    call = HeadsArguments(*arguments)
    layers, rows = _projections(_projection_keys(call, x.shape[-1], x.shape[-1]), tuple(call.sizes))
    result = project(x.to(torch.float32), layers, native_norm(*_norm_key(call.before, call)), rows)
    module, (count, key_count, size) = required(), call.sizes
    keys = result[..., count * size :]
    for norm, start, some in (call.query_norm, result, count), (call.key_norm, keys, key_count):
        if norm:
            normed = module.Heads(*result.shape, some, size)
            module.normalise_heads(native_norm(*_norm_key(norm, call)), normed, start.data_ptr())
    record, angles = rotary((call.cosine, call.sine), x.shape[0], x.shape[1], size)
    if angles:
        module.apply_rotary(record, module.Heads(*result.shape, count + key_count, size), result.data_ptr())
    return result.to(x.dtype)


def _heads_shape(x: Tensor, *arguments: Any) -> Tensor:
    heads, key_heads, size = HeadsArguments(*arguments).sizes
    return x.new_empty((*x.shape[:-1], (heads + 2 * key_heads) * size))


def feed_forward(x: Tensor, *arguments: Any) -> Tensor:
    """`FeedForwardArguments`."""
    columns = x.shape[-1]
    layer = _feed_forward(columns, FeedForwardArguments(*arguments))
    x32 = x.to(torch.float32).contiguous()
    result = torch.empty_like(x32)
    required().feed_forward(layer, x32.data_ptr(), x32.numel() // columns, result.data_ptr(), torch.get_num_threads())
    return result.to(x.dtype)


def _feed_forward(columns: int, call: FeedForwardArguments) -> Any:
    gate_block, up_block, down_block = call.blocks
    up = layer_key(call.up, columns, up_block)
    hidden = up.rows // 2 if call.joined else up.rows
    return _native_feed_forward(
        tuple([_norm_key(norm, call) for norm in (call.before, call.branch, call.after)]),
        layer_key(call.gate, columns, gate_block) if call.gate else None,
        up,
        layer_key(call.down, hidden, down_block),
        (call.activation, call.joined),
    )


@kept_records
def _native_feed_forward(
    norms: tuple[NormKey, ...], gate: LayerKey | None, up: LayerKey, down: LayerKey, settings: tuple[str, bool]
) -> Any:
    module, (activation, joined) = required(), settings
    before, branch, after = [native_norm(*norm) for norm in norms]
    return fields(
        module.FeedForward(),
        before=before,
        branch=branch,
        after=after,
        gate=[native_linear(gate)] if gate else [],
        up=native_linear(up),
        down=native_linear(down),
        activation=getattr(module.Activation, activation),
        joined=joined,
    )


def attention(x: Tensor, *arguments: Any) -> Tensor:
    """`HeadsArguments` and `AttentionArguments`; in the operator `block`, `FeedForwardArguments` follow."""
    heads, call = HeadsArguments(*arguments[:HEADS_END]), AttentionArguments(*arguments[HEADS_END:ATTENTION_END])
    module, encoder = required(), call.encoder_hidden_states
    x32 = x.to(torch.float32).contiguous()
    result = torch.empty_like(x32)
    source = x32 if encoder is None else encoder.to(torch.float32).contiguous()
    batch, length, keys = *x.shape[:2], source.shape[1]
    if not length or not keys:
        raise ModelError(f"attention needs tokens, and was given {length} queries and {keys} keys")
    if encoder is not None:
        source = spread("the encoder's states", source, batch, *source.shape[1:]).expand(batch, -1, -1).contiguous()
    count, _, size = heads.sizes
    tables = call.relative_keys, call.relative_queries
    if encoder is not None and any(table is not None for table in tables):
        raise ModelError("relative positions of a text and an encoder's states are not defined")
    inputs = [
        attention_mask(call.mask, batch, length, keys),
        rotary((heads.cosine, heads.sine), batch, length, size),
        position_bias(call.position_bias, batch, count, length, keys),
        relative_positions(tables, 2 * length - 1, count * size),
    ]  # with the tensors, which live until the kernels return
    encoder_address = 0 if encoder is None else source.data_ptr()
    records = [record for record, _ in inputs]
    sequences = module.Sequences(x32.data_ptr(), batch, length, encoder_address, keys, *records)
    layer = _attention(heads, call, x.shape[-1], source.shape[-1])
    rest = arguments[ATTENTION_END:]
    next_layer = _feed_forward(x.shape[-1], FeedForwardArguments(*rest)) if rest else None
    module.attention(layer, next_layer, sequences, result.data_ptr(), torch.get_num_threads())
    return result.to(x.dtype)


def _attention(heads: HeadsArguments, call: AttentionArguments, columns: int, key_columns: int) -> Any:
    count, _, size = heads.sizes
    keys = _projection_keys(heads, columns, key_columns)
    own = len(keys) if call.encoder_hidden_states is None else 1
    norms = heads.before, heads.query_norm, heads.key_norm, call.branch, call.after
    return _native_attention(
        tuple([_norm_key(norm, heads) for norm in norms]),
        (keys, own),
        layer_key(call.out, count * size, call.out_block),
        tuple(heads.sizes),
        (call.scale, call.causal),
    )


@kept_records
def _native_attention(
    norms: tuple[NormKey, ...],
    projections: tuple[tuple[LayerKey, ...], int],
    out: LayerKey,
    sizes: tuple[int, ...],
    settings: tuple[float, bool],
) -> Any:
    """`projections` are the layers, and how many of them project x; `settings` are scale and causal."""
    keys, own = projections
    layers, _ = _projections(keys, sizes)
    heads, key_heads, head_size = sizes
    scale, causal = settings
    before, query_norm, key_norm, branch, after = [native_norm(*norm) for norm in norms]
    return fields(
        required().Attention(),
        before=before,
        query_norm=query_norm,
        key_norm=key_norm,
        branch=branch,
        after=after,
        from_x=layers[:own],
        from_encoder=layers[own:],
        out=native_linear(out),
        heads=heads,
        key_heads=key_heads,
        head_size=head_size,
        scale=scale,
        causal=causal,
    )


def decoder_block(
    heads: HeadsArguments, attention: AttentionArguments, feed_forward: FeedForwardArguments, columns: int
) -> Any:
    """The record of a block for `decode`; it holds addresses, so its tensors must be kept."""
    return required().DecoderBlock(_attention(heads, attention, columns, columns), _feed_forward(columns, feed_forward))


def decode(
    x: Tensor,
    blocks: list[Any],
    caches: list[Any],
    position: int,
    mask: Tensor | None,
    angles: Angles | None,
    size: int,
) -> Tensor:
    """The output of the last block for x (batch, 1, features), a token of each text at this position.

    Keys and values of the token are written into the caches, which hold `position` tokens. `angles`, if there are any,
    are cosine and sine, (batch or 1, 1, head size).
    """
    x = x.contiguous()
    result = torch.empty_like(x)
    native_mask, kept = attention_mask(mask, len(x), 1, position + 1)
    native_rotary, kept_angles = rotary(angles or (None, None), len(x), 1, size)
    tokens = required().NextTokens(x.data_ptr(), len(x), position, native_mask, native_rotary)
    required().decode(blocks, caches, tokens, result.data_ptr(), torch.get_num_threads())
    del kept, kept_angles  # read until here
    return result


def _same_shape(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _schema(arguments: type[NamedTuple], prefix: str = "") -> str:
    return ", ".join(f"{SCHEMA_TYPES[kind]} {prefix}{name}" for name, kind in get_type_hints(arguments).items())


ATTENTION = f"{_schema(HeadsArguments)}, {_schema(AttentionArguments)}"
define(f"heads(Tensor x, {_schema(HeadsArguments)}) -> Tensor", heads, _heads_shape)
define(f"feed_forward(Tensor x, {_schema(FeedForwardArguments)}) -> Tensor", feed_forward, _same_shape)
define(f"attention(Tensor x, {ATTENTION}) -> Tensor", attention, _same_shape)
define(
    f"block(Tensor x, {ATTENTION}, {_schema(FeedForwardArguments, 'next_')}) -> Tensor",
    attention,
    _same_shape,
)
