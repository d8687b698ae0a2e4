"""Several tasks at once, beside a reference model; what is refused before anything is scored."""

import json
import os
import re
from typing import Any

import numpy as np
import pytest

from aerogel import progress
from aerogel.errors import DataError, ModelError
from aerogel.evaluation import TaskEvaluation, evaluate, score
from aerogel.models import load
from aerogel.pruning import prune
from builders import prose, text_data
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
