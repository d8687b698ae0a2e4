"""Batches of a model's own inputs, as the model gets them: of tokens, choices, images, spectrograms or waveforms."""

import inspect
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

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
    is_text, has_head = "input_ids" in batch, model.base_model is not model
    text_mask = {"decoder_attention_mask": batch["attention_mask"]} if is_text and "attention_mask" in batch else {}
    if is_text and has_head and shift is None:
        return text_mask
    whole = batch.get("input_ids") if labels is None else labels
    if whole is None:
        raise DataError(
            f"the decoder of {type(model).__name__} needs decoder_input_ids or labels beside {', '.join(batch)}"
        )
    if shift is not None:
        whole = shift(labels=whole)
    elif labels is not None:
        whole = _shifted(model.config, labels)
    if labels is None:
        return {"decoder_input_ids": whole} | text_mask
    read = labels != IGNORED
    mask = {} if read.all() else {"decoder_attention_mask": read.long()}
    return {"decoder_input_ids": whole} | mask


def _shifted(config: PretrainedConfig, labels: Tensor) -> Tensor:
    """The labels behind the token that a decoder starts with (Whisper)."""
    shifted = labels.roll(1, -1)
    shifted[:, 0] = config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED, config.pad_token_id)


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
        if mask is not None and values.shape[: mask.dim()] == mask.shape and not name.startswith("pixel_"):
            kept = mask[index].reshape(-1, mask.shape[-1]).any(0)
            row[name] = row[name].index_select(mask.dim() - 1, kept.nonzero()[:, 0])
    return row
