"""A model's predictions as logits, and how far they moved from another model's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.models.mode import evaluating


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference ‖ model) of each answer, in nats; both are logits (answers, classes), the result is (answers).

    An answer that is a number, one logit, stands for a Gaussian of variance 1 about it.
    """
    if reference.shape[-1] == 1:
        return (reference.float() - logits.float()).square().sum(-1) / 2
    expected, found = torch.log_softmax(reference.float(), -1), torch.log_softmax(logits.float(), -1)
    return (expected.exp() * (expected - found)).sum(-1)


def prediction_logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (answers, classes): one answer a token that is not padding, or with a classifier one a text.

    Whatever mode the model is in, nothing is dropped out.
    """
    with evaluating(model):
        logits = model(**batch).logits
    if logits.dim() == 2:
        return logits
    side = "decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"
    return logits[batch[side].bool()] if side in batch else logits.flatten(0, 1)
