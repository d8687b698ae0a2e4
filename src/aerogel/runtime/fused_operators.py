"""The operators that fused blocks call; they need the native kernels.

torch passes tensors, lists and numbers to an operator, one by one, and no records. So the arguments after the first are
the fields of a named tuple, in order. A norm is its weight and bias, or an empty list for none.
"""

from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from aerogel.errors import ModelError
from aerogel.runtime.kernel import fields, required, threads
from aerogel.runtime.operators import define, native_linear, native_norm, project, weight_shape

SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    list[int]: "int[]",
}
SCHEMA_TYPES |= {kind: kind.__name__ for kind in (int, float, bool, str)}


class FeedForwardArguments(NamedTuple):
    """after(x + down(activation(gate n) * up n)), n = before(x); with an empty `gate`, down(activation(up n)).

    `blocks` are those of gate, up and down; `epsilon` and `centred` (the mean is subtracted)
    apply to both norms.
    """

    gate: list[Tensor]
    up: list[Tensor]
    down: list[Tensor]
    blocks: list[int]
    activation: str
    before: list[Tensor]
    after: list[Tensor]
    epsilon: float
    centred: bool


class HeadsArguments(NamedTuple):
    """Queries, keys and values of before(x), side by side; the other fields are those of `AttentionArguments`."""

    query: list[Tensor]
    key: list[Tensor]
    value: list[Tensor]
    blocks: list[int]
    sizes: list[int]
    cosine: Tensor | None
    sine: Tensor | None
    before: list[Tensor]
    epsilon: float
    centred: bool


class AttentionArguments(NamedTuple):
    """after(x + out(softmax(scale q kᵀ + mask) v)) over (batch, length, features), q, k, v of before(x).

    With `encoder_hidden_states` (batch, keys, features), k and v are of these. If `key` and `value` are empty, `query`
    has the rows of all three. `sizes` are (heads, key heads, head size); `mask` (batch or 1, 1, length or 1, keys) is
    added, or if it is boolean is true for visible keys; `cosine` and `sine` (batch or 1, length, head size) rotate
    queries and keys.
    """

    encoder_hidden_states: Tensor | None
    query: list[Tensor]
    key: list[Tensor]
    value: list[Tensor]
    out: list[Tensor]
    blocks: list[int]
    sizes: list[int]
    scale: float
    causal: bool
    mask: Tensor | None
    cosine: Tensor | None
    sine: Tensor | None
    before: list[Tensor]
    after: list[Tensor]
    epsilon: float
    centred: bool


def _check_heads(rows: list[int], sizes: list[int]) -> None:
    """Raises `ModelError` unless the weights have the rows that queries, keys and values of these `sizes` need."""
    heads, key_heads, size = sizes
    each = [heads * size, key_heads * size, key_heads * size]
    if key_heads < 1 or heads % key_heads or rows not in (each, [sum(each)]):
        raise ModelError(
            f"attention with {heads} heads and {key_heads} key heads of size {size} does not fit weights of "
            f"{', '.join(map(str, rows))} rows: check the model's configuration"
        )


def _spread(what: str, tensor: Tensor, batch: int, *sizes: int) -> Tensor:
    """Expands a tensor of shape (batch or 1, *sizes), where any size may be 1, to all sizes but the batch.

    The kernels compute addresses from these sizes, so another shape raises `ModelError`.
    """
    fits = tensor.dim() == 1 + len(sizes) and len(tensor) in (1, batch)
    if not fits or any(length not in (1, size) for length, size in zip(tensor.shape[1:], sizes, strict=True)):
        raise ModelError(f"{what} of shape {tuple(tensor.shape)}, expected {(batch, *sizes)}")
    return tensor.expand(-1, *sizes).contiguous()


def _angles(x: Tensor, arguments: HeadsArguments | AttentionArguments) -> list[Tensor]:
    """Cosine and sine, (batch or 1, length, head size); none without rotary positions."""
    both = [angle.to(torch.float32) for angle in (arguments.cosine, arguments.sine) if angle is not None]
    return [_spread("rotary angles", angle, *x.shape[:2], arguments.sizes[2]) for angle in both]


def _rotary(angles: list[Tensor]) -> Any:
    cosine, sine = angles
    batch_stride = 0 if cosine.shape[0] == 1 else cosine.shape[1] * cosine.shape[2]
    return required().Rotary(cosine.data_ptr(), sine.data_ptr(), batch_stride)


