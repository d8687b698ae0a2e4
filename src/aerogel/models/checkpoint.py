"""The tensors of a checkpoint, read from the headers of its files, and whether they are all that a model needs."""

from __future__ import annotations

import copy
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel, PreTrainedModel

from aerogel.errors import ModelError
from aerogel.tables import counted

# Optional parts of a body: some checkpoints have them, and transformers builds the class with or without.
OPTIONAL = {"pooler", "mask_token"}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def is_optional(key: str) -> bool:
    """Whether the tensor belongs to an optional part of a body: a pooler, a mask token."""
    return not OPTIONAL.isdisjoint(key.split("."))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: the name of its dtype in safetensors, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_bytes(self) -> bool:
        """Whether it is a row of bytes, as packed weights are stored."""
        return self.dtype == "U8" and len(self.shape) == 1


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the safetensors files in a model's folder, by name; empty if the model has other files.

    Raises as `safetensors.safe_open`, and `ValueError` for an invalid index.
    """
    return {name: tensor for file in weight_files(folder) for name, tensor in file_tensors(file).items()}


def file_tensors(file: str | Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name, from its header. Raises as `safetensors.safe_open` does."""
    tensors = {}
    with safe_open(file, framework="pt", backend="pread") as content:  # a map of the file would count as memory
        for key in content.keys():  # noqa: SIM118  not a dictionary
            tensor = content.get_slice(key)
            tensors[key] = StoredTensor(tensor.get_dtype(), tuple(tensor.get_shape()))
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads: one file, or the shards of an index."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    weights = json.loads(index.read_text(encoding="utf-8"))
    names = weights.get("weight_map") if isinstance(weights, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index.name} has no weight_map")
    return [folder / name for name in sorted(set(names.values()))]


@dataclass(frozen=True)
class StoredDtypes:
    """The dtypes of a checkpoint: `main`, that of most of its weights, and the `others` by tensor name."""

    main: torch.dtype
    others: Mapping[str, torch.dtype]

    @classmethod
    def of(cls, tensors: Mapping[str, StoredTensor], main: torch.dtype | None) -> StoredDtypes:
        """`main` is the dtype in the configuration, used if there are no tensors."""
        dtypes = {name: FLOATS[tensor.dtype] for name, tensor in tensors.items() if tensor.dtype in FLOATS}
        sizes: Counter[torch.dtype] = Counter()
        for name, dtype in dtypes.items():
            sizes[dtype] += math.prod(tensors[name].shape)
        most = sizes.most_common(1)[0][0] if sizes else main
        most = most if most in FLOATS.values() else torch.float32
        assert most is not None
        return cls(most, {name: dtype for name, dtype in dtypes.items() if dtype != most})

    def of_tensor(self, name: str) -> torch.dtype:
        """The dtype of a tensor by its name."""
        return self.others.get(name, self.main)

    def size(self, folder: Path) -> int:
        """The bytes of a folder's safetensors files if their tensors in float32 had these dtypes."""
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for name, tensor in stored_tensors(folder).items():
            if tensor.dtype == "F32":
                size -= (torch.float32.itemsize - self.of_tensor(name).itemsize) * math.prod(tensor.shape)
        return size

    def apply(self, model: PreTrainedModel) -> None:
        """Cast a model's floating-point weights in place to the dtypes of its checkpoint."""
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.of_tensor(name))
        for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
            if config is not None:
                config.dtype = self.main


def check_whole(name: str | os.PathLike[str], model: PreTrainedModel, report: dict, new_head_allowed: bool) -> None:
    """Refuse a checkpoint with missing or mismatched tensors, which transformers would initialise at random."""
    if not report["missing_keys"] and not report["mismatched_keys"]:
        return
    in_body = _body_tensors(model) if new_head_allowed else None

    def needed(key: str) -> bool:
        return in_body is None or (in_body(key) and not is_optional(key))

    missing = sorted(filter(needed, report["missing_keys"]))
    if missing:
        raise ModelError(
            f"{name}: its checkpoint lacks {counted(len(missing), 'tensor')} of the model, first {missing[0]}"
        )
    for key, stored, expected in sorted(report["mismatched_keys"]):
        if needed(key):
            shapes = f"{_shape(stored)}, expected {_shape(expected)}"
            raise ModelError(f"{name}: its checkpoint does not match its config.json: {key} is {shapes}")


def _body_tensors(model: PreTrainedModel) -> Callable[[str], bool]:
    """Whether a tensor, by its name in the model, belongs to the body and not to the head."""
    if model.base_model is not model:
        return lambda key: key.startswith(f"{model.base_model_prefix}.")
    with torch.device("meta"):  # T5 with a head has no separate body
        names = AutoModel.from_config(copy.deepcopy(model.config)).state_dict().keys()
    return lambda key: key in names


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
