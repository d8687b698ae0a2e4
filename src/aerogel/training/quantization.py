"""Quantization-aware training: steps that compute with int8 values, as the packed model will."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aerogel.models import PrunableWeight
from aerogel.models.int8 import quantize_tokens, round_to_grid

# of all layers whose inputs are rounded, so that a training can remove those that an interrupted one left
_input_hooks: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()


class QuantizedTraining:
    """Trains `weights` of linear layers with int8 values, from `begin` to `end`.

    Forward and backward passes use rounded weights and inputs; the optimizer updates the weights from before rounding,
    with the gradients of the rounded ones (the straight-through estimator: Bengio et al. 2013, arXiv:1308.3432, section
    4). Each row's scale follows its largest weight. Between optimizer steps the model has the rounded weights, so what
    is validated and saved is the quantized model.
    """

    def __init__(self, weights: Sequence[PrunableWeight]) -> None:
        self.weights = weights
        self.unrounded: dict[str, Tensor] = {}  # by weight name: (d_out, d_in), after the last optimizer step

    @property
    def is_active(self) -> bool:
        return bool(self.unrounded)

    def begin(self, unrounded: Mapping[str, Tensor] | None = None) -> None:
        """Rounds the weights and, until `end`, the inputs of their layers.

        `unrounded` are the weights from before rounding, if a checkpoint has them.
        """
        for weight in self.weights:
            _input_hooks[weight.module] = weight.module.register_forward_pre_hook(_quantize_inputs)
        torch.compiler.reset()  # compiled models do not notice hooks that are added or removed later
        if unrounded is None:
            self.round()
        else:
            self.unrounded = {weight.name: unrounded[weight.name].to(weight.matrix.device) for weight in self.weights}

    @torch.no_grad()
    def round(self) -> None:
        """Rounds the weights, and keeps them unrounded for the next optimizer step."""
        for weight in self.weights:
            self.unrounded[weight.name] = weight.matrix.clone()
            weight.matrix.copy_(round_to_grid(weight.matrix))

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the layers their unrounded weights, for the optimizer to update."""
        for weight in self.weights:
            weight.matrix.copy_(self.unrounded[weight.name])

    def end(self) -> None:
        """Inputs are rounded no more; the weights stay rounded."""
        stop_rounding_inputs(weight.module for weight in self.weights)
        self.unrounded = {}


def stop_rounding_inputs(modules: Iterable[nn.Module]) -> None:
    """Removes the hooks of any `QuantizedTraining`."""
    if hooks := [_input_hooks.pop(module) for module in modules if module in _input_hooks]:
        for hook in hooks:
            hook.remove()
        torch.compiler.reset()


def _quantize_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(quantize_tokens, inputs))
