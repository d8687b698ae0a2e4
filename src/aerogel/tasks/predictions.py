"""What passes between a kind of task, training and evaluation: inputs, predictions and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class InputSettings:
    """How a split becomes batches.

    Attributes:
        limit: the number of examples or windows to keep: the first ones, or to calibrate on, random ones.
        max_length: tokens that an example is cut to, and of a window to calibrate on.
        batch_size: examples in a batch.
        batch_tokens: tokens in a batch of windows.
        seed: of masks, infilled spans and augmented texts.
        augmentation: share of the texts that each epoch replaces, see `aerogel.tasks.augment`.
    """

    limit: int | None = None
    max_length: int = 128
    batch_size: int = 32
    batch_tokens: int = 4096
    seed: int = 0
    augmentation: float = 0.0


@dataclass(frozen=True)
class Inputs:
    """The rows of a split as a model's inputs with labels, and how they form batches.

    Attributes:
        collate: makes a batch of several rows.
        by_length: whether a batch holds rows of similar length.
        augmented: in place of `rows` in training, if texts are augmented.
        examples: what scoring needs of the split beside its rows.
        texts: (rows), the number of the text that each row is a part of, where a text can have several rows.
    """

    rows: Sequence[dict[str, Any]]
    batch_size: int
    collate: Callable[[list[dict[str, Any]]], Batch]
    by_length: bool = False
    augmented: Sequence[dict[str, Any]] | None = None
    examples: Any = None
    texts: np.ndarray | None = None

    def batches(self) -> list[list[int]]:
        """The row numbers of each batch; every row is in one batch."""
        order = list(range(len(self.rows)))
        if self.by_length:
            order.sort(key=lambda row: len(self.rows[row]["input_ids"]))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


@dataclass(frozen=True)
class Answers:
    """A model's logits where it makes a prediction.

    Attributes:
        logits: (predictions, classes); a single class stands for a value.
        references: (predictions), the right classes or values.
        rows: (predictions), the row of the batch that each belongs to.
    """

    logits: Tensor
    references: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> Answers:
        return Answers(*(tensor.to(device) for tensor in (self.logits, self.references, self.rows)))


@dataclass(frozen=True)
class Predictions:
    """A model's predictions, as columns with one entry a prediction.

    Attributes:
        values: what is predicted: classes, values, tokens, texts.
        losses: negative log-likelihoods of the references, in nats.
        rows: the row of the batch, later of the split, that each belongs to.
        logits: (predictions, classes), or (predictions, 0) if they are not kept.
    """

    values: np.ndarray
    references: np.ndarray
    losses: np.ndarray
    rows: np.ndarray
    logits: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of all parts, in the order of the rows."""
        names = [field.name for field in fields(cls)]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        order = np.argsort(columns["rows"], kind="stable")
        return cls(**{name: column[order] for name, column in columns.items()})


def sums_by_row(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values of each row, and their number."""
    return np.bincount(rows, values.astype(float)), np.bincount(rows)


@dataclass(frozen=True)
class Score:
    """How a model did on a task.

    Attributes:
        metrics: by name, the main one first; see `Task.metric`.
        counts: how many "examples" or "tokens" were scored.
        baselines: for classes "majority", the accuracy of always predicting the most frequent one.
        predictions: classes, values, texts, or for language modelling the most likely tokens at the first positions.
        references: what is right; empty where a prediction is not simply right or wrong.
        logits: for classes one row an example.
    """

    task: str
    metrics: dict[str, float]
    counts: dict[str, int]
    baselines: dict[str, float] = field(default_factory=dict)
    predictions: tuple[int | float | str, ...] = ()
    references: tuple[int | float | str, ...] = ()
    logits: tuple[tuple[float, ...], ...] = ()

    def to_dict(self) -> dict[str, float]:
        """Metrics, counts and baselines in one dictionary."""
        return {**self.metrics, **self.counts, **self.baselines}


def as_predictions(answers: Answers, values: Tensor, losses: Tensor) -> Predictions:
    """The columns of a batch, without its logits."""
    columns = (values, answers.references, losses.double(), answers.rows, answers.logits[:, :0].double())
    return Predictions(*(column.cpu().numpy() for column in columns))


def most_likely(answers: Answers) -> Predictions:
    """The most likely class of each answer."""
    parts = zip(answers.logits.split(1024), answers.references.split(1024), strict=True)
    losses = torch.cat([cross_entropy(part.float(), truth, reduction="none") for part, truth in parts])
    return as_predictions(answers, answers.logits.argmax(-1), losses)
