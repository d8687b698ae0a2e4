"""Text to calibrate on, as batches of a model's own inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.bounds import check_seed
from aerogel.errors import DataError, expect
from aerogel.models import architecture, head_kind
from aerogel.tasks import Examples, context_length, encode_examples, language_windows, load_task

BATCH_TOKENS = 2048
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Calibration:
    """Text that shows a pruning method what a model's layers are given: `samples` windows of `length` tokens.

    `text` is running text, or the labelled examples of a task; of examples as many are drawn as hold that
    number of tokens. The draw depends on `seed` alone. `name` says in errors which text it was. With `at_most` a
    text that holds fewer is taken whole.
    """

    name: str
    text: str | Examples = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    samples: int = 64
    length: int = 512
    seed: int = 0
    at_most: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed, DataError)

    def batches(self, model: PreTrainedModel) -> list[Batch]:
        """The model's inputs, padded on the right, about 2048 tokens a batch, without labels.

        Windows are no longer than the model has room for. A model with a language-modelling head gets what it is
        trained on: an encoder masked words, an encoder-decoder damaged text and the whole text for its decoder. Any
        other gets the text as it is.
        Raises `DataError` where the text has too few tokens.
        """
        length = min(self.length, context_length(model.config) or self.length)
        rows = self._examples(model, length) if isinstance(self.text, Examples) else self._windows(model, length)
        size = max(1, BATCH_TOKENS // max(len(row["input_ids"]) for row in rows))
        return [self._batch(model, rows[start : start + size]) for start in range(0, len(rows), size)]

    def _windows(self, model: PreTrainedModel, length: int) -> list[dict[str, Tensor]]:
        assert isinstance(self.text, str)
        windows = language_windows(self.text, self.tokenizer, model.config, self.seed, length)
        self._check(len(windows) * length, length)
        chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(self.seed))[: self.samples]
        rows = [windows[place] for place in chosen.sort().values.tolist()]
        if architecture(model.config) != "decoder" and head_kind(model) != "language-modelling":
            # a classifier or the body of an embedding model never sees damaged text: the labels are the whole of it
            rows = [_restored(row) for row in rows]
        return rows

    def _examples(self, model: PreTrainedModel, length: int) -> list[dict[str, Tensor]]:
        assert isinstance(self.text, Examples)
        order = torch.randperm(len(self.text), generator=torch.Generator().manual_seed(self.seed)).tolist()
        budget, rows = self.samples * length, []
        for place in order:  # one at a time: a few of a large split are enough
            if budget <= 0:
                break
            [row] = encode_examples(Examples([self.text.texts[place]], [0.0]), self.tokenizer, model.config, length)
            budget -= len(row["input_ids"])
            rows.append({name: torch.tensor(values) for name, values in row.items() if name != "labels"})
        self._check(self.samples * length - budget, length)
        return sorted(rows, key=lambda row: len(row["input_ids"]))

    def _check(self, tokens: int, length: int) -> None:
        if tokens < self.samples * length and not self.at_most:
            raise DataError(
                f"calibration text {self.name} has {tokens:,} tokens, and {self.samples} windows of {length} need "
                f"{self.samples * length:,}: give more text, or ask for fewer samples"
            )

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
    """Calibration text by the name of a task or a user's own .txt or .tsv file: always its training split.

    Of a lone file that is the part that training would use, so that what would be held out stays unseen. `data` is a
    folder of tasks, see `aerogel.tasks.load_task`. Raises `DataError`.
    """
    expect(tokenizer, PreTrainedTokenizerBase, DataError, "a tokenizer of transformers (aerogel.load gives one)")
    for number in (samples, length):
        expect(number, int, DataError, "whole numbers of samples and of tokens in each")
    if samples < 1 or length < 8:
        raise DataError(f"calibration on {samples} windows of {length} tokens: expected at least 1 of at least 8")
    text = load_task(name, data).divided().splits["train"]
    return Calibration(os.fspath(name), text, tokenizer, samples, length, seed)


def _restored(row: dict[str, Tensor]) -> dict[str, Tensor]:
    labels = row["labels"]
    if len(labels) != len(row["input_ids"]) or "attention_mask" in row:
        return {"input_ids": labels}
    return {"input_ids": torch.where(labels < 0, row["input_ids"], labels)}


def _decoder_inputs(model: PreTrainedModel, batch: Batch, labels: Tensor | None) -> Batch:
    """What an encoder-decoder reads on its decoder's side: the labels moved by one, or for a classifier its text."""
    if head_kind(model) == "classification":
        return {"decoder_attention_mask": batch["attention_mask"]}
    whole = batch["input_ids"] if labels is None else labels
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    inputs = {"decoder_input_ids": shift(labels=whole) if shift else whole}
    return inputs if labels is not None else inputs | {"decoder_attention_mask": batch["attention_mask"]}
