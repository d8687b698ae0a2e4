"""A checkpoint whose tensors are read a block at a time, into a model that has no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import ModelError, first_line
from aerogel.models.checkpoint import StoredDtypes, stored_tensors, weight_files
from aerogel.runtime.checkpoint import BLOCK, Checkpoint

OUTSIDE = ""  # the unit of all tensors outside the blocks


class TensorSource:
    """The tensors of a dense checkpoint, by the blocks of `model`, which has its parameters on the meta device.

    Attributes:
        keys: the tensors of each unit in the files: of the blocks in the model's order, then of the rest (`OUTSIDE`).
        names: the name in the model of each of these tensors.
        dtypes: of the files.

    Raises `ModelError` for a folder without safetensors files, a file that is missing or truncated, and tensors that
    are not those of the model.
    """

    keys: dict[str, list[str]]
    names: dict[str, str]
    dtypes: StoredDtypes

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        files = weight_files(folder)
        if not files:
            raise ModelError(f"{folder} has no safetensors files, which can be read a block at a time")
        state = model.state_dict()
        self.model = model
        self.checkpoint = Checkpoint.of(model, map(str, files), state)
        if self.checkpoint.packed:
            raise ModelError(f"{self.checkpoint.packed[0]} is packed: use aerogel unpack first")
        self.checkpoint.check_complete(model, state)
        self.dtypes = StoredDtypes.of(stored_tensors(folder), None)
        self.names = {}
        for key, names in self.checkpoint.names.items():
            for name in names & state.keys():
                if key in self.names or name in self.names.values():
                    raise ModelError(f"tensor {key} of the checkpoint is split or joined for {type(model).__name__}")
                if self.checkpoint.shapes[key] != tuple(state[name].shape):
                    shapes = self.checkpoint.shapes[key], tuple(state[name].shape)
                    raise ModelError(f"tensor {key} of the checkpoint has the shape {shapes[0]}, expected {shapes[1]}")
                self.names[key] = name
        order = {name: index for index, name in enumerate(state)}
        self.keys = {}
        for key in sorted(self.names, key=lambda key: order[self.names[key]]):
            self.keys.setdefault(unit_of(self.names[key]), []).append(key)
        self.keys[OUTSIDE] = self.keys.pop(OUTSIDE, [])

    @cached_property
    def stored(self) -> dict[str, str]:
        """The key of each name in the model, also of weights that are stored under the name they are tied to."""
        keys = {name: key for key, name in self.names.items()}
        tied = self.model.all_tied_weights_keys
        for one, other in (*tied.items(), *((source, target) for target, source in tied.items())):
            if one not in keys and other in keys:
                keys[one] = keys[other]
        return keys

    @property
    def files(self) -> set[str]:
        return set(self.checkpoint.files.values())

    def bytes(self, unit: str) -> int:
        """The bytes of a unit in float32."""
        return 4 * sum(math.prod(self.checkpoint.shapes[key]) for key in self.keys[unit])

    def load(self, names: Iterable[str]) -> None:
        """Reads these parameters and buffers, floats in float32; tied ones share their memory."""
        read: dict[str, Tensor] = {}
        for name in names:
            if name in self.stored:
                key = self.stored[name]
                if key not in read:
                    tensor = self.read(key)
                    read[key] = tensor.float() if tensor.is_floating_point() else tensor
                _put(self.model, name, read[key])

    def release(self, names: Iterable[str]) -> None:
        """Leaves only the shapes of these parameters and buffers."""
        for name in names:
            if name in self.stored:
                _put(self.model, name, torch.empty_like(get_tensor(self.model, name), device="meta"))

    def read(self, key: str) -> Tensor:
        file = self.checkpoint.files[key]
        try:
            with safe_open(file, framework="pt", backend="pread") as content:
                tensor: Tensor = content.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is not a whole safetensors file ({first_line(error)})") from error
        return tensor


def unit_of(name: str) -> str:
    """The name of the block that a tensor or module belongs to, or `OUTSIDE`."""
    match = BLOCK.match(name)
    return match.group() if match else OUTSIDE


def get_tensor(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), leaf)
    assert isinstance(tensor, Tensor)
    return tensor


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
