"""Batches of a model's own inputs, as the model gets them: of tokens, choices, images, spectrograms or waveforms."""

import inspect
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from aerogel.errors import DataError
from aerogel.tasks.noise import IGNORED

Batch = Mapping[str, Tensor]
EXAMPLE_TOKENS = 64  # that an image or a recording counts as in a subsample


def decoder_inputs(model: PreTrainedModel, batch: Batch, labels: Tensor | None) -> Batch:
    """What the decoder of an encoder-decoder reads beside `batch`: the labels, or else the text, shifted right.

    Labels are (texts, tokens), `IGNORED` at padding. Heads for classes and spans shift the text themselves. Empty for a
    model without a decoder. Raises `DataError` for an input that is not text, without labels.
    """
    if "decoder_input_ids" not in inspect.signature(model.forward).parameters or "decoder_input_ids" in batch:
        return {}
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    text_mask = {"decoder_attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
    if shift is None and model.base_model is not model:
        return text_mask
    whole = batch.get("input_ids") if labels is None else labels
    if whole is None:
        raise DataError(
            f"the decoder of {type(model).__name__} needs decoder_input_ids or labels beside {', '.join(batch)}"
        )
    inputs = {"decoder_input_ids": shift(labels=whole) if shift else whole}
    if labels is None:
        return inputs | text_mask
    read = labels != IGNORED
    return inputs if read.all() else inputs | {"decoder_attention_mask": read.long()}


def subsample(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Single examples without padding, evenly spread over all batches, with about `tokens` tokens in total."""
    rows = [row for batch in batches for row in unpadded_rows(batch)]
    total = sum(row["input_ids"].numel() if "input_ids" in row else EXAMPLE_TOKENS for row in rows)
    count = max(1, min(len(rows), round(len(rows) * tokens / total)))
    return [rows[index * len(rows) // count] for index in range(count)]


def unpadded_rows(batch: Batch) -> list[Batch]:
    """The examples of a batch, each as a batch of one without padding; choices keep that to the longest of them."""
    return [_unpadded_row(batch, index) for index in range(len(next(iter(batch.values()))))]


def _unpadded_row(batch: Batch, index: int) -> Batch:
    row = {}
    for name, values in batch.items():
        mask = batch.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
        row[name] = values[index : index + 1]
        if mask is not None and values.shape[: mask.dim()] == mask.shape:
            kept = mask[index].reshape(-1, mask.shape[-1]).any(0)
            row[name] = row[name].index_select(mask.dim() - 1, kept.nonzero()[:, 0])
    return row
