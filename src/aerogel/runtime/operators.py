"""The operators that the sparse layers call, known to torch, so that compiling and exporting a model see through them.

A packed weight goes in as the list of its tensors, with its bias as a last one where it has one; activations are
(..., features) of any floating type, computed in float32 and given back in their own.
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


def _define(schema: str, run: Any, shape: Any) -> None:
    """Registers `run` for the CPU, `shape` to trace with, and a backward pass that says what to do."""
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag))
    LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"aerogel::{name}", shape, lib=LIBRARY)

    def backward(context: Any, gradient: Tensor) -> Any:
        raise ModelError("a compressed model can't be trained: call aerogel.decompress(model) first")

    torch.library.register_autograd(f"aerogel::{name}", backward, lib=LIBRARY)


def _shape(weight: list[Tensor], columns: int, block: int) -> tuple[int, int]:
    return weight[2].shape[0] // -(-columns // block), columns


def _linear(weight: list[Tensor], columns: int, block: int) -> Any:
    module = native()
    assert module is not None
    matrix = native_matrix(_shape(weight, columns, block), block, *weight[:4])
    return module.Linear(matrix, weight[4].data_ptr() if len(weight) > 4 else 0)


def linear(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    columns = x.shape[-1]
    rows = _shape(weight, columns, block)[0]
    module = native()
    if module is None:
        return _linear_with_torch(x, weight, (rows, columns), block)
    given = x.to(torch.float32).contiguous()
    result = torch.empty((*x.shape[:-1], rows), dtype=torch.float32)
    tokens = given.numel() // columns
    module.linear(_linear(weight, columns, block), given.data_ptr(), tokens, result.data_ptr(), threads())
    return result.to(x.dtype)


def _linear_with_torch(x: Tensor, weight: list[Tensor], shape: tuple[int, int], block: int) -> Tensor:
    values, index, order, offsets, *bias = weight
    dense = PackedWeight(Format.CELLS, shape, torch.float32, block, values, index, order, offsets).to_dense()
    return functional.linear(x.float(), dense, *bias).to(x.dtype)


def _linear_shape(x: Tensor, weight: list[Tensor], block: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], _shape(weight, x.shape[-1], block)[0]))


_define("linear(Tensor x, Tensor[] weight, int block) -> Tensor", linear, _linear_shape)
