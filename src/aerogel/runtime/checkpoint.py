"""The files of a packed checkpoint, compared with the model that they are loaded into."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from safetensors import SafetensorError
from torch import Tensor, nn

from aerogel.errors import ModelError, first_line
from aerogel.runtime import transformers_private as private
from aerogel.structure.plan import Plan, base_name
from aerogel.tables import counted

BLOCK = re.compile(r".*?\.\d+(?=\.)")  # the name of a block at the beginning of that of a module


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        files: the file of each tensor.
        shapes: the shape of each tensor.
        packed: those that are packed weights: rows of bytes.
        names: the names that each tensor gets in the model.
    """

    files: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    packed: list[str]
    names: dict[str, set[str]]

    @classmethod
    def of(cls, model: Any, files: Iterable[str], state: Collection[str]) -> Self:
        """Reads the headers of the files. Raises `ModelError` for a damaged file and for a tensor in two files."""
        from aerogel.models.checkpoint import file_tensors

        file_of: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        packed = []
        for file in files:
            try:
                tensors = file_tensors(file)
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file} is not a whole safetensors file ({first_line(error)})") from error
            if repeated := file_of.keys() & tensors.keys():
                raise ModelError(f"tensor {min(repeated)} is in two files of the checkpoint")
            file_of |= dict.fromkeys(tensors, file)
            shapes |= {key: tensor.shape for key, tensor in tensors.items()}
            packed += [key for key, tensor in tensors.items() if key.endswith(".weight") and tensor.is_bytes]
        return cls(file_of, shapes, packed, private.names_in_model(model, file_of, state))

    def check(self, model: Any, state: Collection[str]) -> None:
        """Raises `ModelError` if tensors are missing or unexpected, or if the model needs too much memory.

        A model of another class than the saved one may have a new head, or lack the old one; its body must be the same.
        A bare body may have been saved without its optional parts, which transformers then initialises, and reports.
        """
        self.check_complete(model, state)
        if unexpected := self._unexpected(model, state):
            extra = counted(len(unexpected), "tensor")
            raise ModelError(f"the checkpoint has {extra} that the model lacks, the first is {unexpected[0]}")
        self.check_memory(model)

    def check_complete(self, model: Any, state: Collection[str]) -> None:
        """Raises `ModelError` if tensors are missing."""
        if missing := self._missing(model, state):
            raise ModelError(
                f"the checkpoint lacks {counted(len(missing), 'tensor')} of the model, the first is {missing[0]}"
            )

    def check_structure(self, model: Any, state: Mapping[str, Tensor], plan: Plan) -> None:
        """Raises `ModelError` unless the files have the tensors of all blocks in the sizes of a shrunk model."""
        blocks = tuple({f"{match.group()}." for name in plan.entries if (match := BLOCK.match(name))})
        stored = {name: key for key, names in self.names.items() for name in names}
        for name, tensor in state.items():
            if not base_name(model, name).startswith(blocks) or stored.get(name) in self.packed:
                continue
            found = self.shapes[stored[name]] if name in stored else "none"
            if found != tuple(tensor.shape):
                raise ModelError(
                    f"the structure in config.json does not fit the checkpoint: {name} has the shape {found}, expected "
                    f"{tuple(tensor.shape)}"
                )

    def check_memory(self, model: Any) -> None:
        """Raises `ModelError` if the model needs far more memory than the files have bytes."""
        from aerogel.models.bounds import Contents

        packed = {name for key in self.packed for name in self.names[key]}
        shapes = {}
        for name, parameter in model.named_parameters():
            if name in packed and parameter.dim() == 2:
                is_linear = isinstance(model.get_submodule(name.removesuffix(".weight")), nn.Linear)
                shapes[name] = tuple(parameter.shape if is_linear else parameter.shape[::-1])
        Contents({}, sum(map(os.path.getsize, set(self.files.values())))).check_memory(model, shapes)

    def _missing(self, model: Any, state: Collection[str]) -> list[str]:
        tied, prefix, (same, bare) = model.all_tied_weights_keys, f"{model.base_model_prefix}.", _is_same(model)
        known = {name for names in self.names.values() for name in names}
        known |= {source for target, source in tied.items() if target in known}
        return [
            name
            for name in state
            if name not in known
            and name not in tied
            and not private.may_be_missing(model, name)
            and not (bare and private.may_be_missing(model, prefix + name))  # the names of Marian's body
            and not _may_differ(model, name)
            and (same or bare or name.startswith(prefix))
        ]

    def _unexpected(self, model: Any, state: Collection[str]) -> list[str]:
        prefix, (same, _) = f"{model.base_model_prefix}.", _is_same(model)
        prefixed = any(key.startswith(prefix) for key in self.names)
        return [
            key
            for key, names in self.names.items()
            if names.isdisjoint(state)
            and not private.may_be_unexpected(model, key)
            and not _may_differ(model, key)
            and (same or key.startswith(prefix) or not prefixed)
        ]


def _is_same(model: Any) -> tuple[bool, bool]:
    """Whether the model is of the class that was saved, and whether it is a bare body."""
    return type(model).__name__ in (model.config.architectures or ()), model.base_model is model


def _may_differ(model: Any, name: str) -> bool:
    from aerogel.models.checkpoint import is_optional

    same, bare = _is_same(model)
    return is_optional(name) and (bare or not same)
