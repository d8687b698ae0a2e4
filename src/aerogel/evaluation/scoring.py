"""Scoring a model on the validation split of a task, beside a reference model if there is one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from aerogel import progress
from aerogel.errors import DataError, ModelError, shown
from aerogel.models import evaluating
from aerogel.models.tokenizer import padding_right
from aerogel.tasks import InputSettings, Metric, Score, Task, TaskData
from aerogel.tasks.predictions import Answers, Inputs, Predictions, sums_by_row

EVALUATION_SEED = 0  # of masks and infilled spans, so that every model gets the same inputs


@dataclass(frozen=True)
class Run:
    """A model's predictions on a split, those of a reference, and how far the model's are from them.

    Attributes:
        divergences: KL(reference ‖ model) of each answer, in nats.
        rows: the row of the split, or the text of several rows, that each of these belongs to.
    """

    task: Task
    inputs: Inputs
    config: PretrainedConfig
    predictions: Predictions
    reference: Predictions | None
    divergences: np.ndarray
    rows: np.ndarray

    def score(self, predictions: Predictions) -> Score:
        """The metrics of the user and of the kind of task. Raises `DataError` for a metric that is not a number."""
        scored = self.task.kind.score(self.task, self.inputs, predictions, self.config)
        # of entities there is more to a score than its predictions of words
        own = {
            metric.name: scored.metrics[metric.name]
            if metric.of_entities and metric.name in scored.metrics
            else _own_value(metric, predictions)
            for metric in self.task.own_metrics
        }
        others = {name: value for name, value in scored.metrics.items() if name not in own}
        return replace(scored, metrics=own | others)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None = None,
    max_length: int = 128,
    batch_size: int = 32,
) -> Score:
    """Score a model on the validation split of a task, or its first `limit` examples or windows.

    Raises `DataError` or `ModelError`.
    """
    check_head(model, data.task)
    settings = InputSettings(limit, max_length, batch_size, seed=EVALUATION_SEED)
    run = predict(model, tokenizer, data, settings)
    return run.score(run.predictions)


def check_head(model: PreTrainedModel, task: Task) -> None:
    """Raises `ModelError` if the model's head does not fit the task."""
    task.check_head(model, f"fine-tune the model on it first (aerogel finetune MODEL --task {task.name} --output DIR)")


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    settings: InputSettings,
    reference: PreTrainedModel | None = None,
) -> Run:
    """The predictions for each row of the validation split, batch by batch: logits of all need too much memory."""
    kind = data.task.kind
    inputs = kind.inputs(data.split("validation"), padding_right(tokenizer), model.config, settings)
    models = [model] if reference is None else [model, reference]
    parts: list[list[Predictions]] = [[] for _ in models]
    divergences, answer_rows = [np.zeros(0)], [np.zeros(0, dtype=int)]
    for rows in progress.track(inputs.batches(), f"scoring {data.task.name}"):
        batch = inputs.collate([inputs.rows[row] for row in rows])
        answers = [_answers(scored, batch, data.task) for scored in models]
        for scored, part, of_model in zip(models, parts, answers, strict=True):
            part.append(_predictions(scored, data.task, inputs, rows, batch, of_model))
        if reference is not None:
            dense = answers[1].to(answers[0].logits.device)
            divergences.append(kind.divergence(dense, answers[0]).double().cpu().numpy())
            answer_rows.append(np.array(rows)[answers[0].rows.cpu().numpy()])
    own, *others = [kind.complete(inputs, Predictions.joined(part)) for part in parts]
    texts = np.concatenate(answer_rows)
    if inputs.texts is not None:
        texts = inputs.texts[texts]
    return Run(
        task=data.task,
        inputs=inputs,
        config=model.config,
        predictions=own,
        reference=others[0] if others else None,
        divergences=np.concatenate(divergences),
        rows=texts,
    )


def _answers(model: PreTrainedModel, batch: Mapping[str, Tensor], task: Task) -> Answers:
    batch = {name: values.to(model.device) for name, values in batch.items()}
    inputs = {name: values for name, values in batch.items() if task.kind.reads_labels or name != "labels"}
    with evaluating(model):
        return task.kind.answers(task.kind.outputs(model, inputs), batch, model)


def _predictions(
    model: PreTrainedModel, task: Task, inputs: Inputs, rows: list[int], batch: Mapping[str, Tensor], answers: Answers
) -> Predictions:
    """The predictions of a batch, with the rows of the split that it holds. Raises `ModelError` for NaN."""
    with evaluating(model):
        predictions = task.kind.predict(model, inputs, batch, answers)
    if np.isnan(predictions.losses).any():
        raise ModelError(
            f"task {task.name}: the model's logits are NaN: the checkpoint is corrupt or training diverged "
            "(try a lower learning rate)"
        )
    return replace(predictions, rows=np.array(rows)[predictions.rows])


def _own_value(metric: Metric, predictions: Predictions) -> float:
    if metric.of_entities:
        raise DataError(f"metric {metric.name} needs tags that mark entities, such as B-person, found none in the data")
    columns = predictions.values, predictions.references
    if metric.of_losses:
        columns = sums_by_row(predictions.losses, predictions.rows)
    value = metric.function(*columns)
    if not isinstance(value, Real) or not np.isfinite(value):
        raise DataError(f"metric {metric.name} returned {shown(value)}, expected a finite number")
    return float(value)
