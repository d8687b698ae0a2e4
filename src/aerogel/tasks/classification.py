"""What kinds of task with classes have in common, whatever the classes are of."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.predictions import Answers, Batch, Inputs, Predictions, Score
from aerogel.tasks.read import Label, class_number, labels_of
from aerogel.tasks.rows import Rows


class Classification(TaskKind):
    """One class an example."""

    def label(self, task: Task, value: Any) -> Label:
        """The label of an example. Raises `ValueError` saying what was expected."""
        return class_number(value, task.labels)

    def with_labels(self, task: Task, rows: Rows) -> Task:
        """The task with the labels and metrics of a user's own data."""
        labels = labels_of(rows)
        return replace(task, labels=labels, metrics=("accuracy", "f1") if len(labels) == 2 else ("accuracy",))

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        return Answers(output.logits, batch["labels"], torch.arange(len(output.logits)))

    def predictions(self, answers: Answers) -> Predictions:
        predictions = super().predictions(answers)
        return replace(predictions, logits=answers.logits.double().cpu().numpy())

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        values, references = predictions.values, predictions.references
        metrics = {name: METRICS[name].function(values, references) for name in task.metrics}
        majority = float(np.unique(references, return_counts=True)[1].max() / len(references))
        # a store needs no more digits
        logits = tuple(tuple(round(logit, 4) for logit in row) for row in predictions.logits.tolist())
        counts, baselines = {"examples": len(references)}, {"majority": majority}
        predicted, expected = tuple(values.tolist()), tuple(references.tolist())
        return Score(task.name, metrics, counts, baselines, predicted, expected, logits)
