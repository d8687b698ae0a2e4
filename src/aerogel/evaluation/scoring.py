"""Scoring a model: tasks with labels, and language modelling each by its own measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from aerogel import progress
from aerogel.errors import ModelError
from aerogel.evaluation.metrics import METRICS
from aerogel.models import architecture, evaluating
from aerogel.tasks import IGNORED, Task, TaskData, encode_examples, language_windows

PERPLEXITIES = {
    "decoder": "perplexity",
    "encoder": "masked_lm_perplexity",
    "encoder-decoder": "denoising_perplexity",
}
EVALUATION_SEED = 0  # of the masks and infilled spans, so that every model is asked the same
KEPT_TOKENS = 2000  # predictions kept of a language model, for agreement between models


@dataclass(frozen=True)
class Score:
    """How a model did on a task: `metrics` (the main one first), and its `predictions`, in order.

    Beside the metrics stand the number of examples or tokens, and for classes "majority", the accuracy of always
    giving the commonest one.

    Predictions are class numbers, values, or for language modelling the likeliest token at each of the
    first places scored. For classes `true` has the right ones, and `logits` one row an example.
    """

    task: str
    metrics: dict[str, float]
    predictions: tuple[float, ...]
    true: tuple[float, ...] = ()
    logits: tuple[tuple[float, ...], ...] = ()


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None = None,
    max_length: int = 128,
    batch_size: int = 32,
) -> Score:
    """Scores one task on its validation split. Raises `DataError` or `ModelError`."""
    check_head(model, data.task)
    if not data.task.is_language_modelling:
        return score_labels(data, limit, label_logits(model, tokenizer, data, limit, max_length, batch_size))
    tally = Tally(data.task.name, PERPLEXITIES[architecture(model.config)])
    for batch in language_batches(model, tokenizer, data, limit):
        tally.add(*token_logits(model, batch))
    return tally.score()


def check_head(model: PreTrainedModel, task: Task) -> None:
    """Raises `ModelError` where the model can't answer the task."""
    task.check_head(model, f"fine-tune the model on it first (aerogel finetune MODEL --task {task.name} --output DIR)")


def _not_a_number(task: str) -> ModelError:
    return ModelError(
        f"task {task}: the model's answers are no numbers (NaN): its weights are damaged, or its training went astray, "
        "where a lower learning rate may help"
    )


# labels


@torch.inference_mode()
def label_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None,
    max_length: int = 128,
    batch_size: int = 32,
) -> np.ndarray:
    """(examples, labels) in the order of the examples; batches gather examples of like length."""
    encoded = encode_examples(data.examples("validation").first(limit), tokenizer, model.config, max_length)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    found = np.zeros((len(encoded), len(data.task.labels)))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for rows in progress.track(batches, f"scoring {data.task.name}"):
        batch = collate([encoded[row] for row in rows]).to(model.device)
        batch.pop("labels")
        with evaluating(model):
            found[rows] = model(**batch).logits.float().cpu().numpy()
    if np.isnan(found).any():
        raise _not_a_number(data.task.name)
    return found


def answers_of(data: TaskData, logits: np.ndarray) -> np.ndarray:
    """Class numbers, or the values of a task that is a number to predict."""
    return logits[:, 0] if data.task.is_regression else logits.argmax(-1).astype(float)


def score_labels(data: TaskData, limit: int | None, logits: np.ndarray) -> Score:
    predicted, true = answers_of(data, logits), np.array(data.examples("validation").first(limit).labels)
    metrics = {name: METRICS[name](predicted, true) for name in data.task.metrics} | {"examples": float(len(true))}
    answers = tuple(predicted.tolist())
    if data.task.is_regression:
        return Score(data.task.name, metrics, answers)
    metrics["majority"] = float(np.unique(true, return_counts=True)[1].max() / len(true))
    rows = tuple(tuple(round(value, 4) for value in row) for row in logits.tolist())  # a store is no place for noise
    return Score(data.task.name, metrics, answers, tuple(true.tolist()), rows)


# language modelling


def language_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TaskData, limit: int | None
) -> Iterator[dict[str, Tensor]]:
    """Windows of the validation text, about 4096 tokens a batch, that do not overlap; every model gets the same."""
    windows = language_windows(data.text("validation"), tokenizer, model.config, EVALUATION_SEED, limit=limit)
    batch_size = max(1, 4096 // len(windows[0]["labels"]))
    batches = [windows[start : start + batch_size] for start in range(0, len(windows), batch_size)]
    for rows in progress.track(batches, f"scoring {data.task.name}"):
        yield {name: values.to(model.device) for name, values in default_data_collator(rows).items()}


@torch.inference_mode()
def token_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The scored places of a batch: logits (places, words), the true words, and the window that each stands in."""
    with evaluating(model):
        logits, labels = model(**batch).logits, batch["labels"]
    if architecture(model.config) == "decoder":
        logits, labels = logits[:, :-1], labels[:, 1:]
    scored = labels != IGNORED
    return logits[scored], labels[scored], scored.nonzero()[:, 0]


class Tally:
    """Adds up what a language model says of the true words: exp of the mean negative log-likelihood, in nats.

    `losses` and `counts` have one sum a window.
    """

    def __init__(self, task: str, measure: str) -> None:
        self.task, self.measure = task, measure
        self.losses: list[float] = []
        self.counts: list[int] = []
        self.likeliest: list[float] = []

    @torch.inference_mode()
    def add(self, logits: Tensor, labels: Tensor, windows: Tensor) -> None:
        parts = zip(logits.split(1024), labels.split(1024), strict=True)
        losses = torch.cat(
            [torch.nn.functional.cross_entropy(part.float(), truth, reduction="none") for part, truth in parts]
        )
        if losses.isnan().any():
            raise _not_a_number(self.task)
        self.losses += torch.bincount(windows, losses.double()).tolist()
        self.counts += torch.bincount(windows).tolist()
        if len(self.likeliest) < KEPT_TOKENS:
            self.likeliest += logits[: KEPT_TOKENS - len(self.likeliest)].argmax(-1).tolist()

    def score(self) -> Score:
        count = sum(self.counts)
        loss = sum(self.losses) / count
        metrics = {self.measure: math.exp(min(loss, 700.0)), "loss": loss, "tokens": float(count)}
        return Score(self.task, metrics, tuple(self.likeliest))
