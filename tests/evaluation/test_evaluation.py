"""Several tasks at once, beside a reference model; what is refused before anything is scored."""

import copy
import json
import os
import re
from typing import Any

import numpy as np
import pytest

from aerogel import progress
from aerogel.errors import AerogelWarning, DataError, ModelError
from aerogel.evaluation import TaskEvaluation, evaluate, score
from aerogel.models import Head, load
from aerogel.pruning import prune
from aerogel.tasks import Metric, TaskData, load_task
from builders import prose, sentences, text_data
from evaluation_data import MOODS, TEXT, moods, similarities, story


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bart"])
def test_a_reference_is_compared_with(name: str) -> None:
    model, tokenizer = load(name, story().task.head)
    other, _ = load(name, story().task.head)
    assert evaluate(model, tokenizer, [story()], reference=other)["story"]["agreement"] == 1
    prune(model, sparsity=0.7)
    found = evaluate(model, tokenizer, [story()], reference=other)["story"]
    ours, theirs = (score(judged, tokenizer, story()).predictions for judged in (model, other))
    assert found["agreement"] == np.mean(np.equal(ours, theirs)) < 1


def test_numbers_have_no_agreement() -> None:
    model, tokenizer = load("tiny-gpt2", similarities().task.head)
    assert "agreement" not in evaluate(model, tokenizer, [similarities()], reference=model)["stsb"]


def test_several_tasks_are_scored_by_name(tmp_path: Any) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "validation.txt").write_text(prose(300))
    model, tokenizer = load("tiny-gpt2", story().task.head)
    found = evaluate(model, tokenizer, [story(), "own"], data=tmp_path, limit=3)
    assert list(found) == ["story", "own"]
    assert found["own"]["tokens"] == found["story"]["tokens"]
    assert json.loads(json.dumps(found.to_dict())) == found


def test_a_reference_of_another_architecture_is_refused() -> None:
    model, tokenizer = load("tiny-gpt2", story().task.head)
    other, _ = load("tiny-bert", story().task.head)
    with pytest.raises(ModelError, match="GPT2LMHeadModel and its reference BertForMaskedLM"):
        evaluate(model, tokenizer, [story()], reference=other)


def test_a_reference_of_other_words_is_refused() -> None:
    model, tokenizer = load("tiny-gpt2", story().task.head)
    other, _ = load("tiny-gpt2", story().task.head)
    other.resize_token_embeddings(len(tokenizer) + 3)
    with pytest.raises(ModelError, match=r"8,000 .* 8,003"):
        evaluate(model, tokenizer, [story()], reference=other)


def test_tasks_of_one_name_are_refused() -> None:
    model, tokenizer = load("tiny-gpt2", story().task.head)
    with pytest.raises(DataError, match=r"two of the tasks .* story"):
        evaluate(model, tokenizer, [story(), story()])


def test_heads_that_do_not_fit_are_refused_before_anything_is_scored() -> None:
    model, tokenizer = load("tiny-bert")
    told: list[str] = []
    with progress.listening(lambda doing, *_: told.append(doing)):
        with pytest.raises(
            ModelError,
            match="task moods needs a classification head and BertForMaskedLM has one for language-modelling: "
            r"fine-tune the model on it first \(aerogel finetune MODEL --task moods --output DIR\)",
        ):
            evaluate(model, tokenizer, [story(), moods()])
        with pytest.raises(ModelError, match="needs a classification head"):
            score(model, tokenizer, moods())
        sorter, _ = load("tiny-bert", MOODS.head)
        with pytest.raises(ModelError, match=r"task story needs a language-modelling head and .* classification"):
            evaluate(sorter, tokenizer, [story()])
        with pytest.raises(ModelError, match=r"task moods needs a classification head and .*language-modelling"):
            evaluate(sorter, tokenizer, [moods()], reference=model)
    assert not told


def test_nothing_is_looked_for_online() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    model, tokenizer = load("tiny-gpt2")
    with pytest.raises(DataError, match="wikitext-2: Salesforce/wikitext"):
        evaluate(model, tokenizer, ["wikitext-2"])


def test_a_record_is_a_mapping_of_all_numbers() -> None:
    model, tokenizer = load("tiny-bert", MOODS.head)
    dense, _ = load("tiny-bert", MOODS.head)
    found = evaluate(model, tokenizer, moods(), limit=20, reference=dense)["moods"]
    assert found.comparison
    assert found.comparison.flips
    assert found.score == score(model, tokenizer, moods(), limit=20)
    assert found.comparison.reference == score(dense, tokenizer, moods(), limit=20)
    assert dict(found) == found.to_dict() == {name: found[name] for name in found}
    intervals = [f"{name}{end}" for name in ("kl", "agreement") for end in ("", "_low", "_high")]
    flips = ["flipped", "lost", "gained", "mcnemar_p"]
    scores = ["accuracy", "f1", "examples", "majority", "dense_accuracy", "dense_f1"]
    assert list(found) == scores + intervals + flips
    assert found["flipped"] == found.comparison.flips.flipped
    assert (found["kl"], found["kl_low"]) == (found.comparison.kl.mean, found.comparison.kl.low)
    assert evaluate(model, tokenizer, moods(), limit=20)["moods"] == TaskEvaluation(found.score)


