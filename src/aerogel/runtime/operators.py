"""The operators that sparse layers call, known to torch, so that compiling and exporting a model see through them.

A packed weight goes in as the list of its tensors, with its bias as a last one where it has one; a norm as its weight
and bias, or an empty list for none. Activations are (..., features) of any floating type, computed in float32 and given
back in their own. The fused ones need the native kernels; results of all are deterministic for a number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError
from aerogel.runtime.kernel import native, threads
from aerogel.runtime.packed import Format, PackedWeight, native_matrix

LIBRARY = torch.library.Library("aerogel", "DEF")


def not_on(device: torch.device) -> ModelError:
    return ModelError(
        f"a compressed model runs on the CPU alone, not on {device}: call aerogel.decompress(model) before it is moved"
    )


def not_exported(form: str) -> ModelError:
    return ModelError(
        f"{form} has no operators for packed weights: call aerogel.decompress(model) before it is exported"
    )


def _define(schema: str, run: Any, shape: Any) -> None:
    """Registers `run` for the CPU, `shape` to trace with, and a backward pass and other devices that say what to do."""
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))

    def traced(*inputs: Any) -> Any:
        if torch.onnx.is_in_onnx_export():
            raise not_exported("ONNX")
        return shape(*inputs)

    LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"aerogel::{name}", traced, lib=LIBRARY)

    def elsewhere(x: Tensor, *others: Any) -> Any:
        raise not_on(x.device)

    def backward(context: Any, gradient: Tensor) -> Any:
        raise ModelError("a compressed model can't be trained: call aerogel.decompress(model) first")

    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_autograd(f"aerogel::{name}", backward, lib=LIBRARY)


def _shape(weight: list[Tensor], columns: int, block: int) -> tuple[int, int]:
    return weight[2].shape[0] // -(-columns // block), columns


def _linear(weight: list[Tensor], columns: int, block: int) -> Any:
    module = native()
    assert module is not None
    matrix = native_matrix(_shape(weight, columns, block), block, *weight[:4])
    return module.Linear(matrix, weight[4].data_ptr() if len(weight) > 4 else 0)


def linear(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    shape = _shape(weight, x.shape[-1], block)
    if native() is None:
        return _linear_with_torch(x, weight, shape, block)
    return _project(x, [_linear(weight, shape[1], block)], _norm([], 0, True), shape[0])


def _project(x: Tensor, layers: list[Any], before: Any, rows: int) -> Tensor:
    module = native()
    assert module is not None
    given = x.to(torch.float32).contiguous()
    result = given.new_empty((*x.shape[:-1], rows))
    module.project(before, layers, given.data_ptr(), given.numel() // x.shape[-1], result.data_ptr(), threads())
    return result.to(x.dtype)


def _linear_with_torch(x: Tensor, weight: list[Tensor], shape: tuple[int, int], block: int) -> Tensor:
    values, index, order, offsets, *bias = weight
    dense = PackedWeight(Format.CELLS, shape, torch.float32, block, values, index, order, offsets).to_dense()
    return functional.linear(x.float(), dense, *bias).to(x.dtype)


def _linear_shape(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], _shape(weight, x.shape[-1], block)[0]))


_define("linear(Tensor x, Tensor[] weight, int block) -> Tensor", linear, _linear_shape)


def dense(values: Tensor, index: Tensor, order: Tensor, offsets: Tensor, columns: int, block: int) -> Tensor:
    """The packed weight as a (d_out, d_in) matrix in float32."""
    shape = _shape([values, index, order, offsets], columns, block)
    return PackedWeight(Format.CELLS, shape, torch.float32, block, values, index, order, offsets).to_dense()


def _dense_weight_shape(
    values: Tensor, index: Tensor, order: Tensor, offsets: Tensor, columns: int, block: int
) -> Tensor:
    return values.new_empty(_shape([values, index, order, offsets], columns, block), dtype=torch.float32)


_define(
    "dense(Tensor values, Tensor index, Tensor order, Tensor offsets, int columns, int block) -> Tensor",
    dense,
    _dense_weight_shape,
)


def dense_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ for a dense float32 W. For one token reading W is all the time, and all threads read; torch's uses one."""
    module = native()
    if module is None or x.shape[-1] != weight.shape[1] or x.numel() != weight.shape[1]:
        return functional.linear(x, weight)
    given = x.contiguous()
    result = given.new_empty((*x.shape[:-1], weight.shape[0]))
    module.dense_vector(weight.data_ptr(), *weight.shape, given.data_ptr(), result.data_ptr(), threads())
    return result


