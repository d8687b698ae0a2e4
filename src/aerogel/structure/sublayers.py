"""Finds the sub-layers of a model (the attentions and feed-forward layers of its blocks) and their structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aerogel.errors import TRANSFORMERS_MODEL, ModelError, expect
from aerogel.models import PackedLayer, PrunableWeight
from aerogel.structure.empty import EmptyAttention, OutputBias
from aerogel.structure.families import BLOCKS, AttentionRoles, Kind, Roles, block_roles
from aerogel.structure.plan import base_name, read_plan


@dataclass(frozen=True)
class InputRows:
    """The rows of a matrix that compute one structure after another: `size` rows each, in every part of the matrix.

    `offsets` are the first rows of the parts: GPT-2 joins those of query, key and value in one matrix.
    """

    weight: PrunableWeight
    size: int
    offsets: tuple[int, ...] = (0,)

    def rows(self, structures: Sequence[int]) -> Tensor:
        """The rows of these structures, part by part."""
        each = columns(structures, self.size)
        return torch.cat([offset + each for offset in self.offsets])


@dataclass(frozen=True)
class SubLayer:
    """An attention, or the feed-forward layers, of one block. Its structures are heads or neurons.

    With grouped queries a structure is a key and value head with all its query heads.

    Attributes:
        name: the name of the module that is shrunk, `bert.encoder.layer.0.attention.self`.
        block: the name of its block, `bert.encoder.layer.0`.
        output: the matrix that writes to the hidden states: structure i has the `size` columns from i * size on.
        inputs: the matrices whose rows compute the structures: query, key and value; up and gate.
        size: the columns of `output` in one structure.
        count: the structures that the sub-layer has now.
        original: the structures that it had before any were removed.
        at_least: the structures that it can't lose.
        parameters: those of one structure: rows, columns and biases.
        roles: where its parts are in the block.
    """

    name: str
    block: str
    kind: Kind
    output: PrunableWeight
    inputs: tuple[InputRows, ...]
    size: int
    count: int
    original: int
    at_least: int
    parameters: int
    roles: Roles

    @property
    def stack(self) -> str:
        """The name of the list that has its block, `bert.encoder.layer`."""
        return self.block.rpartition(".")[0]


def sublayers(model: PreTrainedModel) -> list[SubLayer]:
    """The sub-layers that have structures left, in the model's order.

    Raises `ModelError` for a family without known heads and neurons, and for a packed model.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> first = sublayers(model)[0]
    >>> first.name, first.count, first.size
    ('bert.encoder.layer.0.attention.self', 4, 32)
    """
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    for name, module in model.named_modules():
        if isinstance(module, PackedLayer):
            raise ModelError(f"{name} is packed and can't be changed: use aerogel unpack or aerogel.decompress first")
    return list(_sublayers(model))


def columns(structures: Sequence[int], size: int) -> Tensor:
    """The columns of these structures, (structures * size)."""
    starts = torch.as_tensor(list(structures), dtype=torch.long, device="cpu")
    return (starts[:, None] * size + torch.arange(size, device="cpu")).flatten()


def _sublayers(model: PreTrainedModel) -> Iterator[SubLayer]:
    plan, is_known = read_plan(model), False
    for block_name, block in model.named_modules():
        for roles in block_roles(type(block)):
            if (module := part(block, roles.name)) is None:
                continue
            is_known = True
            if not is_empty(block, roles):
                found = _read(block_name, block, module, roles)
                entry = plan.entries.get(base_name(model, found.name)) if plan else None
                yield replace(found, original=entry.of) if entry else found
    if not is_known:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        blocks = sorted({type(block).__name__ for blocks in lists for block in blocks})
        raise ModelError(
            f"{type(model).__name__} can't lose heads or neurons: where a block has them is known for "
            f"{', '.join(BLOCKS)}, and its blocks are {', '.join(blocks) or 'not in lists'}"
        )


def is_empty(block: nn.Module, roles: Roles) -> bool:
    """Whether this sub-layer of a block has no structures left."""
    return isinstance(part(block, roles.output), OutputBias) or isinstance(part(block, roles.name), EmptyAttention)


def part(module: nn.Module, path: str) -> nn.Module | None:
    """The module of this path, or `None`."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _read(block_name: str, block: nn.Module, module: nn.Module, roles: Roles) -> SubLayer:
    output = _weight(block_name, block, roles.output)
    width = output.matrix.shape[1]
    if isinstance(roles, AttentionRoles):
        head_size, groups = getattr(module, roles.head_size), getattr(module, "num_key_value_groups", 1)
        size = head_size * groups
        inputs = []
        for path, parts in roles.projections.items():
            each = [size if name == "q" else head_size for name in parts]
            offsets = tuple(sum(each[:index]) * (width // size) for index in range(len(parts)))
            inputs.append(InputRows(_weight(block_name, block, path), each[0], offsets))
    else:
        size = 1
        inputs = [InputRows(_weight(block_name, block, path), 1) for path in roles.inputs if part(block, path)]
    count = width // size
    for rows in inputs:
        if rows.weight.matrix.shape[0] != len(rows.offsets) * rows.size * count or width % size:
            raise ModelError(
                f"{rows.weight.name} has {rows.weight.matrix.shape[0]} outputs, which does not fit the {width} inputs "
                f"of {output.name} in structures of {size}"
            )
    return SubLayer(
        name=f"{block_name}.{roles.name}",
        block=block_name,
        kind=roles.kind,
        output=output,
        inputs=tuple(inputs),
        size=size,
        count=count,
        original=count,
        at_least=_at_least(block_name, module) if roles.kind == "attention" else 0,
        parameters=size * output.matrix.shape[0] + sum(map(_row_parameters, inputs)),
        roles=roles,
    )


def _weight(block_name: str, block: nn.Module, path: str) -> PrunableWeight:
    module, name = part(block, path), f"{block_name}.{path}"
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(module.weight, nn.Parameter):
        raise ModelError(
            f"{name} is {type(module).__name__}, expected a linear layer with a weight of its own: merge adapters and "
            "remove parametrizations before structures are removed"
        )
    return PrunableWeight(name, module)


def _row_parameters(rows: InputRows) -> int:
    """The parameters of one structure in this matrix."""
    in_features = rows.weight.matrix.shape[1]
    has_bias = getattr(rows.weight.module, "bias", None) is not None
    return rows.size * len(rows.offsets) * (in_features + has_bias)


def _at_least(block_name: str, core: nn.Module) -> int:
    """1 for the attention whose cache says how long the text is, and for the one that computes the position bias."""
    number = int(block_name.rpartition(".")[2])
    types = (
        getattr(getattr(core, "config", None), "layer_types", None) or ()
    )  # each type of layer has a mask as long as its first cache
    is_first = types.index(types[number]) == number if number < len(types) else number == 0
    caches = is_first and bool(getattr(core, "is_causal", False))
    return int(caches or bool(getattr(core, "has_relative_attention_bias", False)))
