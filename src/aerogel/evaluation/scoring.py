"""Scoring a model: tasks with labels, and language modelling each by its own measure."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from aerogel import progress
from aerogel.data import IGNORED, Examples, Task, TaskData, encode_examples, language_windows, load_task
from aerogel.errors import DataError
from aerogel.evaluation.metrics import METRICS
from aerogel.models import architecture

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
    first places scored.
    """

    task: str
    metrics: dict[str, float]
    predictions: tuple[float, ...]

    def agreement(self, other: Score) -> float:
        """The share of equal predictions."""
        if len(self.predictions) != len(other.predictions):
            raise DataError(f"task {self.task}: {len(self.predictions)} predictions against {len(other.predictions)}")
        return float(np.mean(np.equal(self.predictions, other.predictions)))


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | TaskData],
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    reference: PreTrainedModel | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of each task on its validation split, or its first `limit` examples or windows.

    `data` is a folder of tasks, see `aerogel.data.load_task`. With a `reference` model of the same tokenizer, each
    task but regression also has "agreement", the share of equal predictions. All tasks are found and checked
    against the model's head before any is scored. Raises `DataError` or `ModelError`.
    """
    loaded = [task if isinstance(task, TaskData) else load_task(task, data) for task in tasks]
    for judged in [model] if reference is None else [model, reference]:
        for task in loaded:
            _check_head(judged, task.task)
    results = {}
    for task in loaded:
        found = score(model, tokenizer, task, limit)
        results[task.task.name] = dict(found.metrics)
        if reference is not None and not task.task.is_regression:
            results[task.task.name]["agreement"] = found.agreement(score(reference, tokenizer, task, limit))
    return results


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None = None,
    max_length: int = 128,
    batch_size: int = 32,
) -> Score:
    """Scores one task on its validation split. Raises `DataError` or `ModelError`."""
    _check_head(model, data.task)
    if data.task.is_language_modelling:
        return _score_language(model, tokenizer, data, limit)
    examples = data.examples("validation").first(limit)
    predicted = _predict(model, tokenizer, data, examples, max_length, batch_size)
    true = np.array(examples.labels)
    metrics = {name: METRICS[name](predicted, true) for name in data.task.metrics} | {"examples": float(len(true))}
    if not data.task.is_regression:
        metrics["majority"] = float(np.unique(true, return_counts=True)[1].max() / len(true))
    return Score(data.task.name, metrics, tuple(predicted.tolist()))


def _check_head(model: PreTrainedModel, task: Task) -> None:
    task.check_head(model, f"fine-tune the model on it first (aerogel finetune MODEL --task {task.name} --output DIR)")


@torch.inference_mode()
def _predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    examples: Examples,
    max_length: int,
    batch_size: int,
) -> np.ndarray:
    """Class numbers or values, in the order of the examples; batches gather examples of like length."""
    encoded = encode_examples(examples, tokenizer, model.config, max_length)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    predicted = np.zeros(len(encoded))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for rows in progress.track(batches, f"scoring {data.task.name}"):
        batch = collate([encoded[row] for row in rows]).to(model.device)
        batch.pop("labels")
        logits = model(**batch).logits.float()
        predicted[rows] = (logits[:, 0] if data.task.is_regression else logits.argmax(-1)).cpu().numpy()
    return predicted


@torch.inference_mode()
def _score_language(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TaskData, limit: int | None
) -> Score:
    """exp of the mean negative log-likelihood, in nats, of the scored tokens over windows that do not overlap."""
    kind = architecture(model.config)
    windows = language_windows(data.text("validation"), tokenizer, model.config, EVALUATION_SEED, limit=limit)
    batch_size = max(1, 4096 // len(windows[0]["labels"]))
    total, count = 0.0, 0
    likeliest: list[float] = []
    batches = [windows[start : start + batch_size] for start in range(0, len(windows), batch_size)]
    for rows in progress.track(batches, f"scoring {data.task.name}"):
        batch = {name: values.to(model.device) for name, values in default_data_collator(rows).items()}
        logits = model(**batch).logits
        labels = batch["labels"]
        if kind == "decoder":
            logits, labels = logits[:, :-1], labels[:, 1:]
        scored = labels != IGNORED
        logits, labels = logits[scored], labels[scored]
        for part, truth in zip(logits.split(1024), labels.split(1024), strict=True):
            total += float(torch.nn.functional.cross_entropy(part.float(), truth, reduction="sum"))
        count += len(labels)
        if len(likeliest) < KEPT_TOKENS:
            likeliest += logits[: KEPT_TOKENS - len(likeliest)].argmax(-1).tolist()
    loss = total / count
    metrics = {PERPLEXITIES[kind]: math.exp(min(loss, 700.0)), "loss": loss, "tokens": float(count)}
    return Score(data.task.name, metrics, tuple(likeliest))