def _dense_shape(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


_define("dense_linear(Tensor x, Tensor weight) -> Tensor", dense_linear, _dense_shape)


def _norm(norm: list[Tensor], epsilon: float, centred: bool) -> Any:
    module = native()
    assert module is not None
    addresses = [tensor.data_ptr() for tensor in norm] + [0, 0]
    return module.Norm(addresses[0], addresses[1], epsilon, centred)


def _check_heads(rows: list[int], sizes: list[int]) -> None:
    """Raises `ModelError` where weights have other rows than queries, keys and values of these `sizes` need."""
    each = [sizes[0] * sizes[2], sizes[1] * sizes[2], sizes[1] * sizes[2]]
    if sizes[1] < 1 or sizes[0] % sizes[1] or rows not in (each, [sum(each)]):
        raise ModelError(
            f"attention of {sizes[0]} heads, {sizes[1]} of keys, of size {sizes[2]} does not fit weights of "
            f"{', '.join(map(str, rows))} rows: is the model's configuration right?"
        )


def _spread(what: str, tensor: Tensor, batch: int, *sizes: int) -> Tensor:
    """A tensor of shape (batch or 1, *sizes), of which any size may be 1, with its sizes written out.

    Native code follows its address by these sizes, so that another shape is refused, by `ModelError`.
    """
    fits = tensor.dim() == 1 + len(sizes) and len(tensor) in (1, batch)
    if not fits or any(found not in (1, size) for found, size in zip(tensor.shape[1:], sizes, strict=True)):
        raise ModelError(f"{what} of shape {tuple(tensor.shape)}, expected {(batch, *sizes)}")
    return tensor.expand(-1, *sizes).contiguous()


def heads(
    x: Tensor,
    query: list[Tensor],
    key: list[Tensor],
    value: list[Tensor],
    blocks: list[int],
    sizes: list[int],
    cosine: Tensor | None,
    sine: Tensor | None,
    before: list[Tensor],
    epsilon: float,
    centred: bool,
) -> Tensor:
    """Queries, keys and values of before(x), side by side: what comes before a cache of keys. See `attention`."""
    module = native()
    assert module is not None
    columns = x.shape[-1]
    pairs = [(weight, block) for weight, block in zip((query, key, value), blocks, strict=True) if weight]
    each = [_shape(weight, columns, block)[0] for weight, block in pairs]
    _check_heads(each, sizes)
    rows = sum(each)
    layers = [_linear(weight, columns, block) for weight, block in pairs]
    result = _project(x.to(torch.float32), layers, _norm(before, epsilon, centred), rows)
    if cosine is not None and sine is not None:
        turned, size = sizes[0] + sizes[1], sizes[2]
        angles = [_spread("rotary angles", angle.to(torch.float32), *x.shape[:2], size) for angle in (cosine, sine)]
        for row in range(x.shape[0]):
            given = [angle[row if len(angle) > 1 else 0].data_ptr() for angle in angles]
            module.turn(result[row].data_ptr(), rows, x.shape[1], turned, size, *given)
    return result.to(x.dtype)


def _heads_shape(x: Tensor, query: Any, key: Any, value: Any, blocks: Any, sizes: list[int], *others: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], (sizes[0] + 2 * sizes[1]) * sizes[2]))


def feed_forward(x: Tensor, *layers: Any) -> Tensor:
    """after(x + down(activation(gate n) * up n)), n = before(x); without a gate, down(activation(up n)).

    `layers` are the arguments of `_feed_forward` after the first.
    """
    module = native()
    assert module is not None
    columns = x.shape[-1]
    given = x.to(torch.float32).contiguous()
    result = torch.empty_like(given)
    module.feed_forward(
        _feed_forward(columns, *layers), given.data_ptr(), given.numel() // columns, result.data_ptr(), threads()
    )
    return result.to(x.dtype)


def _feed_forward(
    columns: int,
    gate: list[Tensor],
    up: list[Tensor],
    down: list[Tensor],
    blocks: list[int],
    activation: str,
    before: list[Tensor],
    after: list[Tensor],
    epsilon: float,
    centred: bool,
) -> Any:
    module = native()
    assert module is not None
    return module.FeedForward(
        _norm(before, epsilon, centred),
        [_linear(gate, columns, blocks[0])] if gate else [],
        _linear(up, columns, blocks[1]),
        _linear(down, _shape(up, columns, blocks[1])[0], blocks[2]),
        activation,
        _norm(after, epsilon, centred),
    )


