"""Removes the same number of structures in all layers, and whole layers, so that a stock configuration describes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from aerogel.errors import PruningError, first_line
from aerogel.structure.families import AttentionRoles, stock_fields
from aerogel.structure.plan import read_plan
from aerogel.structure.shrink import check_names, check_structures, keep
from aerogel.structure.sublayers import SubLayer, sublayers


def shrink_uniform(model: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> None:
    """As `shrink`, in place, but the result is an ordinary model, which transformers loads without aerogel.

    All sub-layers of one kind keep the same number of structures, except in blocks that keep none at all: these are
    dropped as whole layers, with their norms and biases. The configuration gets the new numbers: of layers, of neurons,
    and of heads where the family's configuration has the size of a head (Llama, Mistral, Qwen, T5).

    Raises as `shrink`, and `PruningError`, before anything is changed, for numbers that differ, for heads of other
    families, for a model that `shrink` has changed, and for numbers that the configuration refuses.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> names = [sublayer.name for sublayer in sublayers(model)]
    >>> shrink_uniform(model, dict.fromkeys(names[1:-2:2], range(300)) | dict.fromkeys(names[-2:], ()))
    >>> model.config.num_hidden_layers, model.config.intermediate_size
    (3, 300)
    """
    if read_plan(model):
        raise PruningError("layers differ in size already: expected a model that `shrink` has not changed")
    found = sublayers(model)
    check_names(found, kept)
    structures = {sublayer.name: [*kept.get(sublayer.name, range(sublayer.count))] for sublayer in found}
    staying = {sublayer.block for sublayer in found if structures[sublayer.name]}
    lists: dict[str, list[int]] = {}  # the numbers of the blocks that stay, by the name of their list
    for block in dict.fromkeys(sublayer.block for sublayer in found):
        name, _, number = block.rpartition(".")
        lists.setdefault(name, []).extend([int(number)] if block in staying else [])
    left = [sublayer for sublayer in found if sublayer.block in staying]
    for sublayer in left:
        check_structures(sublayer, structures[sublayer.name])
    fields = _fields(model, left, structures, lists)
    _check_position_bias(model, left, structures)
    _check_config(model, fields, lists)
    for sublayer in left:
        keep(model, sublayer, structures[sublayer.name])
    for name, numbers in lists.items():
        first = next(sublayer for sublayer in left if sublayer.block.startswith(f"{name}."))
        _keep_blocks(model, name, numbers, structures[first.name])
    for config in {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}.values():
        _set_fields(config, fields, lists)
    for name in lists:  # the encoder and the decoder of T5 have configurations of their own
        config = getattr(model.get_submodule(name.rpartition(".")[0]), "config", model.config)
        if config is not model.config:
            config.num_hidden_layers = len(lists[name])


def _fields(
    model: PreTrainedModel,
    left: Sequence[SubLayer],
    structures: Mapping[str, Sequence[int]],
    lists: Mapping[str, Sequence[int]],
) -> dict[str, int]:
    """The fields of the configuration. Raises `PruningError` for what it can't say."""
    fields: dict[str, int] = {}
    for name, numbers in lists.items():
        if not numbers:
            raise PruningError(f"{name} would lose all its layers: expected at least one that keeps structures")
        fields[stock_fields(model.get_submodule(f"{name}.0")).layers] = len(numbers)
    for sublayer in left:
        count = len(structures[sublayer.name])
        for field, value in _fields_of(model, sublayer, count).items():
            if fields.setdefault(field, value) != value or not value:
                raise PruningError(
                    f"{sublayer.name} keeps {count} structures, so {field} would be {value}, found {fields[field]} in "
                    "other layers: all layers have to keep the same number, at least one, or be dropped"
                )
    return fields


def _fields_of(model: PreTrainedModel, sublayer: SubLayer, count: int) -> dict[str, int]:
    stock, core = stock_fields(model.get_submodule(sublayer.block)), model.get_submodule(sublayer.name)
    if not isinstance(sublayer.roles, AttentionRoles):
        return {stock.neurons: count}
    if stock.heads:
        head_size = getattr(core, sublayer.roles.head_size)
        fields = {stock.heads: count * sublayer.size // head_size, "head_dim": head_size}
        return fields | ({stock.key_heads: count} if stock.key_heads else {})
    if count != sublayer.count:
        raise PruningError(
            f"{sublayer.name} can't keep {count} of {sublayer.count} heads: in the configuration of this family their "
            "size depends on their number, so that layers have to keep all heads or be dropped"
        )
    return {}


def _check_position_bias(
    model: PreTrainedModel, left: Sequence[SubLayer], structures: Mapping[str, Sequence[int]]
) -> None:
    """Raise `PruningError` if layers that share a position bias keep different heads."""
    firsts: dict[str, SubLayer] = {}
    for sublayer in left:
        if sublayer.kind == "attention" and hasattr(model.get_submodule(sublayer.name), "has_relative_attention_bias"):
            first = firsts.setdefault(sublayer.block.rpartition(".")[0], sublayer)
            if [*structures[sublayer.name]] != [*structures[first.name]]:
                raise PruningError(
                    f"{sublayer.name} keeps the heads {[*structures[sublayer.name]]}, and {first.name} "
                    f"{[*structures[first.name]]}: they share a position bias and have to keep the same heads"
                )


def _check_config(model: PreTrainedModel, fields: Mapping[str, int], lists: Mapping[str, Sequence[int]]) -> None:
    """Raise `PruningError` for fields that transformers refuses or can't use, and for layers scaled by their number."""
    config = model.config
    trial = copy.deepcopy(config)
    _set_fields(trial, fields, lists)
    try:
        trial.validate()
    except Exception as error:  # of huggingface_hub
        raise PruningError(f"{type(config).__name__} refuses {dict(fields)}: {first_line(error)}") from error
    drops = any(max(numbers) >= len(numbers) for numbers in lists.values())
    if drops and getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise PruningError("layers can't be dropped: each is scaled by its number (scale_attn_by_inverse_layer_idx)")
    encoder, decoder = (fields.get(name, 0) for name in ("num_hidden_layers", "num_decoder_layers"))
    if decoder > encoder and model.can_generate():
        raise PruningError(  # the cache of transformers has as many layers as the encoder
            f"num_decoder_layers would be {decoder}, and num_layers {encoder}: transformers can't generate text with a "
            "T5 whose encoder has fewer layers than its decoder"
        )


def _set_fields(config: PretrainedConfig, fields: Mapping[str, int], lists: Mapping[str, Sequence[int]]) -> None:
    for name, value in fields.items():
        setattr(config, name, value)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[number] for numbers in lists.values() for number in numbers]


def _keep_blocks(model: PreTrainedModel, name: str, numbers: Sequence[int], heads: Sequence[int]) -> None:
    """Drop the other blocks of a list, and number those that stay; `heads` are those that the attentions have kept."""
    blocks: Any = model.get_submodule(name)
    kept: Any = nn.ModuleList([blocks[number] for number in numbers])
    model.set_submodule(name, kept)
    for number, block in enumerate(kept):
        for module in block.modules():
            if getattr(module, "layer_idx", None) is not None:
                module.layer_idx = number
    if hasattr(blocks[0], "layer") and hasattr(core := blocks[0].layer[0].SelfAttention, "relative_attention_bias"):
        bias = core.relative_attention_bias  # T5's first layer computes it for all
        bias.weight.data = bias.weight.data[:, list(heads)].contiguous()
        bias.embedding_dim = len(heads)
        first = kept[0].layer[0].SelfAttention
        first.has_relative_attention_bias, first.relative_attention_bias = True, bias
