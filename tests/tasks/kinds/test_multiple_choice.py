"""Choices: how they are read, and a model that learns to choose, is pruned, distilled and compared."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import load, save
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.runtime import compress
from aerogel.tasks import InputSettings, Task, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.rows import Rows, match_columns
from aerogel.training import DistillationConfig, GradualPruning, TrainingConfig, finetune
from builders import BAD, GOOD, NOUNS, sentence_data, sentences

KIND = all_kinds()["multiple_choice"]
TASK = Task("ends", "multiple_choice")
SWAG = (
    "video-id",
    "startphrase",
    "sent1",
    "sent2",
    "gold-source",
    *(f"ending{number}" for number in range(4)),
    "label",
)


def rows_of(*values: dict[str, Any]) -> Rows:
    rows = Rows(tuple(values[0]), values, "rows")
    return rows.renamed(match_columns(KIND.roles, rows.columns))


def read(*values: dict[str, Any]) -> tuple[list[tuple[str, ...]], list[Any]]:
    task, contents = KIND.read(TASK, {"train": rows_of(*values)})
    assert task.metrics == ("accuracy",)
    return contents["train"].texts, contents["train"].labels


def choices(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A good word and two bad ones: the good one is right."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        words = [draw.choice(BAD), draw.choice(BAD)]
        words.insert(index % 3, draw.choice(GOOD))
        opening = f"the {draw.choice(NOUNS)}" + " that I saw" * (index % 2)
        rows.append({"question": opening, "choices": [f"was {word}" for word in words], "answer": index % 3})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    path = tmp_path_factory.mktemp("data") / "ends.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in choices(240)))
    data = load_task(path).divided()
    assert data.task.kind_name == "multiple_choice"
    return data


@pytest.fixture(scope="module")
def trained(data: TaskData) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    finetune(model, tokenizer, data, TrainingConfig(epochs=6, batch_size=8, learning_rate=1e-3))
    return model, tokenizer


@pytest.mark.parametrize(
    ("choices", "label", "right"),
    [
        (["a", "b", "c"], 2, 2),
        (("a", "b", "c"), "2", 2),
        (["a", "b", "c"], "b", 1),
        (["x", "y", "z"], "B", 1),
        (["2", "1", "0"], "2", 0),
        (["2", "1", "0"], 2, 2),
        (np.array(["a", "b"]), np.int64(1), 1),
        ('["a", "b"]', "1", 1),
        ({"text": ["a", "b"], "label": ["B", "A"]}, "A", 1),
        ({"text": np.array(["a", "b"]), "label": np.array([1, 2])}, "2", 1),
        ('{"text": ["a", "b"], "label": ["1", "2"]}', 1, 0),
    ],
)
def test_choices_and_labels_of_many_data_sets(choices: Any, label: Any, right: int) -> None:
    texts, labels = read({"question": "q", "choices": choices, "answerKey": label})
    assert (texts[0][0], labels) == ("q", [right])
    assert all(type(text) is str for text in texts[0])


def test_columns_of_choices() -> None:
    swag = dict.fromkeys(SWAG, "no") | {"sent1": "He sat.", "sent2": "He", "label": 3}
    swag |= {f"ending{number}": f"end {number}" for number in range(4)}
    assert KIND.fits(rows_of(swag))
    assert read(swag) == ([("He sat.", "He end 0", "He end 1", "He end 2", "He end 3")], [3])
    copa = {"premise": "p", "choice1": "a", "choice2": "b", "label": 1}
    assert read(copa) == ([("p", "a", "b")], [1])


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"choices": ["a", "b", "c"]}, ["3", "2"]),
        ({"choices": ["a"]}, ["choices"]),
        ({"choices": ["a", 1]}, ["choices", "1"]),
        ({"choices": "a, b"}, ["choices", "a, b"]),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, ["choices", "1"]),
        ({"choices": {"text": ["a", "b"], "label": ["P", "Q"]}, "label": "A"}, ["label", "P", "Q"]),
        ({"label": 2}, ["label", "2"]),
        ({"label": -1}, ["label", "-1"]),
        ({"label": ""}, ["label"]),
        ({"label": "AB"}, ["label", "AB"]),
        ({"question": 5}, ["question", "5"]),
    ],
)
def test_wrong_rows_are_refused_with_their_place(row: dict[str, Any], wrong: list[str]) -> None:
    good = {"question": "q", "choices": ["a", "b"], "label": 1}
    with pytest.raises(DataError, match="rows, row 2, column ") as error:
        read(good, good | row)
    assert all(part in str(error.value) for part in wrong)


def test_an_empty_choice_is_refused() -> None:
    row = {"premise": "p", "choice1": "a", "choice2": "b", "label": 1}
    with pytest.raises(DataError, match="row 2, column choice2"):
        read(row, row | {"choice2": " "})


def test_rows_without_choices_are_refused() -> None:
    row = {"text": "q", "label": 1}
    assert not KIND.fits(rows_of(row))
    with pytest.raises(DataError, match="choices"):
        read(row)


def test_a_model_reads_each_choice_with_the_context(data: TaskData) -> None:
    model, tokenizer = load("tiny-bert", data.task.head)
    content = data.split("train")
    inputs = KIND.inputs(content, tokenizer, model.config, InputSettings(limit=5, max_length=9))
    batch = inputs.collate(inputs.rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[:2] == (5, 3)
    assert batch["input_ids"].shape[2] <= 9
    assert batch["labels"].tolist() == content.labels[:5]
    [context, *texts] = content.texts[0]
    for ids, text in zip(inputs.rows[0]["input_ids"], texts, strict=True):
        assert ids == tokenizer(context, text, truncation=True, max_length=9)["input_ids"]
    [row, *_] = KIND.calibration_rows(content, tokenizer, model, InputSettings(2, 16))
    assert set(row) == set(batch) - {"labels"}
    assert row["input_ids"].shape[0] == 3


def test_scores_are_by_example(data: TaskData, trained: tuple[Any, Any]) -> None:
    found = score(*trained, data)
    labels = data.split("validation").labels
    assert found.references == tuple(labels)
    assert found.counts == {"examples": len(labels)}
    assert found.metrics["accuracy"] > 0.9
    assert {len(row) for row in found.logits} == {3}


def test_a_model_is_pruned_compared_and_recovered(data: TaskData, trained: tuple[Any, Any]) -> None:
    model, tokenizer = trained
    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.9, calibration=Calibration(data, tokenizer, 8, 64, at_most=True))
    before = evaluate(sparse, tokenizer, data, reference=model)["ends"]
    assert before["kl"] > 0.01
    assert before["flipped"] == round((1 - before["agreement"]) * before["examples"])
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-4)
    finetune(sparse, tokenizer, data, config, teacher=model, distillation=DistillationConfig(hardness=0.5))
    assert evaluate(sparse, tokenizer, data, reference=model)["ends"]["kl"] < before["kl"]


@pytest.mark.slow
def test_pruning_while_training_for_int8(data: TaskData, trained: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = copy.deepcopy(trained[0]), trained[1]
    finetune(
        model,
        tokenizer,
        data,
        TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-4),
        sparsity=GradualPruning(PruneConfig("best", 0.6), "constant"),
        teacher=trained[0],
        values="int8",
    )
    dense = score(model, tokenizer, data)
    save(compress(model, values="int8"), tokenizer, tmp_path / "packed")
    packed = score(*load(tmp_path / "packed"), data)
    assert packed.metrics["accuracy"] == pytest.approx(dense.metrics["accuracy"], abs=0.05)


def test_another_head_is_refused(data: TaskData, trained: tuple[Any, Any]) -> None:
    classifier = sentence_data(sentences(8))
    with pytest.raises(ModelError, match=r"moods .*classification.*multiple-choice"):
        score(*trained, classifier)
    with pytest.raises(ModelError, match=r"ends .*multiple-choice.*classification"):
        score(*load("tiny-bert", classifier.task.head), data)
