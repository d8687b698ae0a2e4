"""The layer that stands where a pruned linear layer stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aerogel.runtime import operators as _operators  # noqa: F401  registers torch.ops.aerogel
from aerogel.runtime.packed import Format, PackedWeight, pack

ARRAYS = ("values", "index", "order", "offsets")


class SparseLinear(nn.Module):
    """y = x Wᵀ + b with a packed W: `nn.Linear`, or GPT-2's `Conv1D`, of which it keeps the name in `was`."""

    values: Tensor
    index: Tensor
    order: Tensor
    offsets: Tensor

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, was: type[nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.block, self.dtype, self.was = packed.block, packed.dtype, was
        for name in ARRAYS:
            self.register_buffer(name, getattr(packed, name))
        self.bias = bias

    @classmethod
    def of(cls, module: nn.Module) -> SparseLinear:
        """Packs an `nn.Linear` or a `Conv1D`."""
        assert isinstance(module, nn.Linear | Conv1D)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        return cls(pack(weight), module.bias, Conv1D if isinstance(module, Conv1D) else nn.Linear)

    @property
    def packed(self) -> PackedWeight:
        shape = (self.out_features, self.in_features)
        return PackedWeight(
            Format.CELLS, shape, self.dtype, self.block, self.values, self.index, self.order, self.offsets
        )

    @property
    def arrays(self) -> list[Tensor]:
        """What the operators take: the packed weight's tensors, and the bias in float32 where there is one."""
        arrays = [self.values, self.index, self.order, self.offsets]
        return arrays if self.bias is None else [*arrays, self.bias.float()]

    def to_dense(self) -> nn.Module:
        """The layer that was, with its weight restored bit for bit."""
        weight = self.packed.to_dense()
        if self.was is Conv1D:
            with torch.device("meta"):
                dense: nn.Module = Conv1D(self.out_features, self.in_features)
            weight = weight.T.contiguous()
        else:
            dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        dense.weight = nn.Parameter(weight)
        if self.bias is not None:
            dense.bias = self.bias
        return dense.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aerogel.linear(x, self.arrays, self.block)

    def extra_repr(self) -> str:
        density = self.values.numel() / (self.in_features * self.out_features)
        return f"in_features={self.in_features}, out_features={self.out_features}, sparsity={1 - density:.3f}"

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
        # `model.half()` would ask for values in float16, which no kernel has: they stay as they are, exact
        super()._apply(fn, recurse)
        if self.values.dtype not in (torch.float32, torch.bfloat16):
            self.values = self.values.float()
        return self
