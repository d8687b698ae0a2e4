"""Which structures a model has kept: a record in the `quantization_config` of its configuration.

This module is imported while transformers is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aerogel.errors import ModelError, excerpt
from aerogel.models.marking import mark_config, marked_config

FIELD = "structure"  # of quantization_config


@dataclass(frozen=True)
class KeptHeads:
    """The heads that an attention has kept, by their index in the original model, which had `of` heads."""

    heads: tuple[int, ...]
    of: int

    @property
    def count(self) -> int:
        return len(self.heads)


@dataclass(frozen=True)
class KeptNeurons:
    """The number of neurons that feed-forward layers have kept, and the number `of` those in the original model."""

    neurons: int
    of: int

    @property
    def count(self) -> int:
        return self.neurons


Kept = KeptHeads | KeptNeurons


@dataclass(frozen=True)
class Plan:
    """What each sub-layer of a model has kept, by its name in the base model: `encoder.layer.0.attention.self`."""

    entries: Mapping[str, Kept]

    @classmethod
    def of(cls, content: Any) -> Plan:
        """Read the plan of a config.json. Raises `ModelError`.

        >>> plan = Plan.of({"layers.0.self_attn": {"heads": [0, 2], "of": 4}, "layers.0.mlp": {"neurons": 9, "of": 64}})
        >>> [(name, kept.count) for name, kept in plan.entries.items()]
        [('layers.0.self_attn', 2), ('layers.0.mlp', 9)]
        >>> Plan.of(plan.content()) == plan
        True
        """
        if not isinstance(content, Mapping) or not content:
            raise ModelError(f"{FIELD} in config.json is {excerpt(content)}: expected what each sub-layer has kept")
        return cls({str(name): _kept(str(name), entry) for name, entry in content.items()})

    def content(self) -> dict[str, dict[str, Any]]:
        """As JSON: the inverse of `of`."""
        return {
            name: {"heads": [*kept.heads], "of": kept.of} if isinstance(kept, KeptHeads) else vars(kept).copy()
            for name, kept in self.entries.items()
        }


@dataclass(frozen=True)
class Removed:
    """How many of the `original` heads or neurons of a sub-layer are `kept`."""

    name: str
    kind: str  # heads or neurons
    kept: int
    original: int


def removed(model: Any) -> list[Removed]:
    """What each sub-layer of a model has kept, in the model's order; empty if nothing was removed.

    >>> import aerogel
    >>> from aerogel.structure import shrink
    >>> model, _ = aerogel.load("tiny-bert")
    >>> shrink(model, {"bert.encoder.layer.0.attention.self": [0, 3]})
    >>> removed(model)[0]
    Removed(name='encoder.layer.0.attention.self', kind='heads', kept=2, original=4)
    """
    plan = read_plan(model)
    return [
        Removed(name, "heads" if isinstance(kept, KeptHeads) else "neurons", kept.count, kept.of)
        for name, kept in (plan.entries.items() if plan else ())
    ]


def read_plan(model: Any) -> Plan | None:
    """The plan in the configuration of a model, or `None`. Raises `ModelError` for an invalid one."""
    content = marked_config(model).get(FIELD)
    return None if content is None else Plan.of(content)


def write_plan(model: Any, plan: Plan) -> None:
    """Puts a plan into the configuration of a model that is not packed, so that its checkpoints have it."""
    mark_config(model, **{FIELD: plan.content()})


def base_name(model: Any, name: str) -> str:
    """The name of a module in the base model, which is the same for all heads: `BertModel`, `BertForMaskedLM`."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _kept(name: str, entry: Any) -> Kept:
    is_valid = isinstance(entry, Mapping) and set(entry) in ({"heads", "of"}, {"neurons", "of"})
    if is_valid and _is_count(entry["of"]):
        heads, neurons, of = entry.get("heads"), entry.get("neurons"), entry["of"]
        if _is_count(neurons) and neurons <= of:
            return KeptNeurons(neurons, of)
        is_list = isinstance(heads, list | tuple) and all(map(_is_count, heads))
        if is_list and [*heads] == sorted({*heads}) and max(heads, default=-1) < of:
            return KeptHeads(tuple(heads), of)
    raise ModelError(
        f"{FIELD} in config.json has {excerpt(entry)} for {name}: expected heads, increasing indices, or neurons, a "
        "number, and of, the number in the original model"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