def attention(
    x: Tensor,
    memory: Tensor | None,
    query: list[Tensor],
    key: list[Tensor],
    value: list[Tensor],
    out: list[Tensor],
    blocks: list[int],
    sizes: list[int],
    scale: float,
    causal: bool,
    mask: Tensor | None,
    cosine: Tensor | None,
    sine: Tensor | None,
    before: list[Tensor],
    after: list[Tensor],
    epsilon: float,
    centred: bool,
    *then: Any,
) -> Tensor:
    """after(x + out(softmax(scale q kᵀ + mask) v)) over (batch, length, features), q, k, v of before(x).

    With `memory` (batch, keys, features), k and v are of it. An empty `key` and `value` means that `query` has the rows
    of all three. `sizes` are (heads, key heads, head size); `mask` (batch or 1, 1, length or 1, keys) is added, or
    where it is boolean says what is seen; `cosine` and `sine` (batch or 1, length, head size) turn queries and keys.
    `then` are the arguments of a `feed_forward` of the result, in the operator `block`.
    """
    module = native()
    assert module is not None
    given = x.to(torch.float32).contiguous()
    result = torch.empty_like(given)
    source = given if memory is None else memory.to(torch.float32).contiguous()
    if not x.shape[1] or not source.shape[1]:
        raise ModelError("attention was given a text without tokens")
    batch, length, keys = *x.shape[:2], source.shape[1]
    if memory is not None:
        source = _spread("the encoder's states", source, batch, *source.shape[1:]).expand(batch, -1, -1).contiguous()
    own = [_linear(query, x.shape[-1], blocks[0])]
    pairs = [(w, b) for w, b in zip((key, value), blocks[1:3], strict=True) if w]
    others = [_linear(w, source.shape[-1], b) for w, b in pairs]
    rows = [_shape(query, x.shape[-1], blocks[0])[0], *(_shape(w, source.shape[-1], b)[0] for w, b in pairs)]
    _check_heads(rows, sizes)
    added = None
    if mask is not None:
        added = _spread("an attention mask", _additive(mask), batch, 1, length if mask.shape[-2] > 1 else 1, keys)
    turns = [
        None if angle is None else _spread("rotary angles", angle.to(torch.float32), batch, length, sizes[2])
        for angle in (cosine, sine)
    ]
    module.attention(
        _norm(before, epsilon, centred),
        own + others if memory is None else own,
        [] if memory is None else others,
        _linear(out, sizes[0] * sizes[2], blocks[3]),
        *sizes,
        scale,
        causal,
        _norm(after, epsilon, centred),
        0 if added is None else added.data_ptr(),
        0 if added is None or added.shape[0] == 1 else added.shape[-2] * added.shape[-1],
        0 if added is None or added.shape[-2] == 1 else added.shape[-1],
        *(0 if turn is None else turn.data_ptr() for turn in turns),
        0 if turns[0] is None or turns[0].shape[0] == 1 else turns[0].shape[1] * turns[0].shape[2],
        [_feed_forward(x.shape[-1], *then)] if then else [],
        given.data_ptr(),
        0 if memory is None else source.data_ptr(),
        batch,
        length,
        keys,
        result.data_ptr(),
        threads(),
    )
    return result.to(x.dtype)


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    return mask.to(torch.float32).contiguous()


def _same_shape(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_define(
    "heads(Tensor x, Tensor[] query, Tensor[] key, Tensor[] value, int[] blocks, int[] sizes, Tensor? cosine, "
    "Tensor? sine, Tensor[] before, float epsilon, bool centred) -> Tensor",
    heads,
    _heads_shape,
)
FEED_FORWARD = (
    "Tensor[] gate, Tensor[] up, Tensor[] down, int[] {0}blocks, str activation, Tensor[] {0}before, "
    "Tensor[] {0}after, float {0}epsilon, bool {0}centred"
)
ATTENTION = (
    "Tensor x, Tensor? memory, Tensor[] query, Tensor[] key, Tensor[] value, Tensor[] out, int[] blocks, int[] sizes, "
    "float scale, bool causal, Tensor? mask, Tensor? cosine, Tensor? sine, Tensor[] before, Tensor[] after, "
    "float epsilon, bool centred"
)
_define(f"feed_forward(Tensor x, {FEED_FORWARD.format('')}) -> Tensor", feed_forward, _same_shape)
_define(f"attention({ATTENTION}) -> Tensor", attention, _same_shape)
_define(f"block({ATTENTION}, {FEED_FORWARD.format('then_')}) -> Tensor", attention, _same_shape)
