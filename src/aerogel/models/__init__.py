"""Models, tokenizers, and which of their weights can be pruned.

Names are imported when they are first used: the zoo's table does not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.models.card import Provenance
    from aerogel.models.loading import (
        Architecture,
        Head,
        architecture,
        has_tokenizer,
        head_kind,
        load,
        load_model,
        load_tokenizer,
        prepare,
        stored_dtypes,
    )
    from aerogel.models.mode import evaluating, on_cpu
    from aerogel.models.prunable import PackedLayer, PrunableWeight, parameter_count, prunable_weights
    from aerogel.models.saving import save
    from aerogel.models.zoo import ZOO, ZooEntry, offline_names

_HOMES = {
    "ZOO": "zoo",
    "Architecture": "loading",
    "Head": "loading",
    "PackedLayer": "prunable",
    "Provenance": "card",
    "PrunableWeight": "prunable",
    "ZooEntry": "zoo",
    "architecture": "loading",
    "evaluating": "mode",
    "has_tokenizer": "loading",
    "head_kind": "loading",
    "load": "loading",
    "load_model": "loading",
    "load_tokenizer": "loading",
    "offline_names": "zoo",
    "on_cpu": "mode",
    "parameter_count": "prunable",
    "prepare": "loading",
    "prunable_weights": "prunable",
    "save": "saving",
    "stored_dtypes": "loading",
}
__all__ = [
    "ZOO",
    "Architecture",
    "Head",
    "PackedLayer",
    "Provenance",
    "PrunableWeight",
    "ZooEntry",
    "architecture",
    "evaluating",
    "has_tokenizer",
    "head_kind",
    "load",
    "load_model",
    "load_tokenizer",
    "offline_names",
    "on_cpu",
    "parameter_count",
    "prepare",
    "prunable_weights",
    "save",
    "stored_dtypes",
]

__getattr__ = lazy_names(__name__, _HOMES)
