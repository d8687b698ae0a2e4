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


class PackedLayer(nn.Module):
    """A linear layer whose weight is packed, so that it can be read but not changed: `aerogel.runtime` has it."""

    out_features: int
    in_features: int

    @property
    def matrix(self) -> Tensor:
        """The (d_out, d_in) weight, unpacked anew."""
        raise NotImplementedError


@dataclass(frozen=True)
class PrunableWeight:
    """A weight matrix seen by output rows: `matrix` is a (d_out, d_in) view that shares the model's memory.

    Of a packed layer it is a copy.
    """

    name: str
    module: nn.Module

    @property
    def parameter(self) -> nn.Parameter:
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def matrix(self) -> Tensor:
        if isinstance(self.module, PackedLayer):
            return self.module.matrix
        weight = self.parameter.detach()
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of `matrix`, likewise (d_out, d_in), or `None` where training gave none."""
        gradient = self.parameter.grad
        return gradient.T if gradient is not None and isinstance(self.module, Conv1D) else gradient

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
    model: nn.Module, targets: Collection[str] = ("blocks",), exclude: Collection[str] = (), to_read: bool = False
) -> list[PrunableWeight]:
    """The weights to prune, in the model's order, each once even when it is tied.

    `targets` are kinds: "blocks" (linear weights inside the transformer blocks), "embeddings",
    "heads" (linear weights outside the blocks: poolers, classifiers, language-model heads); `exclude`
    are shell patterns on names. A tied embedding and head is an embedding. Raises `ModelError` for
    an unknown target, an exclusion that excludes nothing, or a model in which nothing is left, or
    whose blocks hold weights in other forms (the fused experts of Mixtral), which would be passed over. Packed
    weights are refused as well, unless they are only `to_read`.
    """
    for target in targets:
        if target not in TARGETS:
            raise ModelError(unknown_name("target", target, TARGETS))
    if "blocks" in targets:
        _check_forms(model)
    unused = set(exclude)
    found, seen = [], set()
    for name, kind, module in _weights(model):
        held = module if isinstance(module, PackedLayer) else module.weight
        if id(held) in seen:
            continue
        seen.add(id(held))
        if kind not in targets:
            continue
        if held is module and not to_read:
            raise ModelError(
                f"{name} is packed and can't be changed: unpack the model first (aerogel unpack DIR --output DIR, "
                "or aerogel.decompress)"
            )
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


def parameter_count(model: nn.Module) -> int:
    """All weights of a model, those of packed layers with their zeros, as the dense model has them."""
    packed = [module for module in model.modules() if isinstance(module, PackedLayer)]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(
        layer.out_features * layer.in_features for layer in packed
    )


def _weights(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Embeddings first, so that a tied head counts as the embedding that it is."""
    modules = list(model.named_modules())
    blocks = _blocks(model)
    for name, module in modules:
        if isinstance(module, nn.Embedding):
            yield name, "embeddings", module
    for name, module in modules:
        if isinstance(module, nn.Linear | Conv1D | PackedLayer):
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
