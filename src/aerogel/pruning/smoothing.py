"""Smooth outlier channels: move the range of a layer's inputs to its weights, where 8 bits lose less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aerogel.models import PrunableWeight
from aerogel.pruning.blocks import Block

STRENGTH = 0.5  # 1 gives all inputs of a layer the same range, 0 all columns of its weights


def smooth(block: Block) -> None:
    """Scales input channels of linear layers where that leaves the outputs of the block equal, bit for bit.

    Channel j is divided by c_j = ‖X_·j‖^a / ‖W_·j‖^(1-a), rounded to a power of two: the rows that produce it are
    divided, those of a norm or a linear layer before, and column j of the weights is multiplied (Xiao et al. 2023,
    SmoothQuant, equation 4, with norms in place of the largest values). The moments of the block follow.
    """
    output = _output(block)
    for candidates in _folds(block):
        fold = next((fold for fold in candidates if fold.is_exact(block, output)), None)
        if fold is not None:
            factors = fold.factors(block)
            fold.apply(factors)
            moments = block.moments[fold.users[0].name] / factors / factors[:, None]
            block.moments.update((weight.name, moments) for weight in fold.users)


@dataclass(frozen=True)
class Fold:
    """A layer that may scale its outputs, and all weights of the block that have these as inputs."""

    producer: nn.Module
    users: list[PrunableWeight]

    def factors(self, block: Block) -> Tensor:
        """c (d_in), powers of two with a geometric mean of about 1; 1 for channels that are always zero or not used."""
        inputs = block.moments[self.users[0].name].diagonal().sqrt()
        columns = torch.stack([weight.matrix.float().norm(dim=0) for weight in self.users]).amax(0)
        exponents = STRENGTH * inputs.log2() - (1 - STRENGTH) * columns.log2()
        finite = exponents.isfinite()
        return torch.where(finite, exponents - exponents[finite].mean(), 0).round().exp2()

    def apply(self, factors: Tensor) -> None:
        for parameter in (PrunableWeight("", self.producer).matrix, getattr(self.producer, "bias", None)):
            if parameter is not None:
                parameter.detach().div_(factors if parameter.dim() == 1 else factors[:, None])
        for weight in self.users:
            weight.matrix.mul_(factors)

    def is_exact(self, block: Block, output: Tensor) -> bool:
        """Whether scaling leaves the output of the block equal: a residual connection, for example, forbids it."""
        columns = torch.arange(self.users[0].matrix.shape[1], device=output.device)
        factors = torch.exp2(columns % 3 - 1)
        self.apply(factors)
        equal = torch.equal(_output(block), output)
        self.apply(1 / factors)
        return equal


def _output(block: Block) -> Tensor:
    return block.calls[0].run(block.module, block.states[0])


def _folds(block: Block) -> Iterator[list[Fold]]:
    """For each input of linear layers: the norms that output it, or else the linear layers before with its width."""
    norms = [module for module in block.module.modules() if _is_norm(module)]
    outputs: list[tuple[nn.Module, Tensor]] = []  # all are held, so that equal addresses mean equal tensors
    inputs: dict[nn.Module, Tensor] = {}

    def keep_output(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output))

    def keep_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.setdefault(module, arguments[0])

    handles = [module.register_forward_hook(keep_output) for module in norms]
    handles += [weight.module.register_forward_pre_hook(keep_input) for weight in block.weights]
    try:
        _output(block)
    finally:
        for handle in handles:
            handle.remove()
    by_module = {weight.module: weight for weight in block.weights}
    called = [by_module[module] for module in inputs]
    groups: dict[int, list[PrunableWeight]] = {}
    for weight in called:  # layers with the same input share its moments
        groups.setdefault(id(block.moments[weight.name]), []).append(weight)
    for users in groups.values():
        x = inputs[users[0].module]
        producers = [module for module, output in outputs if output.data_ptr() == x.data_ptr()]
        if not producers:
            earlier = called[: called.index(users[0])]
            producers = [weight.module for weight in earlier if len(weight.matrix) == x.shape[-1]]
        yield [Fold(producer, users) for producer in producers]


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 1
