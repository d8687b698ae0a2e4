"""Values: floats all the way, and their distance to the teacher's."""

import pytest
import torch

from aerogel.evaluation import score
from aerogel.models import load
from aerogel.tasks import TASKS, Examples, TaskData
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.predictions import Answers
from aerogel.tasks.rows import Rows

KIND = all_kinds()["sentence_regression"]


def test_labels_become_floats() -> None:
    rows = Rows(("text", "text_pair", "label"), [{"text": "a", "text_pair": "b", "label": 3}], "rows")
    examples = KIND.read(TASKS["stsb"], {"train": rows})[1]["train"]
    assert examples == Examples([("a", "b")], [3.0])
    assert type(examples.labels[0]) is float


def test_the_loss_is_the_square_distance() -> None:
    ours, theirs = (Answers(torch.randn(6, 1), torch.zeros(6), torch.arange(6)) for _ in range(2))
    expected = (ours.logits - theirs.logits).square().mean().item()
    for temperature in (1.0, 3.0):
        assert KIND.distillation_loss(ours, theirs, temperature).item() == pytest.approx(expected)


def test_scores_have_values_and_neither_classes_nor_a_majority() -> None:
    examples = Examples([("a b", "c"), ("d", "e"), ("f", "g h")], [0.1, 2.3, 4.9])
    data = TaskData(TASKS["stsb"], {"validation": examples}, "made")
    model, tokenizer = load("tiny-bert", data.task.head)
    found = score(model, tokenizer, data)
    assert list(found.metrics) == ["correlation", "pearson", "spearman"]
    assert all(type(value) is float for value in found.predictions)
    assert (found.baselines, found.references, found.logits) == ({}, (), ())
    assert not KIND.is_compared
