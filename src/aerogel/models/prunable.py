"""Finds the prunable weights of a model by its structure, without a table of architectures."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from aerogel.errors import ModelError, PruningError, expect, unknown_name
from aerogel.models.targets import TARGETS

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# names in peft's modules of the model's own parts, or of a whole copy that is trained in place of one
WRAPPED = ("base_model", "model", "base_layer", "original_module", "modules_to_save", "token_adapter")


class PackedLayer(nn.Module):
    """A linear layer with a packed weight, which can be read but not changed. `aerogel.runtime` implements it."""

    out_features: int
    in_features: int

    @property
    def matrix(self) -> Tensor:
        """The weight, (d_out, d_in), unpacked at each access."""
        raise NotImplementedError


@dataclass(frozen=True)
class PrunableWeight:
    """A weight matrix as output rows: `matrix` is a (d_out, d_in) view that shares the model's memory.

    For a packed layer it is a copy. `target` is one of `TARGETS`.
    """

    name: str
    module: nn.Module
    target: str = "blocks"

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
    def zeros(self) -> Tensor:
        """True where `matrix` is 0 or -0, (d_out, d_in).

        It compares bits: on threads that flush denormals `== 0` is also true for denormals, and the threads of one
        operation may differ in that.
        """
        matrix = self.matrix
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[matrix.element_size()]
        return (matrix.view(integer) << 1) == 0  # without the sign

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of `matrix`, (d_out, d_in), or `None`."""
        gradient = self.parameter.grad
        return gradient.T if gradient is not None and isinstance(self.module, Conv1D) else gradient

    @property
    def layer(self) -> str:
        """The name of the transformer block, `bert.encoder.layer.3`, or of the matrix itself outside the blocks."""
        block = re.match(r".*?\.\d+(?=\.)", self.name)
        return block.group() if block else self.name

    @property
    def kind(self) -> str:
        """The name within the block: `attention.self.query`."""
        return self.name.removeprefix(f"{self.layer}.")


def prunable_weights(
    model: nn.Module,
    targets: Collection[str] = ("blocks",),
    exclude: Collection[str] = (),
    to_read: bool = False,
    *,
    on_meta: bool = False,
) -> list[PrunableWeight]:
    """The prunable weights of a model, in the model's order; tied weights once.

    `targets` are kinds: "blocks" (linear weights inside the transformer blocks), "embeddings" and "heads" (linear
    weights outside the blocks: poolers, classifiers, language-model heads). `exclude` are shell patterns of names.
    Either may be one string. A tied embedding and head is an embedding. Adapters are left out: the modules that peft
    adds, and those beside a module named `base_layer`.

    Raises `ModelError` for an unknown target, an exclusion that matches nothing, a model without prunable weights or
    with blocks that hold weights in other forms (Mixtral's fused experts); and for weights that are computed from other
    tensors (masks of `torch.nn.utils.prune`, weight norms), offloaded or quantized. Packed weights are refused unless
    `to_read`, and weights on the meta device unless `on_meta`.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> prunable_weights(model)[0].name
    'bert.encoder.layer.0.attention.self.query'
    """
    expect(model, nn.Module, ModelError, "a model (torch.nn.Module; aerogel.load returns one)")
    targets = (targets,) if isinstance(targets, str) else targets
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    for target in targets:
        if target not in TARGETS:
            raise ModelError(unknown_name("target", target, TARGETS))
    if "blocks" in targets:
        _check_forms(model)
    unused = set(exclude)
    weights, seen = [], set()
    for name, kind, module in _weights(model):
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        identity = id(module if weight is None else weight)
        if identity in seen:
            continue
        seen.add(identity)
        if kind not in targets:
            continue
        matching = [pattern for pattern in exclude if fnmatchcase(name, pattern)]
        unused.difference_update(matching)
        if matching:
            continue
        if not isinstance(module, PackedLayer):
            _check_weight(name, module, weight, on_meta)
        elif not to_read:
            raise ModelError(f"{name} is packed and can't be changed: use aerogel unpack or aerogel.decompress first")
        weights.append(PrunableWeight(name, module, kind))
    if unused:
        raise ModelError(f"exclude {sorted(unused)[0]!r} matches no prunable weight")
    if not weights:
        remaining = " that are not excluded" if exclude else ""
        raise ModelError(
            f"{type(model).__name__} has no prunable weights among {', '.join(targets)}{remaining}: "
            "expected nn.Linear or Conv1D modules inside an nn.ModuleList"
        )
    return weights


