"""Several labels, or none, for a sentence or a pair of sentences."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from aerogel.errors import excerpt
from aerogel.models.logits import two_class_logits
from aerogel.tasks.kind import SEVERAL_LABELS, Task
from aerogel.tasks.kinds.sentence_classification import SentenceClassification
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.predictions import Answers, Batch, Inputs, Predictions, Score
from aerogel.tasks.read import class_number, from_json, in_order, label_name
from aerogel.tasks.rows import Rows

YES_OR_NO = {"0", "1"}, {"False", "True"}


class MultiLabel(SentenceClassification):
    """Whether a text has a label is one prediction of two classes with the logits 0 and z, so the threshold is 0.5.

    The labels of a row are a list of names or numbers. A file of texts alone has a JSON list, or names with commas
    between them; an empty text is a row without labels.
    """

    name = "multi_label"
    problem_type = SEVERAL_LABELS

    def fits(self, rows: Rows) -> bool:
        """Whether all labels are lists or nothing, and at least one is a list."""
        values = [row["label"] for row in rows]
        return any(map(_is_list, values)) and all(_is_list(value) or not label_name(value) for value in values)

    def with_labels(self, task: Task, rows: Rows) -> Task:
        names: set[str] = set()
        repeating: list[int] = []
        for number, row in enumerate(rows):
            try:
                labels = _names(row["label"])
            except ValueError as error:
                raise rows.error(number, error, "label") from error
            names.update(labels)
            repeating += [number] * (len(set(labels)) < len(labels))
        if repeating and any(names <= values for values in YES_OR_NO):
            problem = (
                f"{excerpt(rows[repeating[0]]['label'])} has a value for each label, expected the names or numbers"
            )
            raise rows.error(repeating[0], f"{problem} of those that the text has", "label")
        return replace(task, labels=in_order(names, rows), metrics=("micro_f1", "macro_f1", "subset_accuracy"))

    def label(self, task: Task, value: Any) -> tuple[float, ...]:
        numbers = {class_number(name, task.labels) for name in _names(value)}
        return tuple(float(number in numbers) for number in range(len(task.labels)))

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        texts, labels = output.logits.shape
        rows = torch.arange(texts).repeat_interleave(labels)
        return Answers(two_class_logits(output.logits), batch["labels"].flatten().long(), rows)

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        """Predictions and references are 0 or 1 for each label of the first text, then of the next."""
        score = super().score(replace(task, metrics=()), inputs, predictions, config)
        by_text = [column.reshape(-1, len(task.labels)) for column in (predictions.values, predictions.references)]
        metrics = {name: METRICS[name].function(*by_text) for name in task.metrics}
        return replace(score, metrics=metrics, counts={"examples": len(inputs.rows)}, baselines={})


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) or (isinstance(value, str) and value.lstrip().startswith("["))


def _names(value: Any) -> list[str]:
    """The labels of a row. Raises `ValueError`."""
    value = from_json(value)
    if isinstance(value, list | tuple):
        values = value
    elif isinstance(value, str):
        values = value.split(",") if value.strip() else []
    elif label_name(value):
        raise ValueError(f"expected a list of labels, found {excerpt(value)}")
    else:
        values = []
    if wrong := [name for name in values if not isinstance(name, str | int | float) or not label_name(name)]:
        raise ValueError(f"expected a name or a number for each label, found {excerpt(wrong[0])}")
    return list(map(label_name, values))


KIND = MultiLabel()
