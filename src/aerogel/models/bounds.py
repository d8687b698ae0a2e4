"""Limits on what a config.json may request relative to the weight files, checked before memory is allocated."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from aerogel.errors import ModelError
from aerogel.models.checkpoint import StoredTensor, stored_tensors, weight_files
from aerogel.tables import counted

# A layer has tensors, but some models call one layer several times (ALBERT). This many are always quick to build.
FREE_LAYERS = 1024
# Zeros of packed layers and computed buffers (masks of all positions) take memory but no space in the files; at
# 99.9% sparsity a packed layer takes 3 times its bytes.
FREE_BYTES, BYTES_PER_BYTE = 2**28, 16
COUNTS_LAYERS = re.compile(r"(^|_)(n_)?(layers?|depths?|blocks)$")


@dataclass(frozen=True)
class Contents:
    """The tensors and the size of a checkpoint's weight files."""

    tensors: Mapping[str, StoredTensor]
    size: int  # bytes

    @classmethod
    def of(cls, folder: Path) -> Contents:
        """Raises as `stored_tensors`."""
        files = weight_files(folder) or sorted(folder.glob("*.bin"))
        return cls(stored_tensors(folder), sum(file.stat().st_size for file in files))

    def check_layers(self, config: Mapping[str, Any]) -> None:
        """Raise `ModelError` if a config.json requests more layers than there are tensors."""
        most = max(FREE_LAYERS, len(self.tensors) or self.size // 256)
        for name, count in _layer_counts(config):
            if count > most:
                raise ModelError(
                    f"config.json requests {count} layers ({name}) for {counted(len(self.tensors), 'stored tensor')}"
                )

    def check_memory(self, model: nn.Module, packed: Mapping[str, tuple[int, int]]) -> None:
        """Raise `ModelError` if a model, built on the meta device, needs far more memory than its files have bytes.

        `packed` has the shape (rows, columns) of each packed weight, by name.
        """
        dense = [tensor for name, tensor in model.named_parameters() if name not in packed]
        needed = sum(tensor.nbytes for tensor in (*dense, *model.buffers()))
        needed += sum(4 * rows * -(-columns // 128) for rows, columns in packed.values())  # the order of the rows
        if needed > FREE_BYTES + BYTES_PER_BYTE * self.size:
            size = f"{self.size / 1e6:.1f} MB"
            raise ModelError(f"config.json requests a model of {needed / 1e9:.1f} GB, but its weight files have {size}")


def check_layers(folder: Path, config: Mapping[str, Any] | None = None) -> None:
    """Check a configuration, by default the folder's config.json before transformers reads it.

    Raises as `Contents.check_layers` and `stored_tensors`.
    """
    if config is None:
        with contextlib.suppress(OSError, ValueError, RecursionError):  # transformers reports what is wrong
            stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = stored if isinstance(stored, dict) else None
    if any(count > FREE_LAYERS for _, count in _layer_counts(config or {})):
        Contents.of(folder).check_layers(config or {})


def _layer_counts(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if isinstance(value, dict) and depth < 8:
            yield from _layer_counts(value, depth + 1)
        elif COUNTS_LAYERS.search(str(name)):
            if isinstance(value, int):
                yield name, value
            elif isinstance(value, list):  # the layers of each stage, or indices of layers
                counts = [count for count in value if isinstance(count, int)]
                total = sum(counts) if "depth" in name else max(counts, default=0)
                yield name, max(total, len(value))
