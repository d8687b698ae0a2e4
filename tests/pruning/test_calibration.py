"""Text becomes a model's inputs: as many tokens as asked, the same for the same seed, or one sentence on why not."""

from pathlib import Path

import pytest
import torch

from aerogel.errors import DataError, PruningError
from aerogel.models import Head, load, load_tokenizer
from aerogel.pruning import PruneConfig
from aerogel.pruning.batches import Batch
from aerogel.pruning.calibration import BATCH_TOKENS, Calibration, calibration
from builders import ARCHITECTURES, prose, sentence_data, sentences, text_data, write_tsv

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
    with pytest.raises(DataError, match=r"note .*\d+ tokens.* 64 .* 32 .*2,048"):
        short.batches(model)
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
