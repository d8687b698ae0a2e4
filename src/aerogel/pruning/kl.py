"""The KL divergence of a changed model to the dense one, on a little calibration data."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning.batches import Batch, subsample


class Reference:
    """The logits of the dense model on about `tokens` tokens, to compare with after weights change.

    Raises `ModelError` as `prediction_logits`.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], tokens: int) -> None:
        self.batches = subsample(batches, tokens)
        with torch.no_grad():
            self.logits = [_stored(prediction_logits(model, batch)) for batch in self.batches]

    @torch.no_grad()
    def kl(self, model: PreTrainedModel) -> float:
        """The mean KL(dense ‖ model), in nats a prediction."""
        divergences = [
            kl_divergence(dense, prediction_logits(model, batch))
            for dense, batch in zip(self.logits, self.batches, strict=True)
        ]
        return float(torch.cat(divergences).mean())


def _stored(logits: Tensor) -> Tensor:
    """In 16 bits where a prediction has many classes; hidden states may exceed the range of float16."""
    return logits.to(torch.float16) if logits.shape[-1] > 1 else logits
