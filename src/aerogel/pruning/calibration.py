"""Text to calibrate on, as batches of a model's own inputs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.bounds import check_seed
from aerogel.errors import DataError, expect
from aerogel.models import architecture, head_kind
from aerogel.tasks import InputSettings, TaskData, context_length, load_task

BATCH_TOKENS = 2048
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Calibration:
    """Text on which a pruning method observes the inputs of a model's layers.

    Attributes:
        data: a task, whose training split is the text.
        samples: windows of running text; of examples, as many as hold the same number of tokens.
        length: tokens of a window, at most as many as the model takes.
        seed: decides which windows or examples are drawn.
        at_most: whether a text with fewer tokens is accepted.
    """

    data: TaskData = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    samples: int = 64
    length: int = 512
    seed: int = 0
    at_most: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed, DataError)

    @property
    def name(self) -> str:
        return self.data.task.name

    def batches(self, model: PreTrainedModel) -> list[Batch]:
        """The model's inputs, padded on the right, about 2048 tokens a batch, without labels.

        A model with a language-modelling head gets the inputs that it is trained on: an encoder masked tokens, an
        encoder-decoder infilled text and the whole text for its decoder. Any other gets the text as it is.
        Raises `DataError` if the text has too few tokens.
        """
        length = min(self.length, context_length(model.config) or self.length)
        settings = InputSettings(self.samples, length, seed=self.seed)
        rows = self.data.task.kind.calibration_rows(self.data.split("train"), self.tokenizer, model, settings)
        tokens = sum(len(row["input_ids"]) for row in rows)
        if tokens < self.samples * length and not self.at_most:
            raise DataError(
                f"calibration text {self.name} has {tokens:,} tokens, and {self.samples} windows of {length} "
                f"need {self.samples * length:,}: use more text, or fewer samples"
            )
        size = max(1, BATCH_TOKENS // max(len(row["input_ids"]) for row in rows))
        return [self._batch(model, rows[start : start + size]) for start in range(0, len(rows), size)]

    def _batch(self, model: PreTrainedModel, rows: list[dict[str, Tensor]]) -> Batch:
        labels = [row["labels"] for row in rows if "labels" in row]
        plain = [{name: values for name, values in row.items() if name != "labels"} for row in rows]
        batch = dict(self.tokenizer.pad(plain, padding_side="right", return_tensors="pt", verbose=False))
        if architecture(model.config) == "encoder-decoder":
            whole = torch.stack(labels) if labels else None
            batch |= _decoder_inputs(model, batch, whole)
        return {name: values.to(model.device) for name, values in batch.items()}


def calibration(
    name: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    data: str | os.PathLike[str] | None = None,
    samples: int = 64,
    length: int = 512,
    seed: int = 0,
) -> Calibration:
    """Calibration text from the training split of a task, or of a .txt or .tsv file.

    A single file is divided as for training, so that its validation part stays unseen. `data` is a folder of tasks,
    see `aerogel.tasks.load_task`. Raises `DataError`.

    >>> import aerogel
    >>> model, tokenizer = aerogel.load("tiny-gpt2")
    >>> text = calibration("python-reference", tokenizer, samples=4, length=128)
    >>> masks = aerogel.prune(model, method="wanda", sparsity=0.5, calibration=text)
    """
    expect(tokenizer, PreTrainedTokenizerBase, DataError, "a tokenizer of transformers (aerogel.load gives one)")
    for number in (samples, length):
        expect(number, int, DataError, "whole numbers of samples and of tokens in each")
    if samples < 1 or length < 8:
        raise DataError(f"calibration on {samples} windows of {length} tokens: expected at least 1 of at least 8")
    return Calibration(load_task(name, data).divided(), tokenizer, samples, length, seed)


def _decoder_inputs(model: PreTrainedModel, batch: Batch, labels: Tensor | None) -> Batch:
    """The decoder's inputs: the labels, or else the text, shifted right. A classifier shifts its text itself."""
    if head_kind(model) == "classification":
        return {"decoder_attention_mask": batch["attention_mask"]}
    whole = batch["input_ids"] if labels is None else labels
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    inputs = {"decoder_input_ids": shift(labels=whole) if shift else whole}
    return inputs if labels is not None else inputs | {"decoder_attention_mask": batch["attention_mask"]}
