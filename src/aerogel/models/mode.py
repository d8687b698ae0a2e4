"""Context managers for a model's mode, gradients and device."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each module back in its own mode at the end."""
    training = [module for module in model.modules() if module.training]
    if training:  # setting the mode of every module takes as long as running a small model
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of a module's parameters in the block."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Move a model to the CPU, and back to its device at the end."""
    device = next(model.parameters()).device
    model.cpu()
    try:
        yield
    finally:
        model.to(device)
