"""Data to calibrate on, as batches of a model's own inputs."""

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import ImageProcessingMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_labels

from aerogel.bounds import check_seed
from aerogel.errors import DataError, PruningError, expect, shown
from aerogel.models import head_kind
from aerogel.pruning.batches import Batch, decoder_inputs, unpadded_rows
from aerogel.pruning.texts import is_texts, texts_data, tokenizer_of
from aerogel.tables import counted
from aerogel.tasks import InputSettings, TaskData, TaskSource, context_length, load_task
from aerogel.tasks.noise import IGNORED

SAMPLES, LENGTH = 64, 512  # windows of text, and tokens of each
BATCH_TOKENS = 2048


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
    samples: int = SAMPLES
    length: int = LENGTH
    seed: int = 0
    at_most: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed, DataError)

    @property
    def name(self) -> str:
        return self.data.task.name

    def batches(self, model: PreTrainedModel) -> list[Batch]:
        """The model's inputs, padded on the right, about 2048 tokens or one image or recording a batch, without labels.

        A model with a language-modelling head gets the inputs that it is trained on: an encoder masked tokens, an
        encoder-decoder infilled text and the whole text for its decoder. Any other gets the text as it is.
        Raises `DataError` if the text has too few tokens.
        """
        length = min(self.length, context_length(model.config) or self.length)
        settings = InputSettings(self.samples, length, seed=self.seed)
        rows = self.data.task.kind.calibration_rows(self.data.split("train"), self.tokenizer, model, settings)
        if "input_ids" not in rows[0]:  # images, and recordings of different lengths
            return [self._batch(model, [row]) for row in rows]
        tokens = sum(row["input_ids"].numel() for row in rows)
        if tokens < self.samples * length and not self.at_most:
            found, needed = tokens // length, counted(self.samples, "window")
            fewer = f", or samples={found} (--samples {found})" if found else ""
            raise DataError(
                f"calibration text {self.name} has {counted(tokens, 'token')}, and {needed} of {length} need "
                f"{self.samples * length:,}: use more text{fewer}"
            )
        size = max(1, BATCH_TOKENS // max(row["input_ids"].numel() for row in rows))
        return [self._batch(model, rows[start : start + size]) for start in range(0, len(rows), size)]

    def _batch(self, model: PreTrainedModel, rows: list[dict[str, Tensor]]) -> Batch:
        labels = [row["labels"] for row in rows if "labels" in row]
        plain = [{name: values for name, values in row.items() if name != "labels"} for row in rows]
        if "input_ids" in rows[0]:
            texts = [text for row in plain for text in _texts(row)]
            batch = dict(self.tokenizer.pad(texts, padding_side="right", return_tensors="pt", verbose=False))
        else:
            batch = {name: torch.stack([row[name] for row in plain]) for name in plain[0]}
        if head_kind(model) == "multiple-choice":
            batch = {name: values.view(len(rows), -1, *values.shape[1:]) for name, values in batch.items()}
        whole = pad_sequence(labels, batch_first=True, padding_value=IGNORED) if labels else None
        batch |= decoder_inputs(model, batch, whole)
        return {name: values.to(_device(model)) for name, values in batch.items()}


@dataclass(frozen=True)
class BatchCalibration:
    """Batches of a model's own inputs on which a pruning method observes the inputs of its layers.

    Attributes:
        inputs: dictionaries of tensors, as the data collators of transformers give them: a list, or a DataLoader. What
            the model does not take is left out, and so are labels, except those that a decoder reads.
        name: of the data, in results and messages.
        samples: the batches are read until they hold this number of windows of 512 tokens, or of images or recordings.

    >>> import aerogel
    >>> model, tokenizer = aerogel.load("tiny-bert")
    >>> batch = tokenizer(["The ship sailed.", "It was morning."], padding=True, return_tensors="pt")
    >>> len(BatchCalibration([batch]).batches(model))
    1
    """

    inputs: Iterable[Batch] = field(repr=False)
    name: str = "batches"
    samples: int = SAMPLES

    def batches(self, model: PreTrainedModel) -> list[Batch]:
        """The model's inputs. Recordings with an attention mask are single and unpadded.

        Raises `DataError` for a batch that is not a dictionary or lacks the model's input, and if there is no batch.
        """
        batches: list[Batch] = []
        tokens = 0
        for number, given in enumerate(self.inputs):
            batch = self._inputs_of(model, given, number)
            tokens += batch["input_ids"].numel() if "input_ids" in batch else len(batch[model.main_input_name]) * LENGTH
            if "input_ids" in batch or "attention_mask" not in batch:
                batches.append(batch)
            else:  # the mask is over samples, of which a block sees a few hundred as one frame
                batches += [_without_mask(row) for row in unpadded_rows(batch)]
            if tokens >= self.samples * LENGTH:
                break
        if not batches:
            raise DataError(f"calibration data {self.name} has no batches (an iterator can be read once: give a list)")
        return [{name: values.to(_device(model)) for name, values in batch.items()} for batch in batches]

    def _inputs_of(self, model: PreTrainedModel, batch: Batch, number: int) -> Batch:
        place = f"batch {number} of calibration data {self.name}"
        expected = "a dictionary of the model's inputs, as transformers' data collators give"
        expect(batch, Mapping, DataError, f"{expected} in {place}")
        takes = inspect.signature(model.forward).parameters
        labels = find_labels(type(model))
        tensors = {name: values for name, values in batch.items() if name in takes and isinstance(values, Tensor)}
        main = tensors.get(model.main_input_name)
        if main is None or main.dim() < 2 or not len(main):
            raise DataError(
                f"{place} has {_shapes(batch) or 'nothing'}, expected a tensor {model.main_input_name} of one or more "
                f"examples, which {type(model).__name__} reads"
            )
        inputs = {name: values for name, values in tensors.items() if name not in labels}
        return {**inputs, **decoder_inputs(model, inputs, tensors.get("labels"))}


CalibrationSource = Calibration | BatchCalibration | Iterable[Batch] | Sequence[str]
"""Where pruning takes data to calibrate on: batches and texts may also be given as they are."""


def as_calibration(source: Any, model: nn.Module | None = None) -> Calibration | BatchCalibration:
    """The record of a source: texts are for the tokenizer that the `model` was loaded with.

    Raises `PruningError` for anything that is not one, and if the tokenizer is not found.
    """
    if isinstance(source, Calibration | BatchCalibration):
        return source
    if is_texts(source) and isinstance(model, PreTrainedModel):
        return calibration(source, tokenizer_of(model))
    may_be_batches = isinstance(source, Iterable) and not isinstance(source, Mapping)
    if isinstance(source, Sequence):
        may_be_batches = all(isinstance(batch, Mapping) for batch in source)
    if not may_be_batches:
        raise PruningError(
            "expected calibration data: text as aerogel.calibration(...) gives it, or a list or DataLoader of batches "
            f"of the model's inputs, found {shown(source)}"
        )
    return BatchCalibration(source)


def calibration(
    source: TaskSource,
    tokenizer: PreTrainedTokenizerBase,
    data: str | os.PathLike[str] | None = None,
    samples: int = SAMPLES,
    length: int = LENGTH,
    seed: int = 0,
) -> Calibration:
    """Calibration text from the training split of a task, a file or data in memory, or from a list of texts.

    Data with one split is divided as for training, so that its validation part stays unseen. `data` is a folder of
    tasks, see `aerogel.load_task`. The texts of a list are encoded one by one, and may have fewer tokens than `samples`
    windows of `length`. Raises `DataError`.

    >>> import aerogel
    >>> model, tokenizer = aerogel.load("tiny-gpt2")
    >>> text = calibration("python-reference", tokenizer, samples=4, length=128)
    >>> masks = aerogel.prune(model, method="wanda", sparsity=0.5, calibration=text)
    """
    expected = "a tokenizer or an image processor of transformers (aerogel.load gives one)"
    expect(tokenizer, PreTrainedTokenizerBase | ImageProcessingMixin, DataError, expected)
    for number in (samples, length):
        expect(number, int, DataError, "whole numbers of samples and of tokens in each")
    if samples < 1 or length < 8:
        raise DataError(f"calibration on {samples} windows of {length} tokens: expected at least 1 of at least 8")
    if is_texts(source):
        return Calibration(texts_data(source), tokenizer, samples, length, seed, at_most=True)
    return Calibration(load_task(source, data).divided(), tokenizer, samples, length, seed)


def _device(model: PreTrainedModel) -> torch.device:
    """Where the model runs: on the CPU while its weights are on the meta device, to be read when they are used."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def _texts(row: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The text of an example, or that of each of its choices."""
    if row["input_ids"].dim() == 1:
        return [row]
    return [dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)]


def _without_mask(row: Batch) -> Batch:
    return {name: values for name, values in row.items() if name != "attention_mask"}


def _shapes(batch: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {tuple(getattr(values, 'shape', ())) or ''}".strip() for name, values in batch.items())
