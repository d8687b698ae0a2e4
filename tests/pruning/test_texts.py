"""Lists of texts calibrate as they are, with the tokenizer that the model was loaded with."""

import pytest
import torch
from transformers import BertForMaskedLM

from aerogel.errors import PruningError
from aerogel.models import load
from aerogel.pruning import prune
from aerogel.pruning.calibration import as_calibration, calibration
from aerogel.pruning.sensitivity import sensitivity
from aerogel.pruning.texts import is_texts, tokenizer_of
from builders import ARCHITECTURES, sentences

TEXTS = [text for text, _ in sentences(12)]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_each_text_is_one_row(name: str) -> None:
    model, tokenizer = load(name)
    [batch] = calibration(TEXTS, tokenizer).batches(model)
    rows = {
        tuple(row[mask.bool()].tolist()) for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }
    assert rows == {tuple(tokenizer(text)["input_ids"]) for text in TEXTS}
    assert "labels" not in batch


def test_many_texts_are_sampled() -> None:
    model, tokenizer = load("tiny-bert")
    batches = calibration(TEXTS * 50, tokenizer, samples=2, length=32).batches(model)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert 64 <= tokens < 96


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_pruning_on_texts_is_pruning_on_their_calibration(name: str) -> None:
    model, tokenizer = load(name)
    other, _ = load(name)
    masks = prune(model, method="wanda", sparsity=0.5, calibration=TEXTS)
    expected = prune(other, method="wanda", sparsity=0.5, calibration=calibration(TEXTS, tokenizer))
    assert all(torch.equal(mask, expected[name]) for name, mask in masks.items())


def test_sensitivity_to_texts() -> None:
    model, _ = load("tiny-gpt2")
    assert sensitivity(model, TEXTS, sparsities=[0.5]).layers


def test_without_the_tokenizer_the_function_that_takes_one_is_named() -> None:
    model = BertForMaskedLM(ARCHITECTURES["bert"].config())
    for name in ("", "./nowhere"):
        model.name_or_path = name
        with pytest.raises(PruningError, match=r"aerogel\.calibration\(texts, tokenizer\)"):
            prune(model, method="wanda", sparsity=0.5, calibration=TEXTS)
    with pytest.raises(PruningError, match="list"):
        as_calibration(TEXTS)
    assert tokenizer_of(load("tiny-bert")[0])("a b")


def test_what_texts_are() -> None:
    assert is_texts(TEXTS)
    assert is_texts(tuple(TEXTS))
    assert not any(map(is_texts, ([], "text", [("a", "b")], [1], None)))
