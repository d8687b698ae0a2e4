"""The device that a model computes on."""

from typing import TypeVar

import torch
from torch import nn

from aerogel.errors import ModelError
from aerogel.models.prunable import PackedLayer

Model = TypeVar("Model", bound=nn.Module)


def to_device(model: Model, name: str | None = None) -> Model:
    """Moves a model to a device, "cpu", "cuda", "cuda:1", ..., and returns it.

    Without a name this is a GPU if torch sees one, else the CPU. A packed model then stays on the CPU. Raises
    `ModelError` for a device that torch does not see, and for a packed model on another one than the CPU.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> to_device(model, "cpu").device
    device(type='cpu')
    """
    if name is None:
        packed = any(isinstance(module, PackedLayer) for module in model.modules())
        name = "cuda" if torch.cuda.is_available() and not packed else "cpu"
    return model.to(checked_device(name))


def checked_device(name: str) -> torch.device:
    """The device of this name. Raises `ModelError` if torch does not see it."""
    found = ["cpu"]
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is not None:
        found += [
            accelerator.type,
            *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())),
        ]
    if name not in found:
        build = f"this torch, {torch.__version__}, sees {', '.join(found)}"
        raise ModelError(f"device {name} is not available: {build}; use one of these, or install a torch that has it")
    return torch.device(name)
