"""Single examples without padding, on whichever side it is, and the decoder's inputs."""

import pytest
import torch
from hypothesis import given, strategies as st

from aerogel.errors import DataError
from aerogel.pruning.batches import decoder_inputs, subsample, unpadded_rows
from heads import MODELS, inputs


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_an_example_keeps_its_tokens_and_nothing_else(lengths: list[int], left: bool) -> None:
    texts = [torch.arange(1, length + 1) for length in lengths]
    side = "left" if left else "right"
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_side=side)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "bbox": ids[..., None].repeat(1, 1, 4)}
    batch["pixel_values"] = torch.zeros(len(texts), 3, 8, 8)
    for text, row in zip(texts, unpadded_rows(batch), strict=True):
        assert torch.equal(row["input_ids"], text[None])
        assert row["attention_mask"].all()
        assert torch.equal(row["bbox"], text[None, :, None].repeat(1, 1, 4))
        assert row["pixel_values"].shape == (1, 3, 8, 8)


def test_choices_are_as_long_as_the_longest_of_them() -> None:
    mask = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1]]])
    first, second = unpadded_rows({"input_ids": mask * 7, "attention_mask": mask})
    assert torch.equal(first["input_ids"], torch.tensor([[[7, 7], [7, 0]]]))
    assert second["input_ids"].shape == (1, 2, 4)


def test_both_sides_of_an_encoder_decoder_lose_their_own_padding() -> None:
    batch = {"input_ids": torch.ones(2, 5), "decoder_input_ids": torch.ones(2, 4)}
    batch["attention_mask"] = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    batch["decoder_attention_mask"] = torch.tensor([[1, 0, 0, 0], [1] * 4])
    shapes = [(row["input_ids"].shape[1], row["decoder_input_ids"].shape[1]) for row in unpadded_rows(batch)]
    assert shapes == [(5, 1), (3, 4)]


def test_images_and_recordings_count_alike() -> None:
    batches = [{"pixel_values": torch.full((4, 3, 8, 8), index)} for index in range(5)]
    assert len(subsample(batches, 640)) == 10
    assert [int(row["pixel_values"][0, 0, 0, 0]) for row in subsample(batches, 320)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["tokens", "span, decoder", "tokens, encoder-decoder", "images", "speech"])
def test_a_model_without_a_decoder_gets_nothing_for_it(name: str) -> None:
    model = MODELS[name]()
    assert decoder_inputs(model, inputs(model), None) == {}


def test_a_decoder_reads_labels_or_else_the_text() -> None:
    model = MODELS["translated words"]()
    batch = inputs(model)
    labels = torch.tensor([[9, 8, 2], [7, 2, -100]]).repeat(2, 1)
    from_labels = decoder_inputs(model, batch, labels)
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    assert torch.equal(from_labels["decoder_input_ids"][:2], torch.tensor([[start, 9, 8], [start, 7, 2]]))
    assert torch.equal(from_labels["decoder_attention_mask"], (labels != -100).long())
    assert pad not in from_labels["decoder_input_ids"]
    from_text = decoder_inputs(model, batch, None)
    assert torch.equal(from_text["decoder_input_ids"][:, 1:], batch["input_ids"][:, :-1])
    assert torch.equal(from_text["decoder_attention_mask"], batch["attention_mask"])
    assert decoder_inputs(model, batch | from_text, labels) == {}


def test_the_decoder_of_a_head_for_spans_shifts_the_text_itself() -> None:
    model = MODELS["span, encoder-decoder"]()
    batch = inputs(model)
    assert list(decoder_inputs(model, batch, None)) == ["decoder_attention_mask"]


def test_speech_without_text_for_its_decoder_is_refused() -> None:
    model = MODELS["speech to text"]()
    spectrogram = {"input_features": inputs(model)["input_features"]}
    with pytest.raises(DataError, match=r"WhisperForConditionalGeneration .*labels .*input_features"):
        decoder_inputs(model, spectrogram, None)
    labels = torch.tensor([[9, 8, 7], [6, -100, -100]]).repeat(2, 1)
    ours = decoder_inputs(model, spectrogram, labels)
    assert torch.equal(ours["decoder_attention_mask"], (labels != -100).long())
    with torch.no_grad():  # the model shifts labels like this
        expected = model(**spectrogram, labels=labels).logits
        assert torch.equal(model(**spectrogram, decoder_input_ids=ours["decoder_input_ids"]).logits, expected)
