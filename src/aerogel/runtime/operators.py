"""The operators that sparse layers call, registered with torch, so that models compile and export.

A packed weight is passed as the list of its tensors, followed by its bias if it has one. The first, the values, tells
the layout: integers in one dimension are those of a `Bitmask`, others are in `Cells`; integers have scales and sums.
Activations are (..., features) of any floating type; results are computed in float32, or in integers with activations
quantized by `token_integers`, returned in the type of the activations, and deterministic for a number of threads.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError
from aerogel.models.int8 import token_integers
from aerogel.runtime import kernel
from aerogel.runtime.bitmask import Bitmask
from aerogel.runtime.cells import Cells, blocks_in_row
from aerogel.runtime.packed import BY_DTYPE, PackedWeight
from aerogel.runtime.torch_private import needs_dispatcher
from aerogel.runtime.values import Values

LIBRARY = torch.library.Library("aerogel", "DEF")
IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {}  # on the CPU, by the operator's name


def not_on(device: torch.device) -> ModelError:
    return ModelError(
        f"a compressed model runs on the CPU only, not on {device}: call aerogel.decompress(model) before it is moved"
    )


def not_exported(form: str) -> ModelError:
    return ModelError(
        f"{form} has no operators for packed weights: call aerogel.decompress(model) before it is exported"
    )


def define(schema: str, run: Any, shape: Any) -> None:
    """Registers `run` for the CPU, `shape` for tracing, and errors for the backward pass and for other devices."""
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))

    def traced(*inputs: Any) -> Any:
        if torch.onnx.is_in_onnx_export():
            raise not_exported("ONNX")
        return shape(*inputs)

    def elsewhere(x: Tensor | list[Tensor], *others: Any) -> Any:
        raise not_on((x if isinstance(x, Tensor) else x[0]).device)

    def backward(context: Any, gradient: Tensor) -> Any:
        raise ModelError("a compressed model can't be trained: call aerogel.decompress(model) first")

    IMPLEMENTATIONS[name] = run
    LIBRARY.impl(name, run, "CPU")
    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"aerogel::{name}", traced, lib=LIBRARY)
    torch.library.register_autograd(f"aerogel::{name}", backward, lib=LIBRARY)


def operate(name: str, x: Tensor, *arguments: Any) -> Tensor:
    """Calls an operator, past torch's dispatcher where it has nothing to do: it takes as long as a small layer."""
    if type(x) is Tensor and x.is_cpu and not needs_dispatcher():
        return IMPLEMENTATIONS[name](x, *arguments)
    result: Tensor = getattr(torch.ops.aerogel, name)(x, *arguments)
    return result


def is_masked(weight: list[Tensor]) -> bool:
    """Whether the tensors are those of a `Bitmask`."""
    return weight[0].dtype == torch.int8 and weight[0].dim() == 1


def weight_shape(weight: list[Tensor], columns: int, block: int) -> tuple[int, int]:
    if is_masked(weight):
        return weight[3].shape[0], columns
    return weight[2].shape[0] // blocks_in_row(columns, block, BY_DTYPE[weight[0].dtype].unit), columns


def packed_weight(weight: list[Tensor], columns: int, block: int) -> tuple[PackedWeight, list[Tensor]]:
    """The weight, as one of float32, and its bias if it has one."""
    if is_masked(weight):
        return Bitmask(columns, block, *weight[:5]).to_packed(torch.float32), weight[5:]
    (values, index, order, offsets, *rest), value_type = weight, BY_DTYPE[weight[0].dtype]
    scales, rest = (None, rest) if value_type.is_float else (rest[0], rest[2:])
    cells = Cells(weight_shape(weight, columns, block), block, value_type.unit, order, offsets, index)
    return PackedWeight(torch.float32, cells, Values(value_type, values, scales)), rest


class LayerKey(NamedTuple):
    """All that the kernels are told of a layer: where its arrays are, and their sizes.

    `mask_step` is the number of words from one row's bits to the next row's, or `None` without a bit mask.
    """

    dtype: torch.dtype
    mask_step: int | None
    rows: int
    columns: int
    block: int
    addresses: tuple[int, ...]


def as_float32(tensor: Tensor) -> Tensor:
    """`tensor.float()`, in a tenth of the time where there is nothing to do."""
    return tensor if tensor.dtype is torch.float32 else tensor.float()


