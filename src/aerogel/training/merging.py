"""Merging an adapter into a pruned model without losing its zeros."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from aerogel.errors import ModelError, first_line, shown
from aerogel.models import prunable_weights
from aerogel.models.prunable import TARGETS
from aerogel.training.zeros import zero_masks


@torch.no_grad()
def merge(model: nn.Module) -> PreTrainedModel:
    """Merges the adapter of a `peft.PeftModel` into the weights under it and returns the model without the adapter.

        adapted = peft.get_peft_model(pruned, peft.LoraConfig(...))
        Trainer(adapted, ...).train()
        model = aerogel.merge(adapted)  # as sparse as `pruned` was

    It is `adapted.merge_and_unload()`, in place, with the zeros of pruned weights (see `aerogel.training.zeros`) kept:
    W + M ⊙ ΔW, where M is 0 at those zeros. What the adapter would add there is lost, so score the model again; a
    training of the merged model with `SparsityCallback` may win it back. Adapters that write into the weights when they
    are attached (PiSSA, OLoRA) have filled the zeros by then, and `compress` names those matrices. Raises `ModelError`
    for another model, for an adapter that peft can't merge, and for one that it has merged before, when the zeros are
    gone.
    """
    peft: Any = sys.modules.get("peft")  # whoever has such a model has imported it
    if peft is None or not isinstance(model, peft.PeftModel | peft.PeftMixedModel):
        raise ModelError(f"expected a model with an adapter (peft.PeftModel), found {shown(model)}")
    adapted: Any = model
    weights = prunable_weights(model, TARGETS)
    if merged := [name for name, module in model.named_modules() if getattr(module, "merged", False) is True]:
        raise ModelError(
            f"the adapter at {merged[0]} is merged already, and the zeros under it are gone: load the pruned model and "
            "its adapter again"
        )
    masks = zero_masks(weights)
    try:
        plain = adapted.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        kind = adapted.active_peft_config.peft_type.value
        raise ModelError(f"an adapter of the type {kind} can't be merged into weights ({first_line(error)})") from error
    for weight in weights:
        if weight.name in masks:
            weight.matrix.masked_fill_(masks[weight.name], 0)
    return plain
