"""Tags of words: every word has one prediction, whatever the tokenizer and however long the text."""

from __future__ import annotations

import copy
import json
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models as tokenizer_models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import load, load_tokenizer
from aerogel.pruning import Calibration, prune
from aerogel.report import build_report
from aerogel.study import StudySpec, run_study
from aerogel.tasks import IGNORED, InputSettings, Task, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.rows import Rows
from aerogel.training import DistillationConfig, GradualPruning, TrainingConfig, finetune
from builders import BAD, GOOD, NOUNS, sentences

KIND = all_kinds()["token_classification"]
METRICS = ["entity_f1", "entity_precision", "entity_recall", "accuracy"]


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The nouns with their article are things, good and bad words are moods."""
    rows = []
    for text, _ in sentences(count, seed):
        words = text.split()
        tags = ["O"] * len(words)
        for place, word in enumerate(words):
            if word in NOUNS:
                tags[place - 1 : place + 1] = ["B-thing", "I-thing"]
            if word in GOOD + BAD:
                tags[place] = "B-mood"
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def rows_of(*values: dict[str, Any]) -> Rows:
    return Rows(tuple(values[0]), values, "made.jsonl", range(1, len(values) + 1), {"tags": "ner_tags"})


def read(*texts: tuple[Any, Any], labels: tuple[str, ...] = ()) -> tuple[Task, dict[str, Any]]:
    rows = rows_of(*({"tokens": words, "tags": tags} for words, tags in texts))
    return KIND.read(Task("made", "token_classification", labels=labels), {"train": rows})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    return load_task(write(tmp_path_factory.mktemp("tags") / "moods.jsonl", tagged(240))).divided()


@pytest.fixture(scope="module")
def tuned(data: TaskData) -> tuple[Any, PreTrainedTokenizerBase]:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    finetune(model, tokenizer, data, TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-3))
    return model, tokenizer


def test_a_file_becomes_a_task(data: TaskData) -> None:
    assert data.task.kind is KIND
    assert data.columns == {"tokens": "tokens", "tags": "ner_tags"}
    assert data.task.labels == ("O", "B-mood", "B-thing", "I-thing")
    assert list(data.task.metrics) == METRICS
    assert sum(len(data.split(name)) for name in ("train", "validation")) == 240
    words = {" ".join(words) for words in data.split("train").words}
    assert words.isdisjoint({" ".join(words) for words in data.split("validation").words})


def test_tags_are_names_numbers_or_a_text() -> None:
    expected = read((["a", "b", "c"], ["O", "B-x", "O"]))
    assert read(("a b  c", "O B-x O")) == expected
    assert read(('["a", "b", "c"]', '["O", "B-x", "O"]')) == expected
    assert read((np.array(["a", "b", "c"]), np.array(["O", "B-x", "O"]))) == expected
    assert read((["a", "b", "c"], [0, 1, 0]), labels=("O", "B-x"))[1] == expected[1]
    task, content = read((["a", "b"], [10, 2]), (["c"], [2]))
    assert (task.labels, task.metrics, content["train"].tags) == (("2", "10"), ("accuracy",), [[1, 0], [0]])


def test_a_text_of_words_may_begin_with_a_bracket() -> None:
    assert read(("[ 1 ]", "O B-x O"))[1]["train"].words == [["[", "1", "]"]]


def test_a_data_set_declares_its_tags() -> None:
    tags = ["O", "B-z", "I-z", "B-a", "I-a"]
    features = datasets.Features(
        {"words": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.ClassLabel(names=tags))}
    )
    values = {"words": [["x", "y"], ["z"]], "ner_tags": [[1, 2], [0]]}
    data = load_task(datasets.Dataset.from_dict(values, features))
    assert data.task.labels == tuple(tags)  # also those that no row has
    assert data.split("train").tags == [[1, 2], [0]]


def test_a_metric_of_entities_can_be_the_main_one() -> None:
    model, tokenizer = load("tiny-bert", load_task(tagged(9)).task.head)
    data = load_task(tagged(9), metrics=["entity_recall"])
    found = score(model, tokenizer, data).metrics
    assert list(found) == ["entity_recall", *(name for name in METRICS if name != "entity_recall")]
    words = load_task([{"tokens": ["a", "dog"], "tags": ["DET", "NOUN"]}], metrics=["entity_recall"])
    model, tokenizer = load("tiny-bert", words.task.head)
    with pytest.raises(DataError, match="entity_recall"):
        score(model, tokenizer, words)


def test_other_tags_have_an_accuracy_alone() -> None:
    task, content = read((["a", "dog"], ["DET", "NOUN"]), (["runs"], ["VERB"]))
    assert (task.labels, task.metrics) == (("DET", "NOUN", "VERB"), ("accuracy",))
    model, tokenizer = load("tiny-bert", task.head)
    found = score(model, tokenizer, TaskData(task, content, "made"))
    assert list(found.metrics) == ["accuracy"]
    assert found.baselines == {"majority": 1 / 3}


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([(["a", "b"], ["O", "B-x"]), (["a", "b"], ["O"])], ["line 2", "ner_tags", "1 tag", "2 tokens"]),
        ([(["a"], ["B-x"]), (["a", "b"], ["O", "B_x"])], ["line 2", "ner_tags", "B_x"]),
        ([("['a', 'b']", "['B-x', 'O']")], ["line 1", "ner_tags", "'B-x'"]),
        ([(["a", "b"], ["B-x", -100])], ["line 1", "ner_tags", "-100"]),
        ([(["a", "b"], ["B-x", "I-"])], ["line 1", "ner_tags", "I-"]),
        ([(["a", "b"], ["B-x", "NOUN"])], ["line 1", "ner_tags", "NOUN"]),
        ([(["a", "b"], ["B-x", 3])], ["line 1", "ner_tags", "3"]),
        ([(["a", "b"], ["B-x", None])], ["line 1", "ner_tags"]),
        ([(["a", 7], ["B-x", "O"])], ["line 1", "tokens", "7"]),
        ([(["a", "b"], ["B-x", "O"]), (7, ["O"])], ["line 2", "tokens", "7"]),
        ([(["a", "b"], ["B-x", "O"]), (["a"], 7)], ["line 2", "ner_tags", "7"]),
        ([(["a", "b"], ["O", "O"])], ["made.jsonl", "1 different", "O"]),
        ([([], [])], ["made.jsonl", "0 different"]),
        ([([str(i)], [f"x{i}"]) for i in range(1001)], ["made.jsonl", "1001", "1000"]),
    ],
)
def test_wrong_data_is_refused_by_line_and_column(texts: list[Any], named: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read(*texts)
    assert all(name in str(error.value) for name in named)


def test_a_tag_that_training_lacks_and_a_split_without_entities_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", tagged(9))
    write(tmp_path / "validation.jsonl", [{"tokens": ["a", "b"], "ner_tags": ["O", "B-place"]}])
    with pytest.raises(DataError, match=r"validation.jsonl, line 1, column ner_tags.*B-place"):
        load_task(tmp_path.name, tmp_path.parent)
    write(tmp_path / "validation.jsonl", [{"tokens": ["a", "b"], "ner_tags": ["O", "O"]}])
    with pytest.raises(DataError, match=r"validation.jsonl.*O"):
        load_task(tmp_path.name, tmp_path.parent)
    with pytest.raises(DataError, match="3 rows"):
        load_task(write(tmp_path / "few.jsonl", tagged(3))).divided()


def word_level() -> PreTrainedTokenizerFast:
    """A tokenizer that splits words into their letters, and has no tokens for others."""
    letters = {letter: number for number, letter in enumerate(["<pad>", "<eos>", *"abcdefghij"])}
    backend = tokenizers.Tokenizer(tokenizer_models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def pieces() -> PreTrainedTokenizerFast:
    """A tokenizer as of SentencePiece, with a mark before each word."""
    known = [(piece, -float(len(piece))) for piece in ("<pad>", "<s>", "</s>", "<unk>", "▁", *"abcdefghij", "▁b", "ad")]
    backend = tokenizers.Tokenizer(tokenizer_models.Unigram(known, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {
    "encoder": lambda: load_tokenizer("tiny-bert"),
    "decoder": lambda: load_tokenizer("tiny-gpt2"),
    "letters": word_level,
    "pieces": pieces,
    "slow": transformers.ByT5Tokenizer,
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("length", [4, 7, 128])
def test_every_word_has_one_label_in_order(name: str, length: int) -> None:
    tokenizer = TOKENIZERS[name]()
    texts = [(["bad", "", "jib", "\u200b", "a b"] * 3, [1, 2, 3, 4, 5] * 3), ([], []), (["jjjjjjjjjjjj"], [6])]
    task, content = read(*texts, (["c"], [0]))
    config = transformers.BertConfig(max_position_embeddings=100)
    inputs = KIND.inputs(content["train"], tokenizer, config, InputSettings(max_length=length))
    assert inputs.examples == [15, 0, 1, 1]
    labels = [label for row in inputs.rows for label in row["labels"] if label != IGNORED]
    assert labels == [int(task.labels[tag]) for tags in content["train"].tags for tag in tags]
    for row in inputs.rows:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["attention_mask"]) <= max(length, 3)
    batch = inputs.collate(inputs.rows)
    assert batch["labels"].shape == batch["input_ids"].shape


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart", "minilm"])
def test_words_are_tokenized_as_within_a_text(name: str) -> None:
    tokenizer = load_tokenizer(name)
    words = ["then", "the", "kettle", "'s", "lid", "was", "not", "there"]
    _, content = read((words, ["O", *["B-x"] * (len(words) - 1)]))
    [row] = KIND.inputs(content["train"], tokenizer, transformers.BertConfig(), InputSettings()).rows
    first = "" if name == "minilm" else " "  # a first word without a space before it is another token there
    assert row["input_ids"] == tokenizer(first + " ".join(words))["input_ids"]
    starts = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
    ends = [*starts[1:], len(row["labels"]) - (row["input_ids"][-1] == tokenizer.eos_token_id or name == "minilm")]
    pieces = [tokenizer.decode(row["input_ids"][start:end]) for start, end in zip(starts, ends, strict=True)]
    assert [piece.replace(" ", "") for piece in pieces] == words


def test_a_score_is_of_whole_texts_however_they_are_cut(tuned: tuple[Any, Any], data: TaskData) -> None:
    model, tokenizer = tuned
    whole, parts = (score(model, tokenizer, data, max_length=length) for length in (128, 6))
    assert whole.counts == parts.counts == {"words": sum(map(len, data.split("validation").words))}
    assert whole.references == parts.references == tuple(chain.from_iterable(data.split("validation").tags))
    assert len(whole.predictions) == len(whole.logits) == len(whole.references)
    assert whole.predictions == tuple(np.argmax(whole.logits, axis=1).tolist())
    assert list(whole.metrics) == METRICS
    assert whole.metrics["entity_f1"] > 0.9
    assert score(model, tokenizer, data, limit=2).counts == {"words": sum(map(len, data.split("validation").words[:2]))}


def test_it_is_pruned_distilled_rounded_and_compared(tuned: tuple[Any, Any], data: TaskData) -> None:
    model, tokenizer = tuned
    dense = score(model, tokenizer, data).metrics
    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.8, calibration=Calibration(data, tokenizer, 4, 32))
    found = evaluate(sparse, tokenizer, data, reference=model)[data.task.name]
    assert found["kl"] > 0
    assert {name: found[f"dense_{name}"] for name in METRICS} == dense
    assert found["flipped"] == round((1 - found["agreement"]) * found["words"]) > 0
    zeros = [weight == 0 for name, weight in sparse.named_parameters() if "layer" in name and weight.dim() == 2]
    finetune(sparse, tokenizer, data, TrainingConfig(epochs=1, learning_rate=5e-4))
    after = [weight for name, weight in sparse.named_parameters() if "layer" in name and weight.dim() == 2]
    assert all((weight[zero] == 0).all() for zero, weight in zip(zeros, after, strict=True))

    small = copy.deepcopy(model)
    gradual = GradualPruning.of(sparsity=0.6, score="magnitude")
    config = TrainingConfig(epochs=3, batch_size=16, learning_rate=5e-4)
    finetune(small, tokenizer, data, config, sparsity=gradual, teacher=model, values="int8")
    assert score(small, tokenizer, data).metrics["entity_f1"] > found["entity_f1"]


def test_augmented_texts_fit_and_have_an_answer_a_word(data: TaskData) -> None:
    tokenizer = load_tokenizer("tiny-bert")
    settings = InputSettings(max_length=8, augmentation=DistillationConfig().augmentation)
    inputs = KIND.inputs(data.split("train"), tokenizer, transformers.BertConfig(), settings)
    made = list(inputs.augmented)
    assert made != inputs.rows
    assert all(len(row["input_ids"]) == len(row["labels"]) <= 8 for row in made)
    assert all(any(label != IGNORED for label in row["labels"]) for row in made)


def test_calibration_rows_have_no_labels_and_fill_the_budget(data: TaskData) -> None:
    model, tokenizer = load("tiny-bert", data.task.head)
    rows = KIND.calibration_rows(data.split("train"), tokenizer, model, InputSettings(2, 16, seed=3))
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths == sorted(lengths)
    assert all(set(row) == {"input_ids", "attention_mask"} for row in rows)
    assert 32 <= sum(lengths) < 32 + 16


def test_a_decoder_learns_it(data: TaskData) -> None:
    torch.manual_seed(0)
    model, tokenizer = load("tiny-gpt2", data.task.head)
    assert type(model).__name__ == "GPT2ForTokenClassification"
    finetune(model, tokenizer, data, TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-3))
    assert score(model, tokenizer, data).metrics["accuracy"] > 0.8  # an article does not know its noun


def test_a_head_for_other_tags_is_refused(tuned: tuple[Any, Any], data: TaskData) -> None:
    model, tokenizer = tuned
    task = Task("places", "token_classification", labels=("O", "B-place"), metrics=("accuracy",))
    with pytest.raises(ModelError, match=r"2 labels.* 4"):
        evaluate(model, tokenizer, TaskData(task, {"validation": data.split("train")}, "made"))
    with pytest.raises(ModelError, match="token-classification"):
        evaluate(*load("tiny-bert"), data)
    with pytest.raises(ModelError, match="bart"):
        load("tiny-bart", data.task.head)


@pytest.mark.slow
def test_a_study_has_a_report(tmp_path: Path) -> None:
    write(tmp_path / "moods.jsonl", tagged(60))
    spec = StudySpec(
        name="tags",
        models=["tiny-bert"],
        tasks=[str(tmp_path / "moods.jsonl")],
        methods=["magnitude"],
        sparsities=[0, 0.5],
        seeds=[0],
        benchmark=None,
        training={"epochs": 1, "learning_rate": 1e-3},
    )
    run_study(spec, tmp_path / "run")
    build_report(tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_text()
    for name in ("entity F1", "entity precision", "entity recall", "words"):
        assert name in report
