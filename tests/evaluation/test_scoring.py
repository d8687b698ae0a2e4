"""Scores against slow computations done by hand, and refusals that say what to do."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import score
from aerogel.evaluation.scoring import EVALUATION_SEED
from aerogel.models import architecture, load, load_tokenizer, save
from aerogel.tasks import IGNORED, Examples, TaskData
from aerogel.tasks.encode import language_windows
from aerogel.tasks.kinds.language_modelling import KEPT_TOKENS, PERPLEXITIES
from builders import ARCHITECTURES, BERT_LIKE
from evaluation_data import MOODS, ROWS, TEXT, moods, similarities, story

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]


# labels


@pytest.mark.parametrize("name", TINY)
def test_predictions_are_those_of_the_sentences_one_by_one(name: str) -> None:
    model, tokenizer = load(name, MOODS.head)
    alone = []
    for text, _ in ROWS:
        with torch.no_grad():
            alone.append(float(model(**tokenizer(text, return_tensors="pt")).logits[0].argmax()))
    truth = [float(label) for _, label in ROWS]
    for batch_size in (1, 7, 100):
        found = score(model, tokenizer, moods(), batch_size=batch_size)
        assert np.mean(np.equal(found.predictions, alone)) > 0.95  # padding may tip a near tie
        accuracy = np.mean(np.equal(found.predictions, truth))
        assert (found.metrics["accuracy"], found.counts) == (accuracy, {"examples": 45})
        assert list(found.metrics) == ["accuracy", "f1"]
        assert found.references == tuple(label for _, label in ROWS)
        assert all(type(label) is int for label in found.predictions + found.references)
        assert list(found.to_dict()) == ["accuracy", "f1", "examples", "majority"]


def test_the_commonest_class_is_counted_among_the_examples_scored() -> None:
    model, tokenizer = load("tiny-gpt2", MOODS.head)
    for limit, majority in ((None, 23 / 45), (3, 2 / 3), (1, 1.0)):
        assert score(model, tokenizer, moods(), limit=limit).baselines == {"majority": majority}


def test_a_limit_takes_the_first_examples() -> None:
    model, tokenizer = load("tiny-gpt2", MOODS.head)
    whole, part = score(model, tokenizer, moods()), score(model, tokenizer, moods(), limit=10)
    assert part.predictions == whole.predictions[:10]
    assert part.counts["examples"] == 10
    for limit in (0, -1):
        with pytest.raises(DataError, match=f"limit {limit} leaves no examples"):
            score(model, tokenizer, moods(), limit=limit)


@pytest.mark.parametrize("name", TINY)
def test_numbers_are_predicted_in_the_order_of_the_examples(name: str) -> None:
    data = similarities()
    model, tokenizer = load(name, data.task.head)
    with torch.no_grad():
        alone = [float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0]) for text, _ in ROWS]
    assert len(set(alone)) > 10
    for batch_size in (1, 4, 100):
        found = score(model, tokenizer, data, batch_size=batch_size)
        assert found.predictions == pytest.approx(alone, abs=1e-3)
        assert np.corrcoef(found.predictions, alone)[0, 1] > 0.99
        pearson = np.corrcoef(found.predictions, data.split("validation").labels)[0, 1]
        assert found.metrics["pearson"] == pytest.approx(pearson)
        assert list(found.to_dict()) == ["correlation", "pearson", "spearman", "examples"]


def test_any_text_can_be_scored() -> None:
    examples = Examples([("one </s> two",), ("<pad> <mask> <s>",), ("plain",), ("",)], [0, 1, 1, 0])
    for name in TINY:
        model, tokenizer = load(name, MOODS.head)
        data = TaskData(MOODS, {"train": examples, "validation": examples}, "made")
        assert len(score(model, tokenizer, data).predictions) == 4


@pytest.mark.parametrize("name", TINY)
def test_a_tokenizer_that_pads_on_the_left_changes_no_score(name: str, tmp_path: Path) -> None:
    data = similarities()
    model, tokenizer = load(name, data.task.head)
    straight = score(model, tokenizer, data)
    save(model, tokenizer, tmp_path / "left")
    settings = tmp_path / "left" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"padding_side": "left"}))
    for left in (load_tokenizer(tmp_path / "left"), AutoTokenizer.from_pretrained(tmp_path / "left")):
        found = score(model, left, data)
        assert found.predictions == pytest.approx(straight.predictions, abs=1e-5)
    assert left.padding_side == "left"


# perplexity


def slow_loss(model: PreTrainedModel, windows: list[dict[str, Any]]) -> tuple[float, int, list[int]]:
    """The mean negative log-likelihood, token by token; their number; the likeliest tokens."""
    kind, logs, likeliest = architecture(model.config), [], []
    for window in windows:
        batch = {name: values[None] for name, values in window.items() if name != "labels"}
        labels = window["labels"].tolist()
        if kind == "encoder-decoder":
            start = [model.config.decoder_start_token_id, *labels[:-1]]
            batch["decoder_input_ids"] = torch.tensor([start])
        with torch.no_grad():
            logits = model(**batch).logits[0].double()
        for place, label in enumerate(labels):
            if label == IGNORED or (kind == "decoder" and place == 0):
                continue
            row = logits[place - 1 if kind == "decoder" else place]
            logs.append(float(row[label] - row.logsumexp(0)))
            likeliest.append(int(row.argmax()))
    return -math.fsum(logs) / len(logs), len(logs), likeliest


@pytest.mark.parametrize("name", TINY)
def test_perplexity_is_what_a_slow_computation_gives(name: str) -> None:
    model, tokenizer = load(name, story().task.head)
    windows = language_windows(TEXT, tokenizer, model.config, EVALUATION_SEED)
    assert len(windows) >= 3
    loss, count, likeliest = slow_loss(model, windows)
    found = score(model, tokenizer, story())
    main = PERPLEXITIES[architecture(model.config)]
    assert list(found.to_dict()) == [main, "loss", "tokens"]
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert found.metrics[main] == pytest.approx(math.exp(loss), rel=1e-3)
    assert found.counts["tokens"] == count
    assert np.mean(np.equal(found.predictions, likeliest[:KEPT_TOKENS])) > 0.99
    assert len(found.predictions) == min(count, KEPT_TOKENS)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    model = ARCHITECTURES["gpt2"].build()
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    found = score(model, load_tokenizer("tiny-gpt2"), story())
    assert found.metrics["perplexity"] == pytest.approx(8000, rel=1e-4)


def test_a_model_that_is_surely_wrong_has_a_perplexity_all_the_same() -> None:
    model = ARCHITECTURES["gpt2"].build()
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(1e5)
    found = score(model, load_tokenizer("tiny-gpt2"), story())
    assert found.metrics["loss"] > 700
    assert math.isfinite(found.metrics["perplexity"])
    json.dumps(found.metrics, allow_nan=False)


def test_a_limit_takes_the_first_windows() -> None:
    model, tokenizer = load("tiny-gpt2", story().task.head)
    found = score(model, tokenizer, story(), limit=2)
    windows = language_windows(TEXT, tokenizer, model.config, EVALUATION_SEED, limit=2)
    assert found.counts["tokens"] == sum(len(window["labels"]) - 1 for window in windows)
    assert found.metrics["loss"] == pytest.approx(slow_loss(model, windows)[0], rel=1e-4)
    with pytest.raises(DataError, match="limit 0 leaves no windows"):
        score(model, tokenizer, story(), limit=0)


def test_every_model_is_asked_the_same() -> None:
    model, tokenizer = load("tiny-bert", story().task.head)
    first = score(model, tokenizer, story())
    torch.manual_seed(99)
    assert score(model, tokenizer, story()) == first


@pytest.mark.parametrize("data", [moods(), story()], ids=["labels", "words"])
def test_a_model_in_training_is_scored_without_dropout_and_goes_on_training(data: TaskData) -> None:
    model, tokenizer = load("tiny-bert", data.task.head)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    quiet = score(model, tokenizer, data, limit=4)
    assert score(model.train(), tokenizer, data, limit=4) == quiet
    assert all(module.training for module in model.modules())


# refusals


@pytest.mark.parametrize("data", [moods(), story()], ids=["labels", "words"])
def test_answers_that_are_no_numbers_are_refused(data: TaskData) -> None:
    model, tokenizer = load("tiny-bert", data.task.head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ModelError, match=f"task {data.task.name}: .* NaN"):
        score(model, tokenizer, data)


def test_bare_bodies_and_other_heads_are_refused() -> None:
    config, tokenizer = transformers.BertConfig(**BERT_LIKE), load_tokenizer("tiny-bert")
    for kind, has in (
        (transformers.BertModel, "none"),
        (transformers.BertForTokenClassification, "one for token-classification"),
        (transformers.BertForQuestionAnswering, "one for question-answering"),
        (transformers.BertForNextSentencePrediction, "another"),
    ):
        for data in (moods(), story()):
            with pytest.raises(ModelError, match=f"needs a .* head and {kind.__name__} has {has}"):
                score(kind(config), tokenizer, data)


def test_another_number_of_labels_is_refused() -> None:
    three = dataclasses.replace(MOODS, labels=("a", "b", "c"))
    model, tokenizer = load("tiny-bert", three.head)
    with pytest.raises(ModelError, match="task moods has 2 labels and the model's head 3"):
        score(model, tokenizer, moods())


def test_the_same_labels_in_another_order_are_refused() -> None:
    model, tokenizer = load("tiny-bert", dataclasses.replace(MOODS, labels=("GLAD", "SAD")).head)
    with pytest.raises(ModelError, match="task moods has the labels sad, glad and the model's head glad, sad"):
        score(model, tokenizer, moods())
    for names in (("sad", "glad"), ("Sad", "Glad"), ("LABEL_0", "LABEL_1"), ("0", "1")):
        model, tokenizer = load("tiny-bert", dataclasses.replace(MOODS, labels=names).head)
        score(model, tokenizer, moods(), limit=2)


def test_other_labels_are_refused_unless_they_are_numbers() -> None:
    model, tokenizer = load("tiny-bert", dataclasses.replace(MOODS, labels=("ham", "spam")).head)
    with pytest.raises(ModelError, match="task moods has the labels sad, glad and the model's head ham, spam"):
        score(model, tokenizer, moods())
    numbered = dataclasses.replace(moods(), task=dataclasses.replace(MOODS, labels=("0", "1")))
    assert score(model, tokenizer, numbered, limit=2).counts == {"examples": 2}
