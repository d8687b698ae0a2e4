"""A kind of task that the package does not have goes all the way: tags of words, the example of the guide."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from aerogel.errors import DataError
from aerogel.evaluation import evaluate, score
from aerogel.models import load
from aerogel.models.loading import HEADS
from aerogel.pruning import Calibration, prune
from aerogel.tasks import TASKS, Task, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.training import TrainingConfig, finetune
from builders import sentences

GUIDE = Path(__file__).parents[2] / "docs" / "write-a-task-kind.md"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TaskData:
    """Which words have more than four letters."""
    guide: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0], guide)
    monkeypatch.setitem(all_kinds(), "word_tags", guide["KIND"])
    classes = (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    monkeypatch.setitem(HEADS, "token-classification", {None: classes})
    rows = [
        {"tokens": text.split(), "tags": ["long" if len(w) > 4 else "short" for w in text.split()]}
        for text, _ in sentences(80)
    ]
    monkeypatch.setitem(TASKS, "words", Task("words", "word_tags", labels=("short", "long"), metrics=("accuracy",)))
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "words.jsonl").write_text(lines)
    return load_task(tmp_path / "words.jsonl")


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


def test_its_errors_name_the_line(data: TaskData, tmp_path: Path) -> None:
    (tmp_path / "words.jsonl").write_text('{"tokens": ["a", "b"], "ner_tags": ["short"]}')
    with pytest.raises(DataError, match=r"words\.jsonl, line 1, column ner_tags: 1 .* 2"):
        load_task(tmp_path / "words.jsonl")
