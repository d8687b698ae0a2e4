"""The KL divergence of a changed model to the dense one, on a little calibration text."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from aerogel.errors import ModelError
from aerogel.models import head_kind
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning.calibration import Batch


class Reference:
    """The logits of the dense model on about `tokens` tokens, to compare with after weights change.

    Raises `ModelError` for a model without a head.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], tokens: int) -> None:
        check_head(model)
        self.batches = subsample(batches, tokens)
        with torch.no_grad():
            self.logits = [prediction_logits(model, batch).to(torch.float16) for batch in self.batches]

    @torch.no_grad()
    def kl(self, model: PreTrainedModel) -> float:
        """The mean KL(dense ‖ model), in nats a prediction."""
        divergences = [
            kl_divergence(dense, prediction_logits(model, batch))
            for dense, batch in zip(self.logits, self.batches, strict=True)
        ]
        return float(torch.cat(divergences).mean())


def check_head(model: PreTrainedModel) -> None:
    if head_kind(model) in ("embedding", "other"):
        raise ModelError(
            f"{type(model).__name__} has no head, and the effect of pruning is measured on its logits: load the model "
            "with a head, or take another method or allocation"
        )


def subsample(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Single texts without padding, evenly spread over all batches, with about `tokens` tokens in total."""
    rows = [_row(batch, index) for batch in batches for index in range(len(batch["input_ids"]))]
    total = sum(row["input_ids"].numel() for row in rows)
    count = max(1, min(len(rows), round(len(rows) * tokens / total)))
    return [rows[index * len(rows) // count] for index in range(count)]


def _row(batch: Batch, index: int) -> Batch:
    row = {}
    for name, values in batch.items():
        mask = batch.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
        length = None if mask is None else int(mask[index].sum())  # padding is on the right
        row[name] = values[index : index + 1, :length]
    return row
