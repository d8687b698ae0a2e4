"""Merging an adapter into a pruned model without losing its zeros."""

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
    """Merges the adapter of a `peft.PeftModel` into the weights under it, and returns the model without it.

        adapted = peft.get_peft_model(pruned, peft.LoraConfig(...))
        Trainer(adapted, ...).train()
        model = aerogel.merge(adapted)  # as sparse as `pruned` was

    Does what `adapted.merge_and_unload()` does, in place, but keeps the zeros of pruned weights (see
    `aerogel.training.zeros`): W + M ⊙ ΔW, where M is 0 at those zeros. What the adapter would add there is lost, so
    score the model again; training the merged model with `SparsityCallback` may recover it. Adapters that change the
    weights when they are attached (PiSSA, OLoRA) have already filled the zeros; `compress` warns of those matrices.
    Raises `ModelError` for a model without an adapter, for an adapter that peft can't merge, and for one that is merged
    already, where the zeros are lost.

    >>> import aerogel, peft
    >>> model, _ = aerogel.load("tiny-gpt2")
    >>> _ = aerogel.prune(model, sparsity=0.5)
    >>> adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
    >>> aerogel.inspect(merge(adapted)).sparsity
    0.5
    """
    peft: Any = sys.modules.get("peft")  # imported by whoever has such a model
    if peft is None or not isinstance(model, peft.PeftModel | peft.PeftMixedModel):
        raise ModelError(f"expected a model with an adapter (peft.PeftModel), found {shown(model)}")
    adapted: Any = model
    weights = prunable_weights(model, TARGETS)
    if merged := [name for name, module in model.named_modules() if getattr(module, "merged", False) is True]:
        raise ModelError(
            f"the adapter at {merged[0]} is merged already, and zeros are lost: load the pruned model and adapter again"
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
