"""Removes structures from a model in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aerogel.errors import ModelError, PruningError, excerpt, unknown_name
from aerogel.structure.empty import EmptyAttention, EmptyT5Attention, NoFeatures, OutputBias
from aerogel.structure.families import AttentionRoles
from aerogel.structure.plan import Kept, KeptHeads, KeptNeurons, Plan, base_name, read_plan, write_plan
from aerogel.structure.sublayers import SubLayer, columns, sublayers


def shrink(model: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> None:
    """Keep only these structures of the named sub-layers, in place; other sub-layers keep all.

    The model then computes what the dense one does with zeros in the columns of the others. A sub-layer without
    structures only adds its output bias. `save_pretrained` writes what was kept into config.json, and with aerogel
    imported `from_pretrained` loads the small model. Parameters stay the same objects, with other sizes and without
    gradients; those of empty sub-layers are gone, except for the bias of the output.

    Args:
        model: a model with its own weights: not packed, without adapters.
        kept: for names of `sublayers(model)` the indices of structures, increasing, as the model has them now.

    Raises `ModelError` for an unknown name, and as `sublayers`; `PruningError` for indices that are out of range or not
    increasing, and for too few structures. Nothing is changed then.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> shrink(model, {"bert.encoder.layer.0.attention.self": [0, 3], "bert.encoder.layer.1.intermediate": range(100)})
    >>> [sublayer.count for sublayer in sublayers(model)][:4]
    [2, 512, 4, 100]
    """
    found = {sublayer.name: sublayer for sublayer in sublayers(model)}
    check_names(found.values(), kept)
    for name, structures in kept.items():
        check_structures(found[name], structures)
    plan = read_plan(model) or whole_plan(model, found.values())
    entries = dict(plan.entries)
    for name, structures in kept.items():
        key = base_name(model, name)
        entries[key] = _selected(entries[key], structures)
    for name, structures in kept.items():
        keep(model, found[name], structures, entries[base_name(model, name)])
    write_plan(model, Plan(entries))


def shrink_as_planned(model: PreTrainedModel, plan: Plan) -> Plan:
    """Shrink a model that was just built from its configuration, with any weights or none (device meta), to a plan.

    Returns the plan in the model's order. Raises `ModelError` if it does not fit the model.
    """
    found = {base_name(model, sublayer.name): sublayer for sublayer in sublayers(model)}
    for name in plan.entries.keys() - found.keys():
        if hasattr(model.base_model, name.partition(".")[0]):  # T5's encoder alone has no decoder
            raise ModelError(f"the structure in config.json has {name}, which {type(model).__name__} does not have")
    for name, sublayer in found.items():
        _check_entry(sublayer, plan.entries.get(name))
    for name, sublayer in found.items():
        entry = plan.entries[name]
        keep(model, sublayer, entry.heads if isinstance(entry, KeptHeads) else range(entry.neurons), entry)
    absent = {name: entry for name, entry in plan.entries.items() if name not in found}
    return Plan({name: plan.entries[name] for name in found} | absent)


def check_names(found: Iterable[SubLayer], kept: Iterable[str]) -> None:
    """Raise `ModelError` for the name of an unknown sub-layer."""
    names = [sublayer.name for sublayer in found]
    for name in kept:
        if name not in names:
            raise ModelError(unknown_name("sub-layer", name, names))


def check_structures(sublayer: SubLayer, structures: Sequence[int]) -> None:
    """Raise `PruningError` for structures that a sub-layer can't keep."""
    name, indices = sublayer.name, [*structures]
    if not all(isinstance(index, int) for index in indices) or indices != sorted({*indices}):
        raise PruningError(f"{name}: expected increasing indices of structures, found {excerpt(indices)}")
    if indices and not 0 <= indices[0] <= indices[-1] < sublayer.count:
        raise PruningError(f"{name} has {sublayer.count} structures, from 0: found {excerpt(indices)}")
    if len(indices) < sublayer.at_least:
        raise PruningError(
            f"{name} has to keep {sublayer.at_least} of its {sublayer.count} structures, found {len(indices)}: the "
            "layers after it use its cache or its position bias"
        )