def test_notebooks_show_a_table_of_all_numbers() -> None:
    model, tokenizer = load("tiny-gpt2")
    data = text_data(TEXT, "<story>")
    found = evaluate(model, tokenizer, data, limit=3, reference=model)
    rows = re.findall("<tr><td>(.*?)</td></tr>", found._repr_html_())
    cells = [row.split("</td><td>") for row in rows]
    numbers = found["<story>"]
    assert [name for _, name, *_ in cells] == [name for name in numbers if not name.endswith(("_low", "_high"))]
    assert {task for task, *_ in cells} == {"&lt;story&gt;"}
    assert float(cells[0][2]) == pytest.approx(numbers["perplexity"], rel=1e-3)
    assert float(cells[0][3].split(" to ")[1]) == pytest.approx(numbers["perplexity_high"], rel=1e-3)


# data in memory, and metrics of the user


def test_data_in_memory_is_scored_as_a_file_is() -> None:
    rows = [{"text": text, "label": ("sad", "glad")[label]} for text, label in sentences(40)]
    model, tokenizer = load("tiny-bert", Head("classification", ("glad", "sad")))
    table = load_task(rows)
    for given in (rows, table, [rows], {"validation": rows}):
        assert evaluate(model, tokenizer, given)["data"] == evaluate(model, tokenizer, table)["data"]


def test_labelled_texts_are_plain_text_to_a_language_model() -> None:
    model, tokenizer = load("tiny-gpt2")
    rows = [{"text": text, "label": label} for text, label in sentences(40)]
    with pytest.warns(AerogelWarning, match="task data .*GPT2LMHeadModel"):
        found = evaluate(model, tokenizer, rows)
    text = [{"text": row["text"]} for row in rows]
    assert found == evaluate(model, tokenizer, text)
    assert "perplexity" in found["data"]


def wrong(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(np.mean(predictions != references))


def test_metrics_of_the_user_come_first() -> None:
    rows = [{"text": text, "label": label} for text, label in sentences(40)]
    least = Metric("wrong", wrong, higher_is_better=False, bounds=(0, 1))
    model, tokenizer = load("tiny-bert", load_task(rows).task.head)
    for metric in (wrong, least):
        found = evaluate(model, tokenizer, load_task(rows, metrics=[metric, "matthews"]), reference=model)["data"]
        assert list(found.score.metrics) == ["wrong", "matthews", "accuracy", "f1"]
        assert found["wrong"] == found["dense_wrong"] == pytest.approx(1 - found["accuracy"])


def test_metrics_of_the_user_measure_values_and_losses() -> None:
    def error(predictions: np.ndarray, references: np.ndarray) -> float:
        return float(np.abs(predictions - references).mean())

    numbers = [{"text": text, "label": label + 0.5} for text, label in sentences(20)]
    data = load_task(numbers, metrics=[error])
    model, tokenizer = load("tiny-bert", data.task.head)
    found = evaluate(model, tokenizer, data)["data"]
    values = np.array(found.score.predictions)
    assert found["error"] == pytest.approx(np.abs(values - [row["label"] for row in numbers]).mean(), rel=1e-5)
    bits = Metric("bits", lambda losses, counts: losses.sum() / counts.sum() / np.log(2), False, (0, np.inf), True)
    model, tokenizer = load("tiny-gpt2")
    found = evaluate(model, tokenizer, load_task("python-reference", metrics=[bits]), limit=2)["python-reference"]
    assert found["bits"] == pytest.approx(found["loss"] / np.log(2))


@pytest.mark.parametrize("value", [float("nan"), None, "high", np.array([1.0, 2.0])])
def test_a_metric_is_a_number(value: Any) -> None:
    def odd(predictions: np.ndarray, references: np.ndarray) -> Any:
        return value

    data = load_task([{"text": text, "label": label} for text, label in sentences(20)], metrics=[odd])
    model, tokenizer = load("tiny-bert", data.task.head)
    with pytest.raises(DataError, match="metric odd"):
        evaluate(model, tokenizer, data)


@pytest.mark.parametrize("metric", ["acuracy", 3, None, lambda predictions, references: 1.0])
def test_what_is_not_a_metric_is_refused(metric: Any) -> None:
    with pytest.raises(DataError, match=r"acuracy.*accuracy|metric.*(int 3|None|lambda)"):
        load_task([{"text": "a", "label": 0}, {"text": "b", "label": 1}], metrics=[metric])


@pytest.mark.gpu
@pytest.mark.parametrize("data", [story(), moods(), similarities()], ids=lambda data: data.task.name)
def test_a_gpu_agrees_with_the_cpu_also_beside_a_reference_there(data: TaskData) -> None:
    model, tokenizer = load("tiny-gpt2", data.task.head)
    reference = copy.deepcopy(model)
    prune(model, sparsity=0.5)
    expected = evaluate(model, tokenizer, data, limit=8, reference=reference).to_dict()
    for devices in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
        model.to(devices[0])
        found = evaluate(model, tokenizer, data, limit=8, reference=reference.to(devices[1])).to_dict()
        assert found[data.task.name] == pytest.approx(expected[data.task.name], rel=1e-3, abs=1e-3)