def parameter_count(model: nn.Module) -> int:
    """The number of parameters of the dense model: packed layers count with their zeros."""
    packed = [module for module in model.modules() if isinstance(module, PackedLayer)]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(
        layer.out_features * layer.in_features for layer in packed
    )


def _weights(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, target and module of each weight. Embeddings come first, so that a tied head counts as an embedding."""
    modules = list(_own_modules(model))
    blocks = _blocks(modules)
    for name, module in modules:
        if isinstance(module, nn.Embedding):
            yield name, "embeddings", module
    for name, module in modules:
        if isinstance(module, nn.Linear | Conv1D | PackedLayer):
            yield name, "blocks" if name.startswith(blocks) else "heads", module


def _own_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of `named_modules`, without those of adapters."""
    names: dict[nn.Module, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if module in names:
            return
        names[module] = name
        children = dict(module.named_children())
        if "base_layer" in children:
            children = {"base_layer": children["base_layer"]}
        elif any(kind.__module__.split(".")[0] == "peft" for kind in type(module).__mro__):
            children = {child: part for child, part in children.items() if child in WRAPPED}
        for child, part in children.items():
            visit(part, f"{name}.{child}" if name else child)

    visit(model, "")
    return [(name, module) for module, name in names.items()]


def _check_weight(name: str, module: nn.Module, weight: nn.Parameter | None, on_meta: bool) -> None:
    """Raise `ModelError` unless the weight is a plain floating-point parameter in memory."""
    if weight is None:
        sources = [part for part, _ in module.named_parameters(recurse=False) if part.startswith("weight_")]
        if parametrize.is_parametrized(module, "weight"):
            reason = "it is parametrized: call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
        elif hasattr(module, "weight_mask"):
            reason = "it has a mask of torch.nn.utils.prune: call torch.nn.utils.prune.remove(module, 'weight')"
        else:
            reason = f"it is computed from {' and '.join(sources) or 'other tensors'}: make it a parameter again"
        raise ModelError(f"the weight of {name} is not a parameter: {reason}")
    if weight.is_meta and not on_meta:
        raise ModelError(f"the weight of {name} is on device meta: load the model without offloading (device_map)")
    if weight.dtype not in FLOATS or type(weight.data) is not Tensor:
        form = type(weight.data).__name__ if weight.dtype in FLOATS else str(weight.dtype).removeprefix("torch.")
        raise ModelError(
            f"the weight of {name} is stored as {form}, expected a plain tensor of float32, bfloat16, float16 or "
            "float64: load the model without quantizing or sharding it"
        )


def _check_forms(model: nn.Module) -> None:
    modules = _own_modules(model)
    blocks = _blocks(modules)
    for name, module in modules:
        if isinstance(module, nn.Conv1d | nn.Conv2d) or not name.startswith(blocks):
            continue
        for weight, parameter in module.named_parameters(recurse=False):
            if parameter.squeeze().dim() > 2:
                raise ModelError(
                    f"{type(model).__name__} has {name}.{weight} as one tensor of {parameter.dim()} dimensions: "
                    "only nn.Linear and Conv1D weights can be pruned"
                )


def _blocks(modules: Collection[tuple[str, nn.Module]]) -> tuple[str, ...]:
    """The prefixes of the names of all modules in transformer blocks."""
    return tuple(f"{name}." for name, module in modules if isinstance(module, nn.ModuleList))


@contextmanager
def error_context(weight: PrunableWeight) -> Iterator[None]:
    """Puts the name of the layer before the message of a `PruningError`."""
    try:
        yield
    except PruningError as error:
        raise PruningError(f"layer {weight.name}: {error}") from error
