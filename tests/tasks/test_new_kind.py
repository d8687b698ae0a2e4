"""A kind of task that the package does not have goes all the way: tags of words, defined here in one class."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from aerogel.evaluation import evaluate, score
from aerogel.models import load
from aerogel.models.loading import HEADS
from aerogel.pruning import Calibration, prune
from aerogel.tasks import IGNORED, METRICS, InputSettings, Score, Task, TaskData, TaskKind
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.predictions import Answers, Inputs, Predictions
from aerogel.tasks.rows import Role
from aerogel.training import TrainingConfig, finetune
from builders import sentences

Content = list[tuple[list[str], list[int]]]


class WordTags(TaskKind):
    name = "word_tags"
    head = "token-classification"
    roles = (Role("tokens", ()), Role("tags", ()))

    def read(self, task: Task, splits: Any) -> tuple[Task, dict[str, Content]]:
        return task, {split: [(row["tokens"], row["tags"]) for row in rows] for split, rows in splits.items()}

    def divide(self, content: Content, source: str) -> dict[str, Content]:
        return {"train": content[::2], "validation": content[1::2]}

    def inputs(self, content: Content, tokenizer: Any, config: Any, settings: InputSettings) -> Inputs:
        rows = []
        for words, tags in content[: settings.limit]:
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=settings.max_length)
            numbers = encoded.word_ids()
            first = [new is not None and new != old for new, old in zip(numbers, [None, *numbers], strict=False)]
            labels = [tags[word] if begins else IGNORED for word, begins in zip(numbers, first, strict=True)]
            rows.append({**encoded, "labels": labels})
        return Inputs(rows, settings.batch_size, DataCollatorForTokenClassification(tokenizer), by_length=True)

    def calibration_rows(self, content: Content, tokenizer: Any, model: Any, settings: InputSettings) -> Any:
        rows = self.inputs(content, tokenizer, model.config, settings).rows
        return [{name: torch.tensor(row[name]) for name in row if name != "labels"} for row in rows]

    def answers(self, output: Any, batch: Any, model: Any) -> Answers:
        scored = batch["labels"] != IGNORED
        return Answers(output.logits[scored], batch["labels"][scored], scored.nonzero()[:, 0])

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: Any) -> Score:
        values, references = predictions.values, predictions.references
        metrics = {name: METRICS[name].function(values, references) for name in task.metrics}
        counts = {"tokens": len(values)}
        return Score(task.name, metrics, counts, {}, tuple(values.tolist()), tuple(references.tolist()))


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> TaskData:
    """Which words have more than four letters."""
    monkeypatch.setitem(all_kinds(), "word_tags", WordTags())
    classes = (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    monkeypatch.setitem(HEADS, "token-classification", {None: classes})
    content = [(text.split(), [int(len(word) > 4) for word in text.split()]) for text, _ in sentences(80)]
    return TaskData(Task("words", "word_tags", labels=("short", "long"), metrics=("accuracy",)), {"train": content}, "")


def test_it_is_trained_pruned_distilled_and_compared(data: TaskData) -> None:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    halves = data.divided()
    before = score(model, tokenizer, halves)
    finetune(model, tokenizer, data, TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3))
    after = score(model, tokenizer, halves)
    assert after.counts == {"tokens": sum(len(words) for words, _ in halves.split("validation"))}
    assert after.metrics["accuracy"] > max(0.9, before.metrics["accuracy"])
    assert after.references == tuple(np.concatenate([tags for _, tags in halves.split("validation")]).tolist())

    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.6, calibration=Calibration(halves, tokenizer, 8, 32, at_most=True))
    found = evaluate(sparse, tokenizer, [halves], reference=model)["words"]
    assert found["kl"] > 0
    assert found["dense_accuracy"] == after.metrics["accuracy"]
    assert found["flipped"] == round((1 - found["agreement"]) * found["tokens"])
    finetune(sparse, tokenizer, data, TrainingConfig(epochs=1, batch_size=8, learning_rate=5e-4), teacher=model)
    assert evaluate(sparse, tokenizer, [halves], reference=model)["words"]["kl"] < found["kl"]
