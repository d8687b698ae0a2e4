"""Text becomes a model's inputs: as many tokens as asked, the same for the same seed, or one sentence on why not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from aerogel.errors import DataError, PruningError
from aerogel.models import Head, load, load_tokenizer
from aerogel.pruning import BatchCalibration, PruneConfig, prune
from aerogel.pruning.batches import Batch
from aerogel.pruning.calibration import BATCH_TOKENS, Calibration, calibration
from aerogel.training import SparsityCallback
from builders import ARCHITECTURES, prose, sentence_data, sentences, text_data, write_tsv
from heads import MODELS, inputs

TEXT = prose(400)
TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]


def text(name: str, samples: int = 4, length: int = 32, seed: int = 0) -> Calibration:
    return Calibration(text_data(TEXT), load_tokenizer(name), samples, length, seed)


def moods(name: str, samples: int = 4, length: int = 32) -> Calibration:
    return Calibration(sentence_data(sentences(200)), load_tokenizer(name), samples, length)


def tokens(batches: list[Batch]) -> int:
    return sum(int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in batches)


@pytest.mark.parametrize("name", TINY)
def test_running_text_gives_the_windows_asked_for(name: str) -> None:
    model, _ = load(name)
    batches = text(name).batches(model)
    assert sum(len(batch["input_ids"]) for batch in batches) == 4
    assert all(batch["input_ids"].shape[1] == 32 for batch in batches)
    assert all("labels" not in batch for batch in batches)
    with torch.no_grad():
        assert all(torch.isfinite(model(**batch).logits).all() for batch in batches)


def test_padding_is_no_text_on_either_side() -> None:
    model, _ = load("tiny-bart")
    for batch in moods("tiny-bart").batches(model):
        assert batch["decoder_input_ids"].shape == batch["input_ids"].shape
        assert torch.equal(batch["decoder_attention_mask"], batch["attention_mask"])


def test_windows_are_cut_to_the_room_of_the_model_and_gathered_in_batches() -> None:
    model, _ = load("tiny-gpt2")
    batches = text("tiny-gpt2", samples=20, length=512).batches(model)
    assert {batch["input_ids"].shape[1] for batch in batches} == {128}
    assert [len(batch["input_ids"]) for batch in batches] == [BATCH_TOKENS // 128, 20 - BATCH_TOKENS // 128]


def test_the_seed_alone_chooses() -> None:
    model, _ = load("tiny-gpt2")

    def chosen(seed: int) -> torch.Tensor:
        return torch.cat([batch["input_ids"] for batch in text("tiny-gpt2", seed=seed).batches(model)])

    assert torch.equal(chosen(1), chosen(1))
    assert not torch.equal(chosen(1), chosen(2))


@pytest.mark.parametrize("name", TINY)
def test_examples_are_drawn_until_they_hold_the_tokens(name: str) -> None:
    model, _ = load(name, Head("classification", ("sad", "glad")))
    batches = moods(name).batches(model)
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    assert 4 * 32 <= tokens(batches) < 4 * 32 + longest
    with torch.no_grad():
        assert all(torch.isfinite(model(**batch).logits).all() for batch in batches)


@pytest.mark.parametrize("name", TINY)
def test_a_tokenizer_that_pads_on_the_left_pads_calibration_on_the_right(name: str) -> None:
    model, _ = load(name, Head("classification", ("sad", "glad")))
    left = moods(name)
    left.tokenizer.padding_side = "left"
    for batch, expected in zip(left.batches(model), moods(name).batches(model), strict=True):
        assert all(torch.equal(batch[column], expected[column]) for column in expected)


def test_an_encoder_decoder_gets_both_sides() -> None:
    model, tokenizer = load("tiny-bart")
    batch = text("tiny-bart").batches(model)[0]
    assert (batch["input_ids"] == tokenizer.mask_token_id).any()
    assert not (batch["decoder_input_ids"] == tokenizer.mask_token_id).any()
    assert (batch["attention_mask"] == 0).any()  # spans are infilled, so the rest is padding
    classifier, _ = load("tiny-bart", Head("classification", ("sad", "glad")))
    batch = moods("tiny-bart").batches(classifier)[0]
    assert torch.equal(batch["decoder_attention_mask"], batch["attention_mask"])


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bart"])
def test_only_a_language_model_sees_damaged_text(name: str) -> None:
    tokenizer = load_tokenizer(name)
    spoken = text(name).batches(load(name)[0])[0]["input_ids"]
    assert (spoken == tokenizer.mask_token_id).any()
    classifier, _ = load(name, Head("classification", ("sad", "glad")))
    for model in (classifier, load(name)[0].base_model):
        batch = text(name).batches(model)[0]
        assert not (batch["input_ids"] == tokenizer.mask_token_id).any()
        with torch.no_grad():
            assert model(**batch)[0].isfinite().all()


def test_too_short_a_text_says_what_is_there_and_what_is_needed() -> None:
    model = ARCHITECTURES["gpt2"].build()
    short = Calibration(text_data(prose(8), "note"), load_tokenizer("tiny-gpt2"), 64, 32)
    with pytest.raises(DataError, match=r"note .*\d+ tokens.* 64 .* 32 .*2,048") as raised:
        short.batches(model)
    possible = int(str(raised.value).partition("--samples ")[2].strip(")"))
    assert len(replace(short, samples=possible).batches(model)[0]["input_ids"]) == possible
    few = Calibration(sentence_data([("so glad", 1)]), load_tokenizer("tiny-gpt2"), 64, 32)
    with pytest.raises(DataError, match=r"moods .* 64 .* 32 .*2,048"):
        few.batches(model)


def test_at_most_so_many_windows_may_be_fewer() -> None:
    model = ARCHITECTURES["gpt2"].build()
    for data in (text_data(prose(8)), sentence_data([("so glad", 1), ("so sad", 0)])):
        short = Calibration(data, load_tokenizer("tiny-gpt2"), 64, 32, at_most=True)
        assert 0 < tokens(short.batches(model)) < 64 * 32


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_refused(seed: int) -> None:
    with pytest.raises(DataError, match=f"seed {seed}.* 4294967295"):
        Calibration(text_data(prose(8), "note"), load_tokenizer("tiny-gpt2"), seed=seed)
    with pytest.raises(PruningError, match=f"seed {seed}.* 4294967295"):
        PruneConfig(seed=seed)


def test_the_training_split_of_a_task_or_file_is_taken(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny-gpt2")
    (tmp_path / "story.txt").write_text(TEXT)
    found = calibration(str(tmp_path / "story.txt"), tokenizer).data.split("train")
    assert TEXT.startswith(found)
    assert len(found) < len(TEXT)
    folder = tmp_path / "data" / "moods"
    write_tsv(folder / "train.tsv", [*sentences(20)])
    write_tsv(folder / "validation.tsv", [*sentences(20, seed=1)])
    examples = calibration("moods", tokenizer, tmp_path / "data").data.split("train")
    assert [texts[0] for texts in examples.texts] == [sentence for sentence, _ in sentences(20)]
    with pytest.raises(DataError, match="expected at least 1"):
        calibration("moods", tokenizer, tmp_path / "data", samples=0)


# batches of a model's own inputs


def test_batches_are_given_as_they_are_without_labels_and_what_the_model_does_not_take() -> None:
    model = MODELS["span"]()
    batch = inputs(model)
    extra = {
        "start_positions": torch.zeros(4),
        "end_positions": torch.ones(4),
        "words": ["a"] * 4,
        "row": torch.ones(4),
    }
    [ours] = BatchCalibration([batch | extra]).batches(model)
    assert list(ours) == list(batch)
    assert all(torch.equal(ours[name], batch[name]) for name in batch)


def test_a_loader_is_read_until_it_holds_the_windows() -> None:
    model = MODELS["images"]()
    rows = [{"pixel_values": image, "labels": 1} for image in inputs(model, 40)["pixel_values"]]
    read = []

    def collate(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        read.append(len(chosen))
        return default_data_collator(chosen)

    loader = DataLoader(rows, batch_size=8, collate_fn=collate)
    assert [len(batch["pixel_values"]) for batch in BatchCalibration(loader, samples=20).batches(model)] == [8, 8, 8]
    assert read == [8, 8, 8]
    assert len(BatchCalibration(loader).batches(model)) == 5
    text = MODELS["tokens"]()
    batches = [inputs(text, 128) for _ in range(3)]  # three windows of 512 tokens each
    assert [len(BatchCalibration(batches, samples=samples).batches(text)) for samples in (1, 3, 4, 64)] == [1, 1, 2, 3]


def test_pruning_reads_a_loader_and_gives_the_same_as_the_list_of_its_batches() -> None:
    masks = []
    for as_list in (False, True):
        model = MODELS["images"]()
        loader = DataLoader([{"pixel_values": image} for image in inputs(model, 12)["pixel_values"]], batch_size=4)
        masks.append(prune(model, method="best", sparsity=0.5, calibration=list(loader) if as_list else loader))
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_recordings_are_single_without_padding_and_mask() -> None:
    model = MODELS["speech"]()
    batch = inputs(model)
    rows = BatchCalibration([batch]).batches(model)
    assert [row["input_values"].shape for row in rows] == [(1, int(mask.sum())) for mask in batch["attention_mask"]]
    assert all(list(row) == ["input_values"] for row in rows)
    without = {"input_values": batch["input_values"]}
    [same] = BatchCalibration([without]).batches(model)
    assert torch.equal(same["input_values"], batch["input_values"])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], " no batches"),
        ([{}], r"batch 0 .*nothing.* input_ids"),
        ([{"input_ids": torch.ones(5, dtype=torch.long)}], r"batch 0 .*input_ids \(5,\)"),
        ([{"input_ids": torch.ones(2, 5).long()}, {"pixel_values": torch.ones(2, 3, 8, 8)}], r"batch 1 .*pixel_values"),
        ([{"input_ids": [[1, 2]]}], r"batch 0 .*tensor input_ids.*BertForTokenClassification"),
        (iter([torch.ones(2, 5)]), r"batch 0 .*Tensor"),
    ],
)
def test_other_batches_are_refused_before_anything_changes(batches: Any, message: str) -> None:
    model = MODELS["tokens"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=message):
        prune(model, method="wanda", sparsity=0.5, calibration=batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "source", ["reviews.tsv", [("a", "pair")], {"input_ids": torch.ones(2, 5)}, 3, [torch.ones(2, 5)]]
)
def test_what_is_neither_text_nor_batches_is_refused(source: Any) -> None:
    with pytest.raises(PruningError, match=type(source).__name__):
        prune(MODELS["tokens"](), method="wanda", sparsity=0.5, calibration=source)
    with pytest.raises(PruningError, match=type(source).__name__):
        SparsityCallback(sparsity=0.5, calibration=source)


# rows of other kinds of tasks


def test_choices_of_a_text_are_padded_together() -> None:
    tokenizer = load_tokenizer("tiny-bert")
    model = MODELS["choices"]()
    rows = [{"input_ids": torch.full((2, length), 7), "attention_mask": torch.ones(2, length)} for length in (3, 5)]
    batch = Calibration(text_data(TEXT), tokenizer)._batch(model, rows)
    assert batch["input_ids"].shape == (2, 2, 5)
    assert batch["attention_mask"].sum(-1).tolist() == [[3, 3], [5, 5]]
    batch = Calibration(text_data(TEXT), tokenizer)._batch(model, [{"input_ids": torch.full((4,), 7)}])
    assert batch["input_ids"].shape == (1, 1, 4)  # a text of no choices is one choice
