"""A value for a sentence or a pair of sentences, such as the similarity of two."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import PretrainedConfig

from aerogel.errors import excerpt
from aerogel.tasks.kind import Task
from aerogel.tasks.kinds.sentence_classification import SentenceClassification
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.predictions import Answers, Inputs, Predictions, Score, as_predictions
from aerogel.tasks.read import check_values, number_of
from aerogel.tasks.rows import Rows


class SentenceRegression(SentenceClassification):
    """Its head has one label, which names the value."""

    name = "sentence_regression"
    is_compared = False

    def fits(self, rows: Rows) -> bool:
        """Whether most labels are numbers, some of them not whole: reading refuses the others by their lines."""
        numbers = list(filter(math.isfinite, (number_of(row["label"]) for row in rows)))
        return len(numbers) > len(rows) / 2 and not all(map(float.is_integer, numbers))

    def with_labels(self, task: Task, rows: Rows) -> Task:
        check_values([row["label"] for row in rows], rows.source)
        return replace(task, labels=(rows.original["label"],), metrics=("correlation", "pearson", "spearman"))

    def label(self, task: Task, value: Any) -> float:
        if math.isfinite(number := number_of(value)):
            return number
        raise ValueError(f"label {excerpt(value)} is not a finite number")

    def predictions(self, answers: Answers) -> Predictions:
        values = answers.logits[:, 0].double()
        return as_predictions(answers, values, (values - answers.references).square() / 2)

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        references = np.array([row["labels"] for row in inputs.rows])  # those of a batch are rounded to float32
        metrics = {name: METRICS[name].function(predictions.values, references) for name in task.metrics}
        return Score(task.name, metrics, {"examples": len(references)}, predictions=tuple(predictions.values.tolist()))

    def distillation_loss(self, student: Answers, teacher: Answers, temperature: float) -> Tensor:
        """The mean square distance of the values."""
        return mse_loss(student.logits.float(), teacher.logits.float())


KIND = SentenceRegression()