def keep(model: PreTrainedModel, sublayer: SubLayer, structures: Sequence[int], entry: Kept | None = None) -> None:
    """Remove all but these structures of a sub-layer; `entry` is what it has kept then, if layers may differ."""
    if len(structures) == sublayer.count:
        return
    if not structures:
        _empty(model, sublayer)
        return
    for rows in sublayer.inputs:
        keep_rows(rows.weight.module, rows.rows(structures))
    keep_columns(sublayer.output.module, columns(structures, sublayer.size))
    roles, module = sublayer.roles, model.get_submodule(sublayer.name)
    names = roles.heads if isinstance(roles, AttentionRoles) else ()
    for name in names:
        setattr(module, name, len(structures))
    for name in roles.widths:
        setattr(module, name, sublayer.size * len(structures))
    if isinstance(entry, KeptHeads):
        _keep_position_bias(module, entry)


def keep_rows(module: nn.Module, rows: Tensor) -> None:
    """Keep these outputs of a linear layer."""
    _select(module, "weight", rows, 1 if isinstance(module, Conv1D) else 0)
    _select(module, "bias", rows, 0)
    setattr(module, "nf" if isinstance(module, Conv1D) else "out_features", len(rows))


def keep_columns(module: nn.Module, columns: Tensor) -> None:
    """Keep these inputs of a linear layer."""
    _select(module, "weight", columns, 0 if isinstance(module, Conv1D) else 1)
    setattr(module, "nx" if isinstance(module, Conv1D) else "in_features", len(columns))


def whole_plan(model: PreTrainedModel, found: Iterable[SubLayer]) -> Plan:
    """The plan of a model that has kept everything."""
    return Plan(
        {
            base_name(model, sublayer.name): KeptNeurons(sublayer.count, sublayer.count)
            if sublayer.kind == "feed_forward"
            else KeptHeads(tuple(range(sublayer.count)), sublayer.count)
            for sublayer in found
        }
    )


def _selected(entry: Kept, structures: Sequence[int]) -> Kept:
    if isinstance(entry, KeptHeads):
        return KeptHeads(tuple(entry.heads[index] for index in structures), entry.of)
    return KeptNeurons(len(structures), entry.of)


def _check_entry(sublayer: SubLayer, entry: Kept | None) -> None:
    if entry is None:
        raise ModelError(f"the structure in config.json does not say what {sublayer.name} has kept")
    if isinstance(entry, KeptNeurons) != (sublayer.kind == "feed_forward") or entry.of != sublayer.count:
        raise ModelError(
            f"the structure in config.json does not fit: {sublayer.name} has {sublayer.count} structures in the "
            f"original model, found {excerpt(entry)}"
        )
    if entry.count < sublayer.at_least:
        raise ModelError(f"the structure in config.json leaves {sublayer.name} without heads: it has to keep one")


def _select(module: nn.Module, name: str, index: Tensor, dimension: int) -> None:
    parameter = getattr(module, name, None)
    if isinstance(parameter, nn.Parameter):
        parameter.grad = None
        parameter.data = parameter.data.index_select(dimension, index.to(parameter.device)).contiguous()


def _empty(model: PreTrainedModel, sublayer: SubLayer) -> None:
    name, output = sublayer.name, sublayer.output
    bias = OutputBias(output.matrix.shape[0], getattr(output.module, "bias", None))
    if sublayer.kind == "feed_forward":
        for rows in sublayer.inputs:
            model.set_submodule(rows.weight.name, NoFeatures())
        model.set_submodule(output.name, bias)
        return
    core = model.get_submodule(name)
    config = getattr(core, "config", model.config)
    empty = EmptyT5Attention if hasattr(core, "has_relative_attention_bias") else EmptyAttention
    if output.name.startswith(f"{name}."):
        model.set_submodule(name, empty(config, output.name.removeprefix(f"{name}."), bias))
    else:
        model.set_submodule(name, empty(config))
        model.set_submodule(output.name, bias)


def _keep_position_bias(core: Any, entry: KeptHeads) -> None:
    """Lets the attentions of families with a bias of positions select the part of their heads."""
    from aerogel.structure.position_bias import KEPT

    kept = next((KEPT[kind.__name__] for kind in type(core).__mro__ if kind.__name__ in KEPT), None)
    if kept:
        core.__class__ = kept
        core.kept_heads, core.original_heads = [*entry.heads], entry.of
