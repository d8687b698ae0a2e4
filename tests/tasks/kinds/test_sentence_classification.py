"""Classes: whole numbers all the way, and the teacher's classes in the loss."""

import pytest
import torch

from aerogel.models import load, load_tokenizer
from aerogel.tasks import Examples, InputSettings
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.predictions import Answers
from aerogel.tasks.rows import Rows
from builders import sentence_data, sentences

KIND = all_kinds()["sentence_classification"]
DATA = sentence_data(sentences(30))


def test_labels_are_whole_numbers() -> None:
    model, tokenizer = load("tiny-bert", DATA.task.head)
    inputs = KIND.inputs(DATA.split("train"), tokenizer, model.config, InputSettings(limit=9))
    assert [row["labels"] for row in inputs.rows] == DATA.split("train").labels[:9]
    assert all(type(row["labels"]) is int for row in inputs.rows)
    assert inputs.collate(inputs.rows[:3])["labels"].dtype == torch.long


def test_rows_become_examples() -> None:
    rows = Rows(("text", "label"), [{"text": "a", "label": 1}, {"text": "b", "label": "0"}], "rows")
    assert KIND.read(DATA.task, {"train": rows})[1]["train"] == Examples([("a",), ("b",)], [1, 0])


def test_texts_are_augmented_in_training_only() -> None:
    model, tokenizer = load("tiny-bert", DATA.task.head)
    plain, augmented = (
        KIND.inputs(DATA.split("train"), tokenizer, model.config, InputSettings(augmentation=share))
        for share in (0.0, 1.0)
    )
    assert plain.augmented is None
    assert plain.rows == augmented.rows
    assert list(augmented.augmented) != list(plain.rows)


def test_predictions_are_the_likeliest_classes() -> None:
    logits, references = torch.randn(5, 3), torch.tensor([0, 2, 1, 0, 1])
    found = KIND.predictions(Answers(logits, references, torch.arange(5)))
    assert found.values.tolist() == logits.argmax(-1).tolist()
    assert found.losses == pytest.approx(-logits.log_softmax(-1)[torch.arange(5), references].numpy(), rel=1e-5)
    assert found.logits == pytest.approx(logits.numpy())


def test_calibration_rows_have_no_labels_and_fill_the_budget() -> None:
    model, _ = load("tiny-bert", DATA.task.head)
    tokenizer = load_tokenizer("tiny-bert")
    rows = KIND.calibration_rows(DATA.split("train"), tokenizer, model, InputSettings(2, 16, seed=3))
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths == sorted(lengths)
    assert all("labels" not in row for row in rows)
    assert 32 <= sum(lengths) < 32 + 16
