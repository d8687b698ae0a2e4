"""The layer that replaces a pruned linear layer."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import PackedLayer
from aerogel.runtime.bitmask import Bitmask, smallest
from aerogel.runtime.cells import Cells
from aerogel.runtime.codec import decode, encode
from aerogel.runtime.operators import as_float32, not_exported, not_on, operate
from aerogel.runtime.packable import runs_token_by_token
from aerogel.runtime.packed import BY_DTYPE, PackedWeight, pack
from aerogel.runtime.placeholder import WeightPlaceholder
from aerogel.runtime.torch_private import present_buffers, with_buffer
from aerogel.runtime.values import FLOATS, Values, ValueType, value_type_of

REMEDY = "dense after aerogel.decompress(model)"  # shown by libraries that can't adapt the layer, such as peft
# of `Cells` and of `Bitmask`, which has no index, order or offsets; the last two of integers alone
ARRAYS = ("values", "index", "order", "offsets", "bits", "starts", "scales", "sums")


class SparseLinear(PackedLayer):
    """y = x Wᵀ + b with a packed W, in place of an `nn.Linear` or a `Conv1D` of GPT-2 (`dense_class`).

    Its state is the weight as checkpoints store it: equally small, and it loads into a layer with other zeros.
    Loading raises `ModelError` if the state is damaged or does not fit the layer.
    """

    values: Tensor
    index: Tensor | None
    order: Tensor | None
    offsets: Tensor | None
    bits: Tensor | None
    starts: Tensor | None
    scales: Tensor | None
    sums: Tensor | None

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, dense_class: type = nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.dense_class = dense_class
        self.name = ""  # in its model, for messages
        self.one_token = False  # it runs for one token at a time, mostly, and has the layout that is read fastest
        self._set_weight(packed)
        self.bias = bias

    def _set_weight(self, packed: PackedWeight) -> None:
        self.block, self.dtype = packed.cells.block, packed.dtype
        weight = smallest(packed) if self.one_token else packed
        unused = ("index", "order", "offsets") if isinstance(weight, Bitmask) else ("bits", "starts")
        names = [name for name in ARRAYS if name not in unused]
        tensors = dict(zip(names, weight.tensors, strict=False))
        for name in sorted(
            ARRAYS, key=lambda name: name not in tensors
        ):  # torch.export needs those without a tensor last
            if hasattr(self, name):
                delattr(self, name)
            self.register_buffer(name, tensors.get(name), persistent=False)

    @classmethod
    def of(cls, module: nn.Module, value_type: ValueType | None = None) -> Self:
        """Packs an `nn.Linear` or a `Conv1D`, with its values rounded to `value_type` unless that is None."""
        assert isinstance(module, nn.Linear | Conv1D)
        matrix = module.weight.T if isinstance(module, Conv1D) else module.weight
        return cls(pack(matrix, value_type), module.bias, Conv1D if isinstance(module, Conv1D) else nn.Linear)

    def round_values(self, value_type: ValueType) -> None:
        """Rounds the values to this type, in place."""
        self._set_weight(self.packed.rounded(value_type))

    def set_one_token(self) -> None:
        """Chooses the layout for one token at a time."""
        packed, self.one_token = self.packed, True
        self._set_weight(packed)

    @property
    def density(self) -> float:
        """The share of weights that are not 0."""
        return torch.count_nonzero(self.values).item() / (self.out_features * self.in_features)

    @property
    def bitmask(self) -> Bitmask | None:
        """The weight, if that is its layout."""
        if self.bits is None:
            return None
        return Bitmask(self.in_features, self.block, *present_buffers(self, ARRAYS))

    @property
    def packed(self) -> PackedWeight:
        if bitmask := self.bitmask:
            return bitmask.to_packed(self.dtype)
        shape, value_type = (self.out_features, self.in_features), BY_DTYPE[self.values.dtype]
        _, index, order, offsets, *_ = present_buffers(self, ARRAYS)
        cells = Cells(shape, self.block, value_type.unit, order, offsets, index)
        return PackedWeight(self.dtype, cells, Values(value_type, self.values, self.scales))

    @property
    def weight(self) -> Tensor:
        """A tensor of the dense weight's shape, dtype and device.

        Code that reads its values instead of calling the layer makes the layer dense, with a warning.
        """
        if torch.compiler.is_compiling():  # the graph unpacks it where its values are used, and drops it elsewhere
            matrix = torch.ops.aerogel.dense(self.arrays, self.in_features, self.block).to(self.dtype)
            return matrix.T if self.dense_class is Conv1D else matrix
        shape = (self.out_features, self.in_features)
        return WeightPlaceholder(shape[::-1] if self.dense_class is Conv1D else shape, self.dtype, self._become_dense)

    @weight.setter
    def weight(self, value: Any) -> None:
        raise self._fixed("weight")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Raises `ModelError` unless it is a bias: masks and `layer.weight = ...` would replace the packed weight."""
        if name != "bias":
            raise self._fixed(name)
        super().register_parameter(name, param)

    def _fixed(self, name: str) -> ModelError:
        return ModelError(
            f"layer {self.name} is packed and can't be given a {name}: call aerogel.decompress(model) first"
        )

    def _become_dense(self) -> Tensor:
        """Becomes the dense layer, in place, and returns its weight."""
        if isinstance(self, SparseLinear):  # an earlier placeholder may be read again
            pattern = re.sub(r"\.\d+(?=\.)", ".*", self.name)  # one warning for all blocks
            warnings.warn(
                f"the model reads the weight of layer {pattern} instead of calling the layer: the layer becomes dense "
                "and saves no memory",
                AerogelWarning,
                stacklevel=2,
            )
            dense = self.to_dense()
            for name in ARRAYS:
                delattr(self, name)
            self.__class__ = self.dense_class
            self.weight = dense.weight
            for name, value in vars(dense).items():  # Conv1D has sizes under other names
                self.__dict__.setdefault(name, value)
        return self.weight

    @property
    def matrix(self) -> Tensor:
        bitmask = self.bitmask
        return bitmask.to_dense(self.dtype) if bitmask else self.packed.to_dense()

    @property
    def arrays(self) -> list[Tensor]:
        """What the operators take: the packed weight's tensors, and the bias in float32 if there is one."""
        arrays, bias = present_buffers(self, ARRAYS), self.bias
        return arrays if bias is None else [*arrays, as_float32(bias)]

    def to_dense(self) -> nn.Module:
        """The dense layer, with its weight restored bit for bit, or from integers times their scales."""
        weight = self.matrix
        if self.dense_class is Conv1D:
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
        return operate("linear", x, self.arrays, self.block)

    def check_input(self, x: Tensor) -> None:
        """Raises `ModelError` unless x has the layer's width, which the kernels read, and when exporting to ONNX."""
        if torch.jit.is_tracing():
            if torch.onnx.is_in_onnx_export():
                raise not_exported("ONNX")
            # a trace runs after `import aerogel`; OpenVINO traces too, and can't read the result
            warnings.warn(str(not_exported("OpenVINO")), stacklevel=2)
        if x.shape[-1] != self.in_features:
            raise ModelError(f"layer {self.name}: expected {self.in_features} features, found {x.shape[-1]}")

    def extra_repr(self) -> str:
        size = f"in_features={self.in_features}, out_features={self.out_features}"
        values = BY_DTYPE[self.values.dtype].name
        return f"{size}, sparsity={1 - self.density:.3f}, values={values}, {REMEDY}"

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        dense = fn(torch.empty(0, dtype=self.dtype, device="cpu"))  # what the dense weight would become
        if dense.device.type != "cpu":
            raise not_on(dense.device)
        scales = self.scales
        super()._apply(fn, recurse)
        is_known = str(dense.dtype).removeprefix("torch.") in FLOATS
        self.dtype = dense.dtype if is_known else torch.float32
        if scales is None:
            self.values = Values.of(self.values if is_known else self.values.float()).data
        elif self.scales is None or self.scales.dtype != scales.dtype:  # a cast, which is not one of the integers
            self.scales = scales
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self.order is None:
            return self.__dict__
        # pickle can't write torch's unsigned 16-bit integers
        return with_buffer(self.__dict__, "order", self.order.view(torch.int16))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.order is not None:
            self.order = self.order.view(torch.uint16)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = encode(self.packed)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing_keys: list[str], *rest: Any
    ) -> None:
        key = prefix + "weight"
        others = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(others, prefix, metadata, strict, missing_keys, *rest)
        if key in state_dict:
            value_type = BY_DTYPE[self.values.dtype]
            rounding = None if value_type == value_type_of(self.dtype).in_memory else value_type
            shape = self.out_features, self.in_features
            self._set_weight(decode_layer(prefix[:-1], state_dict[key], shape, self.dtype, rounding))
        elif strict:
            missing_keys.append(key)


def sparse_layers(model: nn.Module) -> list[tuple[str, SparseLinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, SparseLinear)]


def put_layer(model: PreTrainedModel, name: str, layer: SparseLinear) -> None:
    """Replaces the layer of that name by a sparse layer, in the layout that its use asks for."""
    layer.name = name
    model.set_submodule(name, layer)
    if runs_token_by_token(model, name):
        layer.set_one_token()


def decode_layer(
    name: str, content: Tensor, shape: tuple[int, int], dtype: torch.dtype, rounding: ValueType | None
) -> PackedWeight:
    """The weight of layer `name` from its bytes, as one of `dtype`.

    Floats are rounded to the type `rounding` unless that is `None`; integers stay what they are.
    """
    floats = rounding.dtype if rounding and rounding.is_float else dtype
    with in_layer(name):
        packed = decode(content, shape, floats)
        if rounding and not rounding.is_float:
            packed = packed.rounded(rounding)
    return replace(packed, dtype=dtype)


@contextmanager
def in_layer(name: str) -> Iterator[None]:
    """Puts the name of the layer before the message of a `ModelError`."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"layer {name}: {error}") from error
