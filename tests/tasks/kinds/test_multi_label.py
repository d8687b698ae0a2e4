"""Several labels of a text: one prediction of two classes for each, through training, pruning and comparison."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import binary_cross_entropy_with_logits

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import Head, load, save
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.runtime import compress
from aerogel.tasks import METRICS, TASKS, InputSettings, Task, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.rows import Rows
from aerogel.training import GradualPruning, TrainingConfig, finetune
from builders import BAD, GOOD, sentence_data, sentences

KIND = all_kinds()["multi_label"]
LABELS = ("glad", "sad", "long")


def rows_of(labels: list[Any], original: str = "labels") -> Rows:
    values = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    return Rows(("text", "label"), values, "rows", original={"text": "text", "label": original})


def read(labels: list[Any], names: tuple[str, ...] = ()) -> tuple[Task, list[tuple[float, ...]]]:
    task, contents = KIND.read(Task("own", "multi_label", labels=names), {"train": rows_of(labels)})
    return task, contents["train"].labels


@pytest.fixture(scope="module")
def data() -> TaskData:
    """Which words a sentence holds, and whether it is long; some sentences have no label."""
    pairs = [(one, other) for (one, _), (other, _) in zip(sentences(160), sentences(160, seed=1), strict=True)]
    texts = [f"{one} and {other}" if index % 3 else "the lamp stood" for index, (one, other) in enumerate(pairs)]
    words = [text.split() for text in texts]
    found = [
        [name for name, has in zip(LABELS, (set(GOOD) & set(w), set(BAD) & set(w), len(w) > 11), strict=True) if has]
        for w in words
    ]
    values = [{"text": text, "label": labels} for text, labels in zip(texts, found, strict=True)]
    rows = Rows(("text", "label"), values, "made")
    task, contents = KIND.read(Task("moods", "multi_label"), {"train": rows})
    assert task.labels == tuple(sorted(LABELS))
    return TaskData(task, contents, "made").divided()


@pytest.fixture(scope="module")
def trained(data: TaskData) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    finetune(model, tokenizer, data, TrainingConfig(epochs=6, batch_size=8, learning_rate=1e-3))
    return model, tokenizer


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["b", "a"], [], ["a", "a"]], [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]),
        (['["b", "a"]', "[]", '["a"]'], [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]),
        (["b, a", "", "a"], [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]),
        ([np.array(["b", "a"]), None, ("a",)], [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]),
    ],
)
def test_labels_are_lists_or_texts(labels: list[Any], expected: list[tuple[float, ...]]) -> None:
    task, found = read(labels)
    assert (task.labels, task.metrics) == (("a", "b"), ("micro_f1", "macro_f1", "subset_accuracy"))
    assert found == expected
    assert task.head == Head("classification", ("a", "b"), "multi_label_classification")


def test_labels_of_the_hub_are_numbers() -> None:
    task, found = read([[27], [2, 14]], TASKS["go_emotions"].labels)
    assert [[task.labels[at] for at, is_there in enumerate(row) if is_there] for row in found] == [
        ["neutral"],
        ["anger", "fear"],
    ]
    assert len(TASKS["go_emotions"].labels) == 28


@pytest.mark.parametrize(
    ("labels", "names", "wrong"),
    [
        ([["a"], ["a", "c"]], ("a", "b"), "'c'"),
        ([["a"], 3], (), "3"),
        ([["a", "b"], '["a"'], (), '["a"'),
        ([["a", "b"], [["a"]]], (), "['a']"),
        ([["a", "b"], ["a", ""]], (), "''"),
        ([["a", "b"], [None]], (), "None"),
        ([[0, 1], [1.0, 0.0, 1.0]], (), "[1.0, 0.0, 1.0]"),
        ([[True, False], [True, True]], (), "[True, True]"),
    ],
)
def test_wrong_labels_are_refused_with_their_place(labels: list[Any], names: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(DataError, match=r"rows, row 2, column labels: ") as error:
        read(labels, names)
    assert wrong in str(error.value)


@pytest.mark.parametrize("labels", [[[], []], [["a"], ["a"]], [[f"l{number}" for number in range(101)]]])
def test_too_few_or_too_many_labels_are_refused(labels: list[Any]) -> None:
    with pytest.raises(DataError, match="label"):
        read(labels)


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        ([["a"], None], True),
        ([[], []], True),
        (['["a", "b"]', ""], True),
        (["a", "b"], False),
        ([["a"], "b"], False),
        ([0.5, 1], False),
        ([np.array([1, 0])], True),
    ],
)
def test_lists_are_guessed(labels: list[Any], fits: bool) -> None:
    assert KIND.fits(rows_of(labels)) is fits


def test_a_file_of_lists_is_of_this_kind(tmp_path: Path) -> None:
    path = tmp_path / "moods.jsonl"
    path.write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n')
    task = load_task(path).task
    assert (task.kind_name, task.labels) == ("multi_label", ("x", "y"))


def test_an_answer_is_a_label_of_a_text(data: TaskData) -> None:
    model, tokenizer = load("tiny-bert", data.task.head)
    inputs = KIND.inputs(data.split("train"), tokenizer, model.config, InputSettings(limit=4))
    batch = inputs.collate(inputs.rows)
    with torch.no_grad():
        output = model(**batch)
    answers = KIND.answers(output, batch, model)
    assert answers.rows.tolist() == [row for row in range(4) for _ in LABELS]
    logits, labels = output.logits.flatten(), batch["labels"].flatten()
    predictions = KIND.predictions(answers)
    assert predictions.values.tolist() == (logits.sigmoid() > 0.5).long().tolist()
    expected = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert predictions.losses == pytest.approx(expected.numpy(), rel=1e-4)
    assert output.loss.item() == pytest.approx(predictions.losses.mean(), rel=1e-4)


def test_scores_are_by_label(data: TaskData, trained: tuple[Any, Any]) -> None:
    found = score(*trained, data)
    references = np.array(data.split("validation").labels)
    predicted = np.array(found.predictions).reshape(-1, len(LABELS))
    assert found.references == tuple(references.ravel().astype(int).tolist())
    assert found.counts == {"examples": len(references)}
    assert found.metrics["micro_f1"] == pytest.approx(f1_score(references, predicted, average="micro"))
    macro = f1_score(references, predicted, average="macro", zero_division=0)
    assert found.metrics["macro_f1"] == pytest.approx(macro)
    assert found.metrics["subset_accuracy"] == pytest.approx((references == predicted).all(1).mean())
    assert found.metrics["micro_f1"] > 0.9
    assert not found.baselines


def test_a_model_is_pruned_compared_and_recovered(data: TaskData, trained: tuple[Any, Any]) -> None:
    model, tokenizer = trained
    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.9, calibration=Calibration(data, tokenizer, 8, 32, at_most=True))
    before = evaluate(sparse, tokenizer, data, reference=model)["moods"]
    assert before["kl"] > 0.01
    assert before["flipped"] == round((1 - before["agreement"]) * before["examples"] * len(LABELS))
    zeros = {name: weight == 0 for name, weight in sparse.named_parameters() if "layer" in name and weight.dim() == 2}
    finetune(sparse, tokenizer, data, TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-4), teacher=model)
    assert evaluate(sparse, tokenizer, data, reference=model)["moods"]["kl"] < before["kl"]
    assert all((dict(sparse.named_parameters())[name][mask] == 0).all() for name, mask in zeros.items())


def test_pruning_while_training_for_int8(data: TaskData, trained: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = copy.deepcopy(trained[0]), trained[1]
    finetune(
        model,
        tokenizer,
        data,
        TrainingConfig(epochs=4, batch_size=8, learning_rate=5e-4),
        sparsity=GradualPruning(PruneConfig("magnitude", 0.6)),
        teacher=trained[0],
        values="int8",
    )
    dense = score(model, tokenizer, data)
    save(compress(model, values="int8"), tokenizer, tmp_path / "packed")
    packed = score(*load(tmp_path / "packed"), data)
    assert packed.metrics["micro_f1"] == pytest.approx(dense.metrics["micro_f1"], abs=0.05)


def test_heads_for_one_label_and_for_several_are_told_apart(data: TaskData) -> None:
    single = sentence_data(sentences(12))
    for head, other in ((data.task.head, single), (Head("classification", data.task.labels), data)):
        model, tokenizer = load("tiny-bert", head)
        for action in (score, finetune):
            with pytest.raises(ModelError, match=rf"{other.task.name} .*{model.config.problem_type}"):
                action(model, tokenizer, other)


def test_metrics_by_hand() -> None:
    references, predicted = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [1, 0], [0, 0]])
    found = {name: METRICS[name].function(predicted, references) for name in TASKS["go_emotions"].metrics}
    assert found == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 0.5, "subset_accuracy": 1 / 3})
