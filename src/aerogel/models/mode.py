"""How a model is while something is measured or changed: its mode, and its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which nothing is dropped out; at the end each module is back in its own."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[torch.device]:
    """Moves a model to the CPU, and at the end back to its device, which is what this yields."""
    home = next(model.parameters()).device
    model.cpu()
    try:
        yield home
    finally:
        model.to(home)