def layer_key(weight: list[Tensor], columns: int, block: int) -> LayerKey:
    shape = weight_shape(weight, columns, block)
    mask_step = None
    if is_masked(weight):
        rows, words = weight[1].shape
        mask_step = words if rows > 1 else 0
    return LayerKey(weight[0].dtype, mask_step, *shape, block, addresses(weight))


def addresses(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple([tensor.data_ptr() for tensor in tensors])


# Making the records of a block takes longer than computing a small one, so they are kept. A record holds what its key
# holds and nothing else: it stays right when other arrays of the same sizes are at the same addresses.
kept_records = lru_cache(maxsize=4096)


@kept_records
def native_linear(key: LayerKey) -> Any:
    module, value_type, (values, *rest) = kernel.required(), BY_DTYPE[key.dtype], key.addresses
    index = order = offsets = 0
    mask = module.Bitmask(0, 0, 0)
    if key.mask_step is not None:
        bits, starts, *rest = rest
        mask = module.Bitmask(bits, starts, key.mask_step)
    else:
        index, order, offsets, *rest = rest
    scales, sums, *bias = [0, 0, *rest] if value_type.is_float else rest
    cells = module.Cells(key.rows, key.columns, key.block, value_type.unit, order, offsets, index)
    integers = module.Values(value_type.number, values, scales, sums)
    return module.Linear(module.Matrix(cells, integers, mask), *bias or [0])


@kept_records
def native_norm(norm: tuple[int, ...], epsilon: float, centred: bool, offset: float) -> Any:
    weight, bias = (*norm, 0, 0)[:2]
    return kernel.required().Norm(weight, bias, epsilon, centred, offset)


def linear(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    if kernel.native() is None:
        return torch_linear(x.float(), *packed_weight(weight, x.shape[-1], block)).to(x.dtype)
    key = layer_key(weight, x.shape[-1], block)
    return project(x, [native_linear(key)], native_norm((), 0, True, 0), key.rows)


def torch_linear(x: Tensor, packed: PackedWeight, bias: list[Tensor]) -> Tensor:
    """The same numbers without the kernels, for x (..., features) in float32."""
    if packed.values.scales is None:
        return functional.linear(x, packed.to_dense(), *bias)
    integers, zero, scale = token_integers(x)
    groups, width = integers.shape[-2:]
    rows, columns = packed.shape
    weights = functional.pad(packed.unscaled(), (0, groups * width - columns)).view(rows, groups, width)
    # exact in float64, in any order
    sums = torch.einsum("...gi,rgi->...gr", (integers - zero).double(), weights.double())
    y = (sums.float() * (scale * packed.values.scales)).sum(-2)
    return y + bias[0] if bias else y


def project(x: Tensor, layers: list[Any], before: Any, rows: int) -> Tensor:
    x32 = x.to(torch.float32).contiguous()
    result = x32.new_empty((*x.shape[:-1], rows))
    tokens = x32.numel() // x.shape[-1]
    kernel.required().project(before, layers, x32.data_ptr(), tokens, result.data_ptr(), torch.get_num_threads())
    return result.to(x.dtype)


def dense(weight: list[Tensor], columns: int, block: int) -> Tensor:
    """The packed weight as a (d_out, d_in) matrix in float32."""
    return packed_weight(weight, columns, block)[0].to_dense()


def dense_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ for a dense float32 W. With one token the time is that of reading W: all threads read it; torch uses one."""
    module = kernel.native()
    if module is None or x.shape[-1] != weight.shape[1] or x.numel() != weight.shape[1]:
        return functional.linear(x, weight)
    x = x.contiguous()
    result = x.new_empty((*x.shape[:-1], weight.shape[0]))
    module.dense_vector(weight.data_ptr(), *weight.shape, x.data_ptr(), result.data_ptr(), torch.get_num_threads())
    return result


define(
    "linear(Tensor x, Tensor[] weight, int block) -> Tensor",
    linear,
    lambda x, weight, block: x.new_empty((*x.shape[:-1], weight_shape(weight, x.shape[-1], block)[0])),
)
define(
    "dense(Tensor[] weight, int columns, int block) -> Tensor",
    dense,
    lambda weight, columns, block: weight[0].new_empty(weight_shape(weight, columns, block), dtype=torch.float32),
)
define(
    "dense_linear(Tensor x, Tensor weight) -> Tensor",
    dense_linear,
    lambda x, weight: x.new_empty((*x.shape[:-1], weight.shape[0])),
)
