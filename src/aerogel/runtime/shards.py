"""Writes a checkpoint a block at a time: a shard for each block, and one for the rest."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from aerogel import files
from aerogel.errors import AerogelError, first_line
from aerogel.models import PrunableWeight
from aerogel.models.checkpoint import file_tensors
from aerogel.models.marking import add_hint
from aerogel.runtime.codec import encode
from aerogel.runtime.conversion import LEAST_SPARSITY
from aerogel.runtime.layers import SparseLinear, in_layer
from aerogel.runtime.quantizer import mark
from aerogel.runtime.tensor_source import TensorSource, get_tensor
from aerogel.runtime.values import HeadChoice, ValueChoice, chosen_type


@dataclass(frozen=True)
class Shard:
    """What is known of a shard: its unit, the zeros among the prunable weights in it, and the number of these."""

    unit: str
    zeros: int
    prunable: int


@dataclass(frozen=True)
class ShardWriter:
    """Writes the units of `source` to a folder, from the weights that are in its model.

    Attributes:
        packable: the names of the layers that may be packed.
        values: the type that packed values are rounded to. int8 is rounded from float32, and others from the types of
            the source, as `save_pruned` does.
    """

    source: TensorSource
    folder: Path
    packable: Collection[str]
    values: ValueChoice | None

    def path(self, unit: str) -> Path:
        units = list(self.source.keys)
        return self.folder / shard_name(units.index(unit), len(units))

    def write(self, unit: str, weights: Collection[PrunableWeight]) -> Shard:
        """Writes a unit and counts the zeros of those of these weights that are in it."""
        source, model = self.source, self.source.model
        casts_last = bool(self.packable) and self.values == "int8"
        tensors: dict[str, Tensor] = {}
        zeros = prunable = 0
        for key in source.keys[unit]:
            name = source.names[key]
            dtype = source.dtypes.of_tensor(key)
            tensor = get_tensor(model, name)
            if tensor.is_meta:  # not loaded, since nothing changes it
                tensor = source.read(key)
            elif tensor.is_floating_point() and not casts_last:
                tensor.data = tensor.data.to(dtype)
            path = name.removesuffix(".weight")
            for weight in weights:
                if weight.name == path:
                    zeros += int(weight.zeros.sum())
                    prunable += weight.matrix.numel()
            packed = self._packed(path, model.get_submodule(path)) if path in self.packable else None
            if packed is None and tensor.is_floating_point():
                packed = tensor.detach().to(dtype).contiguous()
            tensors[key] = tensor if packed is None else packed
        save_file(tensors, self.path(unit), {"format": "pt"})
        return Shard(unit, zeros, prunable)

    def _packed(self, path: str, module: nn.Module) -> Tensor | None:
        """The bytes of a packed weight, or `None` where it stays dense: see `compress`."""
        value_type = None if self.values is None else chosen_type(self.values)
        with in_layer(path):
            layer = SparseLinear.of(module, value_type)
        is_integer = value_type is not None and not value_type.is_float
        return encode(layer.packed) if is_integer or 1 - layer.density >= LEAST_SPARSITY else None

    def finish(self, head_values: HeadChoice | None) -> bool:
        """Writes the index and the configuration, and returns whether some weights are packed."""
        model = self.source.model
        is_packed = write_index(self.folder, map(self.path, self.source.keys))
        model.config.architectures = [type(model).__name__]
        model.config.dtype = self.source.dtypes.main
        if is_packed:
            mark(model, self.values, head_values)
        model.config.save_pretrained(self.folder)
        if model.can_generate():
            model.generation_config.save_pretrained(self.folder)
        if is_packed:
            add_hint(self.folder)
        return is_packed


def shard_name(index: int, count: int) -> str:
    """The name of a file of weights, one of `count`, as transformers has it; `index` counts from 0."""
    return "model.safetensors" if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"


def write_index(folder: Path, shards: Iterable[Path]) -> bool:
    """Writes the index of a checkpoint's files, and returns whether some weights are packed."""
    weight_map: dict[str, str] = {}
    total, is_packed = 0, False
    for shard in shards:
        tensors = file_tensors(shard)
        weight_map |= dict.fromkeys(tensors, shard.name)
        total += shard.stat().st_size
        is_packed |= any(tensor.is_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    files.write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    return is_packed


@dataclass
class Progress:
    """The units that are done, kept in a file beside the output so that an interrupted pruning resumes.

    Attributes:
        settings: what the result depends on.
        shards: those that are written.
    """

    path: Path
    settings: dict[str, Any]
    shards: list[Shard]

    @classmethod
    def read(cls, path: Path, settings: dict[str, Any]) -> Progress:
        """Raises `AerogelError` if the file is damaged or has other settings."""
        settings = json.loads(json.dumps(settings))
        if not path.exists():
            return cls(path, settings, [])
        remedy = f"resume it with the same settings, or remove {path.parents[1]} to start again"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            shards = [Shard(**shard) for shard in stored["shards"]]
            changed = [name for name in settings if settings[name] != stored["settings"][name]]
        except (ValueError, KeyError, TypeError) as error:
            raise AerogelError(f"the unfinished work in {path} is damaged ({first_line(error)}): {remedy}") from error
        if changed:
            raise AerogelError(f"unfinished work on the same output had another {changed[0]}: {remedy}")
        return cls(path, settings, shards)

    @property
    def done(self) -> set[str]:
        return {shard.unit for shard in self.shards}

    def add(self, shard: Shard) -> None:
        self.shards.append(shard)
        content = {"settings": self.settings, "shards": [asdict(done) for done in self.shards]}
        files.write_text(self.path, json.dumps(content))
