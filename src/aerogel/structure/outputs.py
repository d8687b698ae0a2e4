"""The output matrices of sub-layers with some of their structures: weights and biases that compensate for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aerogel.pruning.blocks import Block
from aerogel.structure.removal import Removal, compensated
from aerogel.structure.sublayers import SubLayer


@dataclass(frozen=True)
class Inputs:
    """The inputs X of an output matrix on the calibration text.

    Attributes:
        hessian: XᵀX, (d_in, d_in), of inputs from which the mean is subtracted if there is one.
        mean: (d_in), `None` where the output has no bias that could hold the mean of what is removed.
    """

    hessian: Tensor
    mean: Tensor | None

    @classmethod
    def of(cls, block: Block, sublayer: SubLayer) -> Inputs:
        """Those of a sub-layer in a block that `aerogel.pruning.blocks.walk` yields."""
        name = sublayer.output.name
        hessian = block.moments[name]
        if bias_of(sublayer) is None:
            return cls(hessian, None)
        total = block.sums[name]
        mean = total / sum(int(call.tokens.sum()) for call in block.calls)
        return cls(hessian - torch.outer(total, mean), mean)


class OutputMatrix:
    """The output matrix of a sub-layer, which can be set to fewer structures again and again."""

    def __init__(self, sublayer: SubLayer, inputs: Inputs, importance: Tensor) -> None:
        """`importance` is the Fisher information at the outputs, (d_out, d_out)."""
        self.sublayer = sublayer
        self.inputs = inputs
        self.weight, self.bias = _copies(sublayer)
        self.removal = Removal.of(self.weight, inputs.hessian, importance, sublayer.size)
        self._known: dict[int, tuple[Tensor, Tensor | None]] = {}

    def set(self, count: int) -> None:
        """The weights and the bias with the `count` structures that are removed last, and zeros elsewhere."""
        if count not in self._known:
            kept = self.removal.kept(count)
            self._known[count] = _compensated(self.sublayer, self.weight, self.bias, kept, self.inputs)
        _write(self.sublayer, *self._known[count])


@torch.no_grad()
def keep_compensated(sublayer: SubLayer, kept: Sequence[int], inputs: Inputs) -> None:
    """Sets the columns of all other structures to zero, in place, and compensates with the bias and those kept."""
    weight, bias = _copies(sublayer)
    _write(sublayer, *_compensated(sublayer, weight, bias, kept, inputs))


@contextmanager
def restored(outputs: Sequence[OutputMatrix]) -> Iterator[None]:
    """Restores the weights and biases at the end of the `with` block."""
    try:
        yield
    finally:
        for output in outputs:
            _write(output.sublayer, output.weight, output.bias)


def bias_of(sublayer: SubLayer) -> nn.Parameter | None:
    bias = getattr(sublayer.output.module, "bias", None)
    return bias if isinstance(bias, nn.Parameter) else None


def _copies(sublayer: SubLayer) -> tuple[Tensor, Tensor | None]:
    bias = bias_of(sublayer)
    return sublayer.output.matrix.clone(), None if bias is None else bias.detach().clone()


def _compensated(
    sublayer: SubLayer, weight: Tensor, bias: Tensor | None, kept: Sequence[int], inputs: Inputs
) -> tuple[Tensor, Tensor | None]:
    if len(kept) == sublayer.count:
        return weight, bias
    values = compensated(weight.float(), inputs.hessian, kept, sublayer.size)
    if bias is not None and inputs.mean is not None:
        bias = (bias.float() + (weight.float() - values) @ inputs.mean).to(bias.dtype)
    return values.to(weight.dtype), bias


@torch.no_grad()
def _write(sublayer: SubLayer, weight: Tensor, bias: Tensor | None) -> None:
    sublayer.output.matrix.copy_(weight)
    target = bias_of(sublayer)
    if target is not None and bias is not None:
        target.copy_(bias)
