"""The tensor that a packed layer returns as its weight, for code of a model that reads it."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from aerogel.runtime.torch_private import plain_functions, tensor_without_memory

# These read the memory of a tensor without an operation that `__torch_dispatch__` receives.
DIRECT = {
    *(Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.__reduce_ex__),
    *(Tensor.data_ptr, Tensor.untyped_storage, Tensor.share_memory_),
}


class WeightPlaceholder(Tensor):
    """A tensor with the shape, dtype and device of a weight, but no values.

    Any operation of torch that reads the values calls `restore`, which makes the layer dense and returns its weight,
    and works on that weight.
    """

    restore: Callable[[], Tensor]

    @staticmethod
    def __new__(cls, shape: tuple[int, int], dtype: torch.dtype, restore: Callable[[], Tensor]) -> Self:
        placeholder: Self = tensor_without_memory(cls, shape, dtype)
        placeholder.restore = restore
        return placeholder

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DIRECT:
            args = (args[0].restore().detach(), *args[1:])
        with plain_functions():
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's declaration lacks the operation
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*_restored(args), **_restored(kwargs or {}))

    @property
    def data(self) -> Tensor:
        return self.restore().data

    @data.setter
    def data(self, value: Tensor) -> None:
        self.restore().data = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.restore(), memo)

    def __repr__(self) -> str:  # type: ignore[override]  # torch adds an argument for its own use
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"


def _restored(value: Any) -> Any:
    if isinstance(value, WeightPlaceholder):
        return value.restore()
    if isinstance(value, list | tuple):
        return type(value)(map(_restored, value))
    return {name: _restored(one) for name, one in value.items()} if isinstance(value, dict) else value
