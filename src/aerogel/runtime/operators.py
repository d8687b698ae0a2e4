"""The operators that sparse layers call, registered with torch, so that models compile and export.

A packed weight is passed as the list of its tensors, followed by its bias if it has one. Activations are (...,
features) of any floating type; results are computed in float32, returned in the type of the activations, and
deterministic for a number of threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError
from aerogel.runtime import kernel
from aerogel.runtime.cells import Cells
from aerogel.runtime.packed import NUMBERS, PackedWeight
from aerogel.runtime.values import Values

LIBRARY = torch.library.Library("aerogel", "DEF")


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

    LIBRARY.impl(name, run, "CPU")
    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"aerogel::{name}", traced, lib=LIBRARY)
    torch.library.register_autograd(f"aerogel::{name}", backward, lib=LIBRARY)


def weight_shape(weight: list[Tensor], columns: int, block: int) -> tuple[int, int]:
    return weight[2].shape[0] // -(-columns // block), columns


def native_linear(weight: list[Tensor], columns: int, block: int) -> Any:
    # not `PackedWeight.native`, which takes longer than a small layer
    module, (values, index, order, offsets, *bias) = kernel.required(), weight
    rows, columns = weight_shape(weight, columns, block)
    cells = module.Cells(rows, columns, block, 1, order.data_ptr(), offsets.data_ptr(), index.data_ptr())
    matrix = module.Matrix(cells, module.Values(NUMBERS[values.dtype], values.data_ptr(), 0, 0))
    return module.Linear(matrix, bias[0].data_ptr() if bias else 0)


def native_norm(norm: list[Tensor], epsilon: float, centred: bool) -> Any:
    addresses = [tensor.data_ptr() for tensor in norm] + [0, 0]
    return kernel.required().Norm(addresses[0], addresses[1], epsilon, centred)


def linear(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    shape = weight_shape(weight, x.shape[-1], block)
    if kernel.native() is None:
        return functional.linear(x.float(), dense(weight, x.shape[-1], block), *weight[4:]).to(x.dtype)
    return project(x, [native_linear(weight, shape[1], block)], native_norm([], 0, True), shape[0])


def project(x: Tensor, layers: list[Any], before: Any, rows: int) -> Tensor:
    x32 = x.to(torch.float32).contiguous()
    result = x32.new_empty((*x.shape[:-1], rows))
    tokens = x32.numel() // x.shape[-1]
    kernel.required().project(before, layers, x32.data_ptr(), tokens, result.data_ptr(), torch.get_num_threads())
    return result.to(x.dtype)


def dense(weight: list[Tensor], columns: int, block: int) -> Tensor:
    """The packed weight as a (d_out, d_in) matrix in float32."""
    values, index, order, offsets = weight[:4]
    cells = Cells(weight_shape(weight, columns, block), block, order, offsets, index)
    return PackedWeight(torch.float32, cells, Values.of(values)).to_dense()


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
