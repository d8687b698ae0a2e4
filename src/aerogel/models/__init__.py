"""What comes in: models, tokenizers, and which of their weights can be pruned."""

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
    save,
)
from aerogel.models.mode import evaluating, on_cpu
from aerogel.models.prunable import PackedLayer, PrunableWeight, parameter_count, prunable_weights
from aerogel.models.zoo import ZOO, ZooEntry, offline_names

__all__ = [
    "ZOO",
    "Architecture",
    "Head",
    "PackedLayer",
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
]
