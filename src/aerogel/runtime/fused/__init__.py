"""Whole blocks in one call: what stands between two sparse products never leaves the cache.

A block of a known family changes its class for a subclass here, and keeps its modules, names and state. Its forward
pass calls a fused operator for what of it is sparse throughout, and the family's own code for anything else: an
argument that is unknown here, an attention implementation of another kind, a layer that stayed dense.
"""

from __future__ import annotations

import importlib

from torch import nn
from transformers import PreTrainedModel

from aerogel.runtime.fused.block import FusedBlock
from aerogel.runtime.fused.check import check_blocks, unfuse_blocks
from aerogel.runtime.fused.head import FusedHead
from aerogel.runtime.kernel import native

# the class of transformers, and the module here that has its fused subclass; imported when a model has such a block
FAMILIES = {
    "BartDecoderLayer": "bart",
    "BartEncoderLayer": "bart",
    "BertLayer": "bert",
    "GPT2Block": "gpt2",
    "LlamaDecoderLayer": "llama",
    "RobertaLayer": "bert",
}


def fuse(model: PreTrainedModel) -> None:
    """Turns the blocks of known families, and the language-model head, into fused ones, in place.

    They are compared with their families' own code, and left out with a warning where the results differ.
    """
    if native() is None:
        return
    for module in model.modules():
        family = FAMILIES.get(type(module).__name__)
        if family:
            fused = getattr(importlib.import_module(f"aerogel.runtime.fused.{family}"), f"Fused{type(module).__name__}")
            if issubclass(fused, type(module)) and all(map(_has_known_forward, module.modules())):
                module.__class__ = fused
    check_blocks(model)
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        head.__class__ = FusedHead


def _has_known_forward(module: nn.Module) -> bool:
    """Whether it computes what its library wrote: not a subclass or a patch with another forward."""
    return getattr(module.forward, "__module__", "").partition(".")[0] in ("aerogel", "torch", "transformers")


def unfuse(model: nn.Module) -> None:
    """The inverse of `fuse`."""
    unfuse_blocks([module for module in model.modules() if isinstance(module, FusedBlock)])
    for module in model.modules():
        if type(module) is FusedHead:
            module.__class__ = FusedHead.__base__  # type: ignore[assignment]