def heads(x: Tensor, *arguments: Any) -> Tensor:
    """What a block computes before its cache of keys: `HeadsArguments`."""
    call = HeadsArguments(*arguments)
    weights = [(w, block) for w, block in zip((call.query, call.key, call.value), call.blocks, strict=True) if w]
    rows = [weight_shape(weight, x.shape[-1], block)[0] for weight, block in weights]
    _check_heads(rows, call.sizes)
    layers = [native_linear(weight, x.shape[-1], block) for weight, block in weights]
    before = native_norm(call.before, call.epsilon, call.centred)
    result = project(x.to(torch.float32), layers, before, sum(rows))
    if angles := _angles(x, call):
        module, (batch, length, features) = required(), result.shape
        count, size = call.sizes[0] + call.sizes[1], call.sizes[2]
        rotated = module.Heads(batch, length, features, count, size)
        module.apply_rotary(_rotary(angles), rotated, result.data_ptr())
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
    required().feed_forward(layer, x32.data_ptr(), x32.numel() // columns, result.data_ptr(), threads())
    return result.to(x.dtype)


def _feed_forward(columns: int, call: FeedForwardArguments) -> Any:
    gate_block, up_block, down_block = call.blocks
    module = required()
    return fields(
        module.FeedForward(),
        before=native_norm(call.before, call.epsilon, call.centred),
        after=native_norm(call.after, call.epsilon, call.centred),
        gate=[native_linear(call.gate, columns, gate_block)] if call.gate else [],
        up=native_linear(call.up, columns, up_block),
        down=native_linear(call.down, weight_shape(call.up, columns, up_block)[0], down_block),
        activation=getattr(module.Activation, call.activation),
    )


def attention(x: Tensor, *arguments: Any) -> Tensor:
    """`AttentionArguments`; in the operator `block`, `FeedForwardArguments` for the layers after attention follow."""
    call, rest = AttentionArguments(*arguments[:ATTENTION_COUNT]), arguments[ATTENTION_COUNT:]
    module, encoder = required(), call.encoder_hidden_states
    x32 = x.to(torch.float32).contiguous()
    result = torch.empty_like(x32)
    source = x32 if encoder is None else encoder.to(torch.float32).contiguous()
    if not x.shape[1] or not source.shape[1]:
        raise ModelError(f"attention needs tokens, and was given {x.shape[1]} queries and {source.shape[1]} keys")
    batch, length, keys = *x.shape[:2], source.shape[1]
    if encoder is not None:
        source = _spread("the encoder's states", source, batch, *source.shape[1:]).expand(batch, -1, -1).contiguous()
    layer = _attention(call, x.shape[-1], source.shape[-1])
    mask, angles = None, _angles(x, call)  # kept alive while the kernels read them
    if call.mask is not None:
        queries = length if call.mask.shape[-2] > 1 else 1
        mask = _spread("an attention mask", _additive(call.mask), batch, 1, queries, keys)
        batch_stride = 0 if len(mask) == 1 else queries * keys
        layer.mask = module.Mask(mask.data_ptr(), batch_stride, 0 if queries == 1 else keys)
    if angles:
        layer.rotary = _rotary(angles)
    sequences = module.Sequences(x32.data_ptr(), batch, length, 0 if encoder is None else source.data_ptr(), keys)
    next_layer = _feed_forward(x.shape[-1], FeedForwardArguments(*rest)) if rest else None
    module.attention(layer, next_layer, sequences, result.data_ptr(), threads())
    return result.to(x.dtype)


def _attention(call: AttentionArguments, features: int, encoder_features: int) -> Any:
    """The layers; raises `ModelError` where their sizes do not fit each other."""
    blocks, (heads, key_heads, size) = call.blocks, call.sizes
    pairs = [(w, block) for w, block in zip((call.key, call.value), blocks[1:3], strict=True) if w]
    rows = [weight_shape(call.query, features, blocks[0])[0]]
    rows += [weight_shape(weight, encoder_features, block)[0] for weight, block in pairs]
    _check_heads(rows, call.sizes)
    query = native_linear(call.query, features, blocks[0])
    others = [native_linear(weight, encoder_features, block) for weight, block in pairs]
    crosses = call.encoder_hidden_states is not None
    return fields(
        required().Attention(),
        before=native_norm(call.before, call.epsilon, call.centred),
        after=native_norm(call.after, call.epsilon, call.centred),
        from_x=[query] if crosses else [query, *others],
        from_encoder=others if crosses else [],
        out=native_linear(call.out, heads * size, blocks[3]),
        heads=heads,
        key_heads=key_heads,
        head_size=size,
        scale=call.scale,
        causal=call.causal,
    )


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    return mask.to(torch.float32).contiguous()


def _same_shape(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _schema(arguments: type[NamedTuple], prefix: str = "") -> str:
    return ", ".join(f"{SCHEMA_TYPES[kind]} {prefix}{name}" for name, kind in get_type_hints(arguments).items())


ATTENTION_COUNT = len(AttentionArguments._fields)
define(f"heads(Tensor x, {_schema(HeadsArguments)}) -> Tensor", heads, _heads_shape)
define(f"feed_forward(Tensor x, {_schema(FeedForwardArguments)}) -> Tensor", feed_forward, _same_shape)
define(f"attention(Tensor x, {_schema(AttentionArguments)}) -> Tensor", attention, _same_shape)
define(
    f"block(Tensor x, {_schema(AttentionArguments)}, {_schema(FeedForwardArguments, 'next_')}) -> Tensor",
    attention,
    _same_shape,
)
