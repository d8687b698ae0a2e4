"""Language-model heads, which stay dense: reading their weight is most of the time of a token in small models."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import ModelError
from aerogel.models import PackedLayer, PrunableWeight
from aerogel.runtime import kernel
from aerogel.runtime.bitmask import Bitmask
from aerogel.runtime.operators import as_float32, operate
from aerogel.runtime.torch_private import changes_in_place, without_buffers
from aerogel.runtime.values import HeadChoice


class FusedHead(nn.Linear):
    """A head that all threads read."""

    def forward(self, x: Tensor) -> Tensor:
        plain = self.bias is None and x.dtype == self.weight.dtype == torch.float32 and self.weight.is_contiguous()
        if self.training or not plain or x.device.type != "cpu":
            return super().forward(x)
        return operate("dense_linear", x, self.weight)


@dataclass(frozen=True)
class Int8Copy:
    """A weight in int8, and what it is a copy of.

    Attributes:
        weight: the parameter.
        data: its memory then, which is kept so that nothing else can come to its address.
        version: how often that was changed in place.
        bitmask: the copy.
    """

    weight: Tensor
    data: Tensor
    version: int
    bitmask: Bitmask

    def is_current(self, weight: Tensor) -> bool:
        return (
            weight is self.weight
            and weight.data_ptr() == self.data.data_ptr()
            and weight.dtype == self.data.dtype
            and changes_in_place(weight) == self.version
        )


class Int8Head(nn.Linear):
    """A head that computes with a copy of its weight in int8. The weight itself, that of the embedding, stays float.

    The copy is not part of the state. It is made anew before it is used where the weight was replaced or changed in
    place, unless through `weight.data`, which PyTorch does not count. The weight itself is used in compiled graphs,
    which could not notice changes, and if it was made in inference mode.
    """

    int8: Int8Copy | None = None

    def forward(self, x: Tensor) -> Tensor:
        bitmask = None if torch.compiler.is_compiling() or x.shape[-1] != self.in_features else self.bitmask()
        if bitmask is None:
            return super().forward(x)
        tensors = [*bitmask.tensors] if self.bias is None else [*bitmask.tensors, as_float32(self.bias)]
        return operate("linear", x, tensors, bitmask.block)

    def bitmask(self) -> Bitmask | None:
        """The copy of the weight as it is now, or `None` if its changes can't be noticed.

        Raises `ModelError` if it is infinite or NaN.
        """
        weight, int8 = self.weight, self.int8
        if int8 is not None and int8.is_current(weight):
            return int8.bitmask
        version = changes_in_place(weight)
        if version is None or not weight.is_cpu:
            return None
        with torch.inference_mode(False), torch.no_grad():
            bitmask = Bitmask.quantized(weight)
            self.int8 = Int8Copy(weight, weight.detach(), version, bitmask)
        for name in ("values", "bits", "starts", "scales", "sums"):  # so that they count where memory is measured
            self.register_buffer(f"int8_{name}", getattr(bitmask, name), persistent=False)
        return bitmask

    def __getstate__(self) -> dict[str, Any]:
        return without_buffers(self.__dict__) | {"int8": None}


def head_weight(model: PreTrainedModel) -> PrunableWeight:
    """The weight of the language-model head. Raises `ModelError` if there is none that can be rounded."""
    head: Any = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no language-model head to round: leave out head_values (--head-values)"
        )
    if not isinstance(head, PackedLayer) and type(head) not in (nn.Linear, FusedHead, Int8Head):
        raise ModelError(
            f"the language-model head of {type(model).__name__} is a {type(head).__name__} and can't be rounded, "
            "expected nn.Linear: leave out head_values (--head-values)"
        )
    name = next(name for name, module in model.named_modules() if module is head)
    return PrunableWeight(name, head, "heads")


def set_head(model: PreTrainedModel, head_values: HeadChoice | None) -> None:
    """Lets a dense head compute with a copy in int8, or else with its weight, in place."""
    head: Any = model.get_output_embeddings()
    unfuse_head(head)
    if type(head) is nn.Linear:
        head.__class__ = Int8Head if head_values else FusedHead if kernel.native() else nn.Linear
    if isinstance(head, Int8Head):
        head.bitmask()


def unfuse_head(module: nn.Module | None) -> None:
    """The inverse of `set_head`."""
    if type(module) is Int8Head:
        vars(module).pop("int8", None)
        for name, _ in [*module.named_buffers(recurse=False)]:
            delattr(module, name)
    if type(module) in (FusedHead, Int8Head):
        module.__class__ = nn.Linear
