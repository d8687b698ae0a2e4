"""Writes a packed checkpoint as a dense one, from its files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aerogel import files, progress
from aerogel.errors import ModelError
from aerogel.models.checkpoint import StoredDtypes, stored_tensors, weight_files
from aerogel.models.loading import checkpoint_class, explained, from_config, load_config
from aerogel.models.location import local_folder, located
from aerogel.models.marking import HINT_FIELD, METHOD, add_hint
from aerogel.models.quiet import quiet_transformers
from aerogel.models.saving import save_others
from aerogel.runtime.checkpoint import Checkpoint
from aerogel.runtime.layers import decode_layer
from aerogel.runtime.quantizer import PackedConfig
from aerogel.runtime.shards import shard_name, write_index
from aerogel.runtime.values import VALUE_TYPES
from aerogel.structure.plan import write_plan
from aerogel.structure.shrink import shrink_as_planned

SHARD = 2**30  # bytes of a file, and so of dense weights in memory at once


@dataclass(frozen=True)
class Unpacked:
    """What was written: the number of layers whose weights were `dequantized`, and the files of the source that were
    `left_out`, see `aerogel.models.save`.
    """

    dequantized: int
    left_out: Sequence[str]


def unpack(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> Unpacked:
    """Writes a packed checkpoint as a dense one: bit for bit, or of int8 values the integers times their scales.

    The dense model is never in memory as a whole: at most a gigabyte of it is, one file of the output.

    Raises `ModelError` for a folder that is not a packed checkpoint, and for damaged files.
    """
    local = local_folder(folder)
    if local is None:
        raise ModelError(f"{folder} has no local files to unpack: download it first")
    path, local_only = located(folder)
    config = load_config(folder, path, local_only)
    marked = getattr(config, "quantization_config", {})
    if marked.get("quant_method") != METHOD:
        raise ModelError(f"{folder} is not a packed checkpoint; nothing to unpack")
    with explained(folder, path), quiet_transformers():
        packing = PackedConfig(**marked)
        model = _on_meta(config, packing)
        source = PackedSource.of(model, local, packing)
    with files.new_folder(output) as new, quiet_transformers():
        dequantized = _write(source, new)
        model.config.save_pretrained(new)
        if packing.plan:
            add_hint(new)
        left_out = save_others(model, None, new, folder, None)
    return Unpacked(dequantized, left_out)


def _on_meta(config: Any, packing: PackedConfig) -> PreTrainedModel:
    """The dense model without weights; with layers as small as they were saved, and marked so, if they differ."""
    del config.quantization_config
    if hasattr(config, HINT_FIELD):
        delattr(config, HINT_FIELD)
    with torch.device("meta"):
        model = from_config(checkpoint_class(config), config)
    if packing.plan:
        write_plan(model, shrink_as_planned(model, packing.plan))
    return model


@dataclass(frozen=True)
class PackedSource:
    """The tensors of a packed checkpoint, dense.

    Attributes:
        model: of the checkpoint's class, on the meta device.
        names: the packed tensors, and the name of the layer of each.
    """

    model: PreTrainedModel
    checkpoint: Checkpoint
    names: Mapping[str, str]
    dtypes: StoredDtypes
    packing: PackedConfig

    @classmethod
    def of(cls, model: PreTrainedModel, folder: Path, packing: PackedConfig) -> Self:
        """Raises `ModelError` for files that do not fit the model, and if none of their tensors is packed."""
        state = model.state_dict()
        checkpoint = Checkpoint.of(model, map(str, weight_files(folder)), state)
        if not checkpoint.packed:
            raise ModelError("it is not a packed checkpoint; nothing to unpack")
        checkpoint.check(model, state)
        names = {}
        for key in checkpoint.packed:
            name = min(checkpoint.names[key] & state.keys(), default="").removesuffix(".weight")
            if not name or not isinstance(model.get_submodule(name), nn.Linear | Conv1D):
                raise ModelError(f"tensor {key} is packed, but it is no linear layer of {type(model).__name__}")
            names[key] = name
        return cls(model, checkpoint, names, StoredDtypes.of(stored_tensors(folder), None), packing)

    def bytes(self, key: str) -> int:
        """The bytes of a tensor when it is dense, at most."""
        if key in self.names:
            return 4 * math.prod(self.model.get_submodule(self.names[key]).weight.shape)
        return 8 * math.prod(self.checkpoint.shapes[key])

    def read(self, key: str) -> tuple[Tensor, bool]:
        """A tensor, and whether it was dequantized."""
        with safe_open(self.checkpoint.files[key], framework="pt", backend="pread") as content:
            tensor: Tensor = content.get_tensor(key)
        if key not in self.names:
            return tensor, False
        name = self.names[key]
        module = self.model.get_submodule(name)
        transposed = isinstance(module, Conv1D)
        rows, columns = module.weight.shape[::-1] if transposed else module.weight.shape
        rounding = VALUE_TYPES.get(getattr(self.packing, "values", ""))
        packed = decode_layer(name, tensor, (rows, columns), torch.float32, rounding)
        dense = packed.to_dense().to(self.dtypes.of_tensor(key))
        return (dense.T.contiguous() if transposed else dense), packed.values.scales is not None


def _write(source: PackedSource, folder: Path) -> int:
    """Writes all tensors and returns how many were dequantized."""
    groups, dequantized = list(_groups(source)), 0
    for number, keys in progress.track(list(enumerate(groups)), "unpacking"):
        tensors = {}
        for key in keys:
            tensors[key], rounded = source.read(key)
            dequantized += rounded
        save_file(tensors, folder / shard_name(number, len(groups)), {"format": "pt"})
    if len(groups) > 1:
        write_index(folder, [folder / shard_name(number, len(groups)) for number in range(len(groups))])
    return dequantized


def _groups(source: PackedSource) -> Iterator[list[str]]:
    """The tensors of each file."""
    keys: list[str] = []
    size = 0
    for key in source.checkpoint.files:  # in the order of the files
        if keys and size + source.bytes(key) > SHARD:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += source.bytes(key)
    yield keys
