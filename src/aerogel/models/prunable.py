"""Which weights of a model can be pruned, found by structure: no table of architectures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from aerogel.errors import ModelError, unknown_name

TARGETS = ("blocks", "embeddings", "heads")


@dataclass(frozen=True)
class PrunableWeight:
    """A weight matrix seen by output rows: `matrix` is a (d_out, d_in) view that shares the model's memory."""

    name: str
    module: nn.Module

    @property
    def parameter(self) -> nn.Parameter:
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def matrix(self) -> Tensor:
        weight = self.parameter.detach()
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def layer(self) -> str:
        """The transformer block that the matrix stands in, `bert.encoder.layer.3`; its own name outside one."""
        block = re.match(r".*?\.\d+(?=\.)", self.name)
        return block.group() if block else self.name

    @property
    def kind(self) -> str:
        """What the matrix is within its block: `attention.self.query`."""
        return self.name.removeprefix(f"{self.layer}.")


def prunable_weights(
    model: nn.Module, targets: Collection[str] = ("blocks",), exclude: Collection[str] = ()
) -> list[PrunableWeight]:
    """The weights to prune, in the model's order, each once even when it is tied.

    `targets` are kinds: "blocks" (linear weights inside the transformer blocks), "embeddings",
    "heads" (linear weights outside the blocks: poolers, classifiers, language-model heads); `exclude`
    are shell patterns on names. A tied embedding and head is an embedding. Raises `ModelError` for
    an unknown target, an exclusion that excludes nothing, or a model in which nothing is left, or
    whose blocks hold weights in other forms (the fused experts of Mixtral), which would be passed over.
    """
    for target in targets:
        if target not in TARGETS:
            raise ModelError(unknown_name("target", target, TARGETS))
    if "blocks" in targets:
        _check_forms(model)
    unused = set(exclude)
    found, seen = [], set()
    for name, kind, module in _weights(model):
        if id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        if kind not in targets:
            continue
        matching = [pattern for pattern in exclude if fnmatchcase(name, pattern)]
        unused.difference_update(matching)
        if not matching:
            found.append(PrunableWeight(name, module))
    if unused:
        raise ModelError(f"exclude {sorted(unused)[0]!r} matches no prunable weight")
    if not found:
        left = " that are not excluded" if exclude else ""
        raise ModelError(
            f"{type(model).__name__} has no prunable weights among {', '.join(targets)}{left}: "
            "blocks are nn.Linear or Conv1D modules inside an nn.ModuleList"
        )
    return found


def _weights(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Embeddings first, so that a tied head counts as the embedding that it is."""
    modules = list(model.named_modules())
    blocks = _blocks(model)
    for name, module in modules:
        if isinstance(module, nn.Embedding):
            yield name, "embeddings", module
    for name, module in modules:
        if isinstance(module, nn.Linear | Conv1D):
            yield name, "blocks" if name.startswith(blocks) else "heads", module


def _check_forms(model: nn.Module) -> None:
    blocks = _blocks(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) or not name.startswith(blocks):
            continue
        for weight, parameter in module.named_parameters(recurse=False):
            if parameter.squeeze().dim() > 2:
                raise ModelError(
                    f"{type(model).__name__} keeps {name}.{weight} as one tensor of {parameter.dim()} dimensions: "
                    "only nn.Linear and Conv1D weights can be pruned, and the model would stay dense there"
                )


def _blocks(model: nn.Module) -> tuple[str, ...]:
    """What the names of all modules in the transformer blocks start with."""
    return tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
