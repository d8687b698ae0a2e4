"""Tiny random models of every kind of head and of none, and padded batches of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from tiny import tiny_config, tiny_model

SPEECH: dict[str, Any] = dict(
    conv_dim=(16, 16),
    conv_kernel=(10, 3),
    conv_stride=(5, 2),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)
MANY: dict[str, Any] = dict(problem_type="multi_label_classification", num_labels=3)


def of(name: str, **changes: Any) -> Callable[[], PreTrainedModel]:
    kind = getattr(transformers, name)
    return lambda: tiny_model(kind, tiny_config(kind.config_class, **changes))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "classes": of("BertForSequenceClassification", num_labels=3),
    "several labels": of("BertForSequenceClassification", **MANY),
    "a value": of("BertForSequenceClassification", num_labels=1),
    "several values": of("BertForSequenceClassification", num_labels=2, problem_type="regression"),
    "tokens": of("BertForTokenClassification", num_labels=5),
    "tokens, decoder": of("GPT2ForTokenClassification", num_labels=5),
    "tokens, encoder-decoder": of("T5ForTokenClassification", num_labels=5),
    "span": of("BertForQuestionAnswering"),
    "span, decoder": of("GPT2ForQuestionAnswering"),
    "span, encoder-decoder": of("BartForQuestionAnswering"),
    "choices": of("BertForMultipleChoice"),
    "masked words": of("BertForMaskedLM"),
    "next words": of("GPT2LMHeadModel"),
    "translated words": of("BartForConditionalGeneration"),
    "replaced words": of("ElectraForPreTraining"),
    "body": of("BertModel"),
    "body, decoder": of("GPT2Model"),
    "body, encoder-decoder": of("BartModel"),
    "body, T5": of("T5Model"),
    "body, T5's encoder": of("T5EncoderModel"),
    "body, pooled": of("DPRQuestionEncoder"),
    "images": of("ViTForImageClassification", num_labels=4),
    "images, distilled": of("DeiTForImageClassificationWithTeacher", num_labels=4),
    "images, body": of("ViTModel"),
    "speech": of("Wav2Vec2ForCTC", **SPEECH),
    "speech, classes": of("HubertForSequenceClassification", num_labels=4, **SPEECH),
    "speech, body": of("Wav2Vec2Model", **SPEECH),
    "speech to text": of("WhisperForConditionalGeneration", max_source_positions=20),
}
HEADS = list(MODELS)


def inputs(model: PreTrainedModel, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch of examples of different lengths, padded on the right, without labels."""
    generator = torch.Generator().manual_seed(seed)
    size, main = model.config, model.main_input_name
    if main == "pixel_values":
        return {main: torch.randn(count, 3, size.image_size, size.image_size, generator=generator)}
    if main == "input_features":
        spectrograms = torch.randn(count, size.num_mel_bins, 2 * size.max_source_positions, generator=generator)
        return {main: spectrograms, "decoder_input_ids": torch.randint(5, 190, (count, 6), generator=generator)}
    length = 800 if main == "input_values" else 12
    lengths = torch.randint(length // 2, length + 1, (count,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    if main == "input_values":
        return {main: torch.randn(count, length, generator=generator) * mask, "attention_mask": mask}
    ids = torch.randint(5, 190, (count, length), generator=generator) * mask  # padding is token 0
    if "MultipleChoice" in type(model).__name__:
        return {main: ids.view(count // 2, 2, length), "attention_mask": mask.view(count // 2, 2, length)}
    return {main: ids, "attention_mask": mask}
