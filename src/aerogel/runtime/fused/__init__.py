"""Whole blocks in one call: intermediate results between two sparse products stay in the cache.

A block of a known family changes its class to a subclass here, and keeps its modules, names and state. Its forward pass
calls a fused operator where all layers are sparse, and the family's own code for anything else: an unknown argument,
another attention implementation, a layer that stayed dense.
"""

import importlib

from torch import nn
from transformers import PreTrainedModel

from aerogel.runtime import kernel
from aerogel.runtime.fused.block import FusedBlock
from aerogel.runtime.fused.check import check_blocks, unfuse_blocks
from aerogel.runtime.fused.head import set_head, unfuse_head
from aerogel.runtime.fused.stack import unstack_blocks
from aerogel.runtime.values import HeadChoice
from aerogel.structure.empty import EmptyAttention, OutputBias

# class of transformers -> module here with its fused subclass, imported when a model has such a block
FAMILIES = {
    "BartDecoderLayer": "bart",
    "BartEncoderLayer": "bart",
    "BertLayer": "bert",
    "DebertaV2Layer": "deberta_v2",
    "DeiTLayer": "vit",
    "ElectraLayer": "bert",
    "GPT2Block": "gpt2",
    "Gemma2DecoderLayer": "gemma2",
    "Gemma3DecoderLayer": "gemma3",
    "GemmaDecoderLayer": "gemma",
    "LlamaDecoderLayer": "llama",
    "MPNetLayer": "mpnet",
    "MistralDecoderLayer": "mistral",
    "ModernBertEncoderLayer": "modernbert",
    "Qwen2DecoderLayer": "qwen2",
    "Qwen3DecoderLayer": "qwen3",
    "RobertaLayer": "bert",
    "T5Block": "t5",
    "TransformerBlock": "distilbert",
    "ViTLayer": "vit",
    "XLMRobertaLayer": "bert",
}

LIBRARIES = ("aerogel", "torch", "transformers")


def fuse(model: PreTrainedModel, head_values: HeadChoice | None = None) -> None:
    """Fuses the blocks of known families, and the language-model head, in place.

    A dense head gets a copy in `head_values`, unless that is `None`. The results of blocks are compared with those of
    the families' own code; where they differ the blocks stay as they are, with a warning.
    """
    set_head(model, head_values)
    if kernel.native() is None:
        return
    for module in model.modules():
        family = FAMILIES.get(type(module).__name__)
        if family:
            fused = getattr(importlib.import_module(f"aerogel.runtime.fused.{family}"), f"Fused{type(module).__name__}")
            if issubclass(fused, type(module)) and _can_be_fused(module, fused.takes_empty):
                module.__class__ = fused
    check_blocks(model)


def _can_be_fused(block: nn.Module, takes_empty: bool) -> bool:
    """Whether all forwards in it are of libraries, no user's subclass or patch, and it has the parts that it needs."""
    parts = [*block.modules()]
    if not takes_empty and any(isinstance(part, EmptyAttention | OutputBias) for part in parts):
        return False
    return all(getattr(part.forward, "__module__", "").partition(".")[0] in LIBRARIES for part in parts)


def unfuse(model: nn.Module) -> None:
    """The inverse of `fuse`."""
    unfuse_blocks([module for module in model.modules() if isinstance(module, FusedBlock)])
    for module in model.modules():
        unstack_blocks(module)
        unfuse_head(module)
