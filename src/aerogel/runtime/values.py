"""The number types of packed weights, apart from the layout of their non-zeros. Importing this does not import torch.

A new type is an entry in `VALUE_TYPES` and a trait in csrc/values.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from aerogel.errors import ModelError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ValueChoice = Literal["bfloat16", "int8"]  # the types that values can be rounded to on request
VALUE_CHOICES: tuple[str, ...] = get_args(ValueChoice)
HeadChoice = Literal["int8"]  # the type that a language-model head can be rounded to on request
HEAD_CHOICES: tuple[str, ...] = get_args(HeadChoice)
# for help texts and reports: the pattern that int8 kernels multiply fastest, and a measurement
INT8_PATTERN = "block:1x4"
INT8_SPEED = "59 ms for BERT-base at 90%, unstructured 119 (batch 16, 64 tokens, two threads of Zen 4)"


@dataclass(frozen=True)
class ValueType:
    """One number type.

    Attributes:
        name: that of the torch dtype.
        number: in docs/format.md and csrc/values.h.
        high_bits: of the high field in a checkpoint: the exponent and three bits of the mantissa, which are not
            uniformly distributed either; of integers, a mask of those in a unit that are not 0.
        in_kernels: whether kernels read it. The values of other types are float32 in memory, which holds them exactly.
        unit: neighbouring columns that are stored together, unless all of them are 0.
        is_float: integers have a scale for each output row.
    """

    name: str
    number: int
    high_bits: int
    in_kernels: bool = True
    unit: int = 1
    is_float: bool = True

    @property
    def dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.name)
        return dtype

    @property
    def bits(self) -> int:
        return 8 * self.dtype.itemsize

    @property
    def in_memory(self) -> ValueType:
        return self if self.in_kernels else VALUE_TYPES["float32"]


VALUE_TYPES = {
    "float32": ValueType("float32", 0, high_bits=11),
    "float16": ValueType("float16", 1, high_bits=8, in_kernels=False),
    "bfloat16": ValueType("bfloat16", 2, high_bits=11),
    "int8": ValueType("int8", 3, high_bits=4, unit=4, is_float=False),
}
FLOATS = [name for name, value_type in VALUE_TYPES.items() if value_type.is_float]  # the dtypes of dense weights


def chosen_type(name: object) -> ValueType:
    """The type in `VALUE_CHOICES` of this name. Raises `ModelError` for another."""
    if name not in VALUE_CHOICES:
        raise ModelError(unknown_name("value type", name, VALUE_CHOICES))
    return VALUE_TYPES[str(name)]


def check_head_values(head_values: object, values: object) -> None:
    """Raises `ModelError` unless it is `None`, or a type in `HEAD_CHOICES` that the other `values` have too."""
    if head_values is None:
        return
    if head_values not in HEAD_CHOICES:
        raise ModelError(unknown_name("value type of a head", head_values, HEAD_CHOICES))
    if head_values != values:
        raise ModelError(
            f"head_values {head_values!r} (--head-values) need values {head_values!r} (--values) too, found {values!r}"
        )


@dataclass(frozen=True)
class Values:
    """The values of a packed weight's non-zeros, in the order of its layout.

    `data` is (non-zeros,), or (non-zeros, unit) of integers, which `scales` (d_out,), float32, multiply.
    """

    type: ValueType
    data: Tensor
    scales: Tensor | None = None

    @classmethod
    def of(cls, data: Tensor) -> Values:
        """Floats of the type that kernels read for their dtype."""
        value_type = value_type_of(data.dtype).in_memory
        return cls(value_type, data.to(value_type.dtype))


def value_type_of(dtype: torch.dtype) -> ValueType:
    """Raises `KeyError` for a dtype that is not in the table."""
    return VALUE_TYPES[str(dtype).removeprefix("torch.")]
