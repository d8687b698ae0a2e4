"""The layer that stands where a pruned linear layer stood."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import PackedLayer
from aerogel.runtime.codec import STORED_TYPES, decode, encode
from aerogel.runtime.operators import not_exported, not_on
from aerogel.runtime.packed import Format, PackedWeight, pack
from aerogel.runtime.placeholder import WeightPlaceholder

REMEDY = "dense after aerogel.decompress(model)"  # shown by libraries that can't adapt the layer, such as peft
ARRAYS = ("values", "index", "order", "offsets")


class SparseLinear(PackedLayer):
    """y = x Wᵀ + b with a packed W: `nn.Linear`, or GPT-2's `Conv1D`, of which it keeps the name in `was`.

    Its state is the weight as a checkpoint keeps it, so that it is as small, and loads into a layer with other zeros.
    Loading raises `ModelError` where it is damaged or doesn't fit the layer.
    """

    values: Tensor
    index: Tensor
    order: Tensor
    offsets: Tensor

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, was: type[nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.was = was
        self.name = ""  # in its model, for messages
        for name in ARRAYS:
            self.register_buffer(name, None, persistent=False)
        self._hold(packed)
        self.bias = bias

    def _hold(self, packed: PackedWeight) -> None:
        self.block, self.dtype = packed.block, packed.dtype
        for name in ARRAYS:
            setattr(self, name, getattr(packed, name))

    @classmethod
    def of(cls, module: nn.Module, values: Literal["bfloat16"] | None = None) -> SparseLinear:
        """Packs an `nn.Linear` or a `Conv1D`, its values rounded to bfloat16 where that is asked for."""
        assert isinstance(module, nn.Linear | Conv1D)
        packed = pack(module.weight.T if isinstance(module, Conv1D) else module.weight)
        layer = cls(packed, module.bias, Conv1D if isinstance(module, Conv1D) else nn.Linear)
        if values:
            layer.round_values()
        return layer

    def round_values(self) -> None:
        """Rounds the values to bfloat16, in place, and keeps them in it."""
        self._hold(self.packed.with_values(torch.bfloat16))

    @property
    def packed(self) -> PackedWeight:
        shape = (self.out_features, self.in_features)
        return PackedWeight(
            Format.CELLS, shape, self.dtype, self.block, self.values, self.index, self.order, self.offsets
        )

    @property
    def weight(self) -> Tensor:
        """A tensor of the dense weight's shape, dtype and device, as the layer that was has it.

        Code that reads the values as well, where it does not call the layer, makes the layer dense, with a warning.
        """
        if torch.compiler.is_compiling():  # the graph unpacks it where its values are used, and drops it elsewhere
            matrix = torch.ops.aerogel.dense(*self.packed.tensors, self.in_features, self.block).to(self.dtype)
            return matrix.T if self.was is Conv1D else matrix
        shape = (self.out_features, self.in_features)
        return WeightPlaceholder(shape[::-1] if self.was is Conv1D else shape, self.dtype, self._become_dense)

    @weight.setter
    def weight(self, value: Any) -> None:
        raise self._fixed("weight")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Raises `ModelError` for all but a bias: masks and `layer.weight = ...` would replace the packed weight."""
        if name != "bias":
            raise self._fixed(name)
        super().register_parameter(name, param)

    def _fixed(self, name: str) -> ModelError:
        return ModelError(
            f"layer {self.name} is packed and can't be given a {name}: call aerogel.decompress(model) first"
        )

    def _become_dense(self) -> Tensor:
        """Turns into the layer that was, in place, and returns its weight."""
        if isinstance(self, SparseLinear):  # a placeholder of before may be read again
            everywhere = re.sub(r"\.\d+(?=\.)", ".*", self.name)  # one warning for all blocks
            warnings.warn(
                f"layer {everywhere} is read by its model instead of called: it becomes dense and is not smaller",
                AerogelWarning,
                stacklevel=2,
            )
            dense = self.to_dense()
            self._parameters["weight"] = dense._parameters["weight"]
            for name, value in vars(dense).items():  # Conv1D has sizes under other names
                self.__dict__.setdefault(name, value)
            for name in ARRAYS:
                delattr(self, name)
            self.__class__ = self.was  # type: ignore[assignment]
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def matrix(self) -> Tensor:
        return self.packed.to_dense()

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
        self.check_input(x)
        return torch.ops.aerogel.linear(x, self.arrays, self.block)

    def check_input(self, x: Tensor) -> None:
        """The kernels go by the layer's width, so what they read must have it.

        Raises `ModelError`, also where the model is exported to ONNX, which has no operators for packed weights.
        """
        if torch.onnx.is_in_onnx_export():
            raise not_exported("ONNX")
        if torch.jit.is_tracing():  # runs where aerogel is imported; OpenVINO traces too, and can't read the result
            warnings.warn(str(not_exported("OpenVINO")), stacklevel=2)
        if x.shape[-1] != self.in_features:
            raise ModelError(f"a layer of {self.in_features} features was given {x.shape[-1]}")

    def extra_repr(self) -> str:
        density = self.values.numel() / (self.in_features * self.out_features)
        size = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{size}, sparsity={1 - density:.3f}, {REMEDY}"

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
        dense = fn(torch.empty(0, dtype=self.dtype, device="cpu"))  # what the dense weight would become
        if dense.device.type != "cpu":
            raise not_on(dense.device)
        super()._apply(fn, recurse)
        # no kernel has values in float16, which float32 holds exactly
        self.dtype = dense.dtype if dense.dtype in STORED_TYPES else torch.float32
        if self.values.dtype not in (torch.float32, torch.bfloat16):
            self.values = self.values.float()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # pickle finds no way to write torch's unsigned 16-bit integers
        return self.__dict__ | {"_buffers": self._buffers | {"order": self.order.view(torch.int16)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.order = self.order.view(torch.uint16)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = encode(self.packed)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *rest: Any,
    ) -> None:
        key = prefix + "weight"
        others = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, *rest)
        if key in state_dict:
            rounded = self.dtype != torch.bfloat16 and self.values.dtype == torch.bfloat16
            self._hold(unpacked(prefix[:-1], state_dict[key], self.packed.shape, self.dtype, rounded))
        elif strict:
            missing_keys.append(key)


def sparse_layers(model: nn.Module) -> list[tuple[str, SparseLinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, SparseLinear)]


def put_layer(model: nn.Module, name: str, layer: SparseLinear) -> None:
    """Puts a sparse layer in the place of the layer of that name."""
    layer.name = name
    model.set_submodule(name, layer)


def unpacked(name: str, content: Tensor, shape: tuple[int, int], dtype: torch.dtype, rounded: bool) -> PackedWeight:
    """The weight of layer `name` from its bytes, as one of `dtype`, its values in bfloat16 where `rounded`."""
    try:
        packed = decode(content, shape, torch.bfloat16 if rounded else dtype)
    except ModelError as error:
        raise ModelError(f"layer {name}: {error}") from error
    return replace(packed, dtype=dtype)
