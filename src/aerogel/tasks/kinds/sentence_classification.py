"""Classes of sentences or of pairs of sentences."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import DataError
from aerogel.tasks.augment import AugmentedExamples
from aerogel.tasks.encode import encode_examples
from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score
from aerogel.tasks.read import HELD_OUT_SHARE, Examples, Label, check_classes, class_number, labels_of, read_examples
from aerogel.tasks.rows import Role, Rows

TEXT = Role("text", ("sentence", "sentence1", "question1", "premise", "query", "content", "review", "document"))
TEXT_PAIR = Role("text_pair", ("sentence2", "question2", "hypothesis", "passage", "answer"), optional=True)
LABEL = Role("label", ("labels", "class", "category", "target", "sentiment", "score", "stars"))


class SentenceClassification(TaskKind):
    """A split is `Examples`, of one or two texts and a label."""

    name = "sentence_classification"
    head = "classification"
    roles: ClassVar[tuple[Role, ...]] = (TEXT, TEXT_PAIR, LABEL)

    def label(self, task: Task, value: Any) -> Label:
        """The label of an example. Raises `ValueError` saying what was expected."""
        return class_number(value, task.labels)

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Examples]]:
        if not task.labels:
            task = self.with_labels(task, next(iter(splits.values())))
        label = partial(self.label, task)
        contents = {split: read_examples(rows, rows.columns[:-1], label) for split, rows in splits.items()}
        if len(splits) > 1 and len(task.labels) > 1:  # a single split may only be scored
            check_classes(contents["train"].labels, task.labels, splits["train"].source)
        return task, contents

    def with_labels(self, task: Task, rows: Rows) -> Task:
        """The task with the labels and metrics of a user's own data."""
        labels = labels_of(rows)
        return replace(task, labels=labels, metrics=("accuracy", "f1") if len(labels) == 2 else ("accuracy",))

    def divide(self, content: Examples, source: str) -> dict[str, Examples]:
        """A fifth is held out by a hash of the text, so that the same row is always on the same side."""
        splits = {"train": Examples([], []), "validation": Examples([], [])}
        for texts, label in zip(content.texts, content.labels, strict=True):
            held_out = zlib.crc32("\t".join(texts).encode()) % 1000 < 1000 * HELD_OUT_SHARE
            part = splits["validation" if held_out else "train"]
            part.texts.append(texts)
            part.labels.append(label)
        if not all(len(part) for part in splits.values()):
            raise DataError(f"{source}: {len(content)} rows are too few to hold out a part for validation")
        return splits

    def inputs(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        examples = content.first(settings.limit)
        encode = partial(encode_examples, tokenizer=tokenizer, config=config, max_length=settings.max_length)
        augmented = None
        if settings.augmentation:
            augmented = AugmentedExamples(examples, encode, settings.augmentation, settings.seed)
        rows = augmented.encoded if augmented else encode(examples)
        collate = DataCollatorWithPadding(tokenizer)
        return Inputs(rows, settings.batch_size, collate, by_length=True, augmented=augmented)

    def calibration_rows(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        order = torch.randperm(len(content), generator=torch.Generator().manual_seed(settings.seed)).tolist()
        budget, rows = (settings.limit or len(content)) * settings.max_length, []
        for index in order:  # one at a time: a few of a large split are enough
            if budget <= 0:
                break
            example = Examples([content.texts[index]], [content.labels[index]])
            inputs = self.inputs(example, tokenizer, model.config, InputSettings(max_length=settings.max_length))
            row = {name: values[0] for name, values in inputs.collate(list(inputs.rows)).items() if name != "labels"}
            budget -= row["input_ids"].numel()
            rows.append(row)
        return sorted(rows, key=lambda row: row["input_ids"].numel())

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


KIND = SentenceClassification()
