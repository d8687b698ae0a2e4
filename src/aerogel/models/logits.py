"""The logits of a model's predictions, and their KL divergence to those of another model."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.models.mode import evaluating


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference ‖ model) of each prediction, in nats: (predictions) of two tensors of logits (predictions, classes).

    A single logit is the mean of a Gaussian with variance 1.

    >>> kl_divergence(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    tensor([0., 0.])
    """
    if reference.shape[-1] == 1:
        return (reference.float() - logits.float()).square().sum(-1) / 2
    expected, log_p = torch.log_softmax(reference.float(), -1), torch.log_softmax(logits.float(), -1)
    return (expected.exp() * (expected - log_p)).sum(-1)


def prediction_logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (predictions, classes): one prediction a token that is not padding, or a text for classifiers.

    The model runs in evaluation mode, without dropout.
    """
    with evaluating(model):
        logits = model(**batch).logits
    if logits.dim() == 2:
        return logits
    mask = "decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"
    return logits[batch[mask].bool()] if mask in batch else logits.flatten(0, 1)
