"""Embeddings: of texts alone, of pairs with scores, of pairs and triplets; trained, distilled, compared and saved."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import Head, Provenance, load
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.runtime.writing import save_pruned
from aerogel.tasks import Examples, InputSettings, Task, TaskData
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.predictions import Answers
from aerogel.tasks.rows import Rows, match_columns
from aerogel.training import GradualPruning, Recovery, TrainingConfig, finetune, recover
from builders import sentences

KIND = all_kinds()["sentence_embedding"]
TEXTS = [text for text, _ in sentences(48)]
PAIRS = [(text, " ".join(text.split()[1:])) for text in TEXTS]
SCORED = [(first, second if row % 2 else TEXTS[row - 1]) for row, (first, second) in enumerate(PAIRS)]
HEAD = Head("embedding")


def read(columns: dict[str, list[Any]]) -> tuple[Task, Examples]:
    rows = Rows(
        tuple(columns), [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], "rows"
    )
    task, contents = KIND.read(
        Task("mine", KIND.name), {"train": rows.renamed(match_columns(KIND.roles, rows.columns))}
    )
    return task, contents["train"]


def task_data(columns: dict[str, list[Any]]) -> TaskData:
    task, examples = read(columns)
    return TaskData(task, {"train": examples}, "made")


def pairs() -> TaskData:
    return task_data({"anchor": [a for a, _ in PAIRS], "positive": [b for _, b in PAIRS]})


def scored() -> TaskData:
    columns = {"sentence1": [a for a, _ in SCORED], "sentence2": [b for _, b in SCORED]}
    return task_data({**columns, "score": [row % 2 for row in range(len(SCORED))]})


def texts() -> TaskData:
    return task_data({"text": ["\n".join(TEXTS)]})


@pytest.mark.parametrize(
    ("columns", "count", "metric"),
    [
        ({"sentence": ["a b", "c"]}, 1, "uniformity"),
        ({"query": ["a b", "c"], "passage": ["d", "e"]}, 2, "ndcg_at_10"),
        ({"anchor": ["a b", "c"], "positive": ["d", "e"], "negative": ["f", "g"]}, 3, "ndcg_at_10"),
        ({"sentence1": ["a b", "c"], "sentence2": ["d", "e"], "score": ["0.5", 3]}, 2, "cosine_spearman"),
    ],
)
def test_the_columns_decide_what_is_measured(columns: dict[str, list[Any]], count: int, metric: str) -> None:
    task, examples = read(columns)
    assert examples.texts == list(zip(*list(columns.values())[:count], strict=True))
    assert task.metrics[0] == metric
    assert examples.labels == [0.5, 3.0] or all(map(math.isnan, examples.labels))
    assert KIND.has_labels(examples) == (count > 1)


def test_a_text_file_has_a_text_a_line() -> None:
    assert read({"text": ["one\n\n two\nthree\n"]})[1].texts == [("one",), ("two",), ("three",)]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1, "much"]}, "row 2, column score.*much"),
        ({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1, None]}, "row 2, column score"),
        ({"text": ["a", "b"], "negative": ["c", "d"]}, "text_pair"),
        ({"text": [" \n "]}, "row 1, column text"),
        ({"sentence1": ["a", "b"], "sentence2": ["c", 4]}, "row 2, column sentence2"),
    ],
)
def test_bad_rows_are_named(columns: dict[str, list[Any]], named: str) -> None:
    with pytest.raises(DataError, match=named):
        read(columns)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_embeddings_do_not_depend_on_the_batch(width: int) -> None:
    rows = [tuple(TEXTS[row + place] for place in range(width)) for row in range(5)]
    model, tokenizer = load("tiny-bert", HEAD)
    inputs = KIND.inputs(Examples(rows, [math.nan] * 5), tokenizer, model.config, InputSettings(batch_size=3))
    batch = inputs.collate(list(inputs.rows))
    with torch.inference_mode():
        answers = KIND.answers(KIND.outputs(model, batch), batch, model)
        for text, row, embedding in zip(
            [r[k] for k in range(width) for r in rows], answers.rows, answers.logits, strict=True
        ):
            assert text in rows[row]
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            torch.testing.assert_close(embedding, states / states.norm(), atol=1e-5, rtol=1e-4)


def test_spearman_is_that_of_the_cosines() -> None:
    data = scored()
    model, tokenizer = load("tiny-bert", HEAD)
    found = score(model, tokenizer, data, batch_size=5)
    cosines = []
    for pair in SCORED:
        batch = tokenizer(list(pair), padding=True, return_tensors="pt")
        with torch.inference_mode():
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        one, two = (states * mask).sum(1) / mask.sum(1)
        cosines.append(torch.cosine_similarity(one, two, dim=0).item())
    assert found.predictions == pytest.approx(cosines, abs=1e-5)
    labels = data.split("train").labels
    assert found.metrics["cosine_spearman"] == pytest.approx(spearmanr(found.predictions, labels).statistic)
    assert list(found.metrics) == ["cosine_spearman", "cosine_pearson"]


@pytest.mark.parametrize(("make", "metric"), [(pairs, "ndcg_at_10"), (scored, "cosine_spearman")])
def test_training_on_labels_raises_the_score(make: Any, metric: str) -> None:
    data = make()
    model, tokenizer = load("tiny-bert", HEAD)
    whole = TaskData(data.task, {"train": data.split("train"), "validation": data.split("train")}, "made")
    before = score(model, tokenizer, whole).metrics[metric]
    finetune(model, tokenizer, whole, TrainingConfig(epochs=4, batch_size=8, learning_rate=3e-4))
    assert score(model, tokenizer, whole).metrics[metric] > before


@pytest.mark.parametrize("make", [texts, pairs, scored])
def test_it_is_pruned_distilled_and_compared(make: Any) -> None:
    data = make().divided()
    model, tokenizer = load("tiny-bert", HEAD)
    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.9, calibration=Calibration(data, tokenizer, 8, 32, at_most=True))
    found = evaluate(sparse, tokenizer, data, reference=model)["mine"]
    assert found["kl"] > 0
    assert found["agreement"] < 1
    assert found[f"dense_{data.task.metrics[0]}"] == score(model, tokenizer, data).metrics[data.task.metrics[0]]
    assert ("flipped" in found) == (make is pairs)
    finetune(sparse, tokenizer, data, TrainingConfig(epochs=3, batch_size=8, learning_rate=5e-4), teacher=model)
    assert evaluate(sparse, tokenizer, data, reference=model)["mine"]["kl"] < found["kl"]


def test_a_model_compared_with_itself_agrees() -> None:
    model, tokenizer = load("tiny-bert", HEAD)
    found = evaluate(model, tokenizer, pairs(), reference=copy.deepcopy(model))["mine"]
    assert (found["kl"], found["agreement"], found["flipped"]) == (0, 1, 0)


def test_embeddings_of_another_width_are_refused() -> None:
    model, tokenizer = load("tiny-bert", HEAD)
    narrow = BertModel(BertConfig.from_dict({**model.config.to_dict(), "hidden_size": 64})).eval()
    for compare in (
        lambda: evaluate(narrow, tokenizer, pairs(), reference=model),
        lambda: finetune(narrow, tokenizer, pairs(), TrainingConfig(epochs=1, limit=8), teacher=model),
    ):
        with pytest.raises(ModelError, match=r"64.*128"):
            compare()


@pytest.mark.parametrize("teacher", ["self", "tiny-bert"])  # a masked language model, whose head is left out
def test_without_labels_the_teacher_may_be_the_given_model(teacher: str) -> None:
    """No dense fine-tuning: with a learning rate of almost nothing the model stays the teacher."""
    config = TrainingConfig(batch_size=16, learning_rate=1e-12)
    gradual = GradualPruning(PruneConfig("magnitude", 0.5), "constant")
    recovered = recover("tiny-bert", texts(), config, Recovery(gradual, teacher, epochs=1))
    assert recovered.dense_seconds is None
    dense, _ = load("tiny-bert", HEAD)
    for name, weight in recovered.model.named_parameters():
        kept = weight != 0
        torch.testing.assert_close(weight[kept], dense.get_parameter(name)[kept], atol=1e-6, rtol=1e-4)
    with pytest.raises(DataError, match="teacher"):
        recover("tiny-bert", texts(), config, Recovery(gradual))


def test_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 6, generator=generator), dim=-1)
    output = type("Output", (), {"embeddings": embeddings})
    first, second = embeddings.double().split(4)
    scores = torch.tensor([0.5, 4.0, 4.0, 2.0])
    cosines = (first * second).sum(-1).tolist()
    terms = [
        math.exp(20 * (cosines[low] - cosines[high]))
        for high in range(4)
        for low in range(4)
        if scores[high] > scores[low]
    ]
    assert len(terms) == 5
    assert KIND.loss(output, {"labels": scores}, None).item() == pytest.approx(math.log(1 + sum(terms)), rel=1e-5)
    logits = 20 * first @ second.T
    expected = -torch.log_softmax(logits, -1).diagonal().mean().item()
    assert KIND.loss(output, {"labels": torch.full((4,), math.nan)}, None).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="teacher"):
        KIND.loss(output, {"labels": torch.full((8,), math.nan)}, None)


def test_distances_are_zero_for_equal_embeddings_alone() -> None:
    ours, theirs = (
        Answers(torch.nn.functional.normalize(torch.randn(6, 5), dim=-1), torch.zeros(6), torch.arange(6))
        for _ in range(2)
    )
    assert KIND.distillation_loss(ours, ours, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert KIND.distillation_loss(ours, theirs, 1.0).item() > 0.1
    expected = 1 - torch.cosine_similarity(ours.logits, theirs.logits)
    torch.testing.assert_close(KIND.divergence(theirs, ours).float(), expected)


def test_encoder_decoders_are_refused() -> None:
    model, tokenizer = load("tiny-bart")
    with pytest.raises(ModelError, match="bart"):
        KIND.inputs(texts().split("train"), tokenizer, model.config, InputSettings())


def test_calibration_has_each_text_once_and_alone() -> None:
    model, tokenizer = load("tiny-bert", HEAD)
    examples = Examples([("one two", "three"), ("three", "one two")], [1.0, 2.0])
    rows = KIND.calibration_rows(examples, tokenizer, model, InputSettings(limit=4))
    expected = sorted(tokenizer(["one two", "three"])["input_ids"], key=len)
    assert [row["input_ids"].tolist() for row in rows] == expected


def test_a_pruned_model_is_packed_and_loads_in_sentence_transformers(tmp_path: Path) -> None:
    data = texts()
    model, tokenizer = load("tiny-bert", HEAD)
    gradual = GradualPruning(PruneConfig("magnitude", 0.8))
    config = TrainingConfig(epochs=2, batch_size=8)
    finetune(model, tokenizer, data, config, sparsity=gradual, teacher=copy.deepcopy(model))
    assert save_pruned(model, tokenizer, tmp_path / "packed", "tiny-bert", Provenance(), pack=True).is_packed
    in_float32 = {"dtype": torch.float32}  # the checkpoint is in float16
    loaded = SentenceTransformer(str(tmp_path / "packed"), device="cpu", model_kwargs=in_float32)
    found = loaded.encode(TEXTS)
    packed, _ = load(tmp_path / "packed", HEAD)
    inputs = KIND.inputs(
        Examples([(text,) for text in TEXTS], [math.nan] * len(TEXTS)), tokenizer, model.config, InputSettings()
    )
    batch = inputs.collate(list(inputs.rows))
    with torch.inference_mode():
        expected = KIND.outputs(packed, batch).embeddings.numpy()
    assert np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected).max() < 1e-5
