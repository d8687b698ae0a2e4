"""Random inputs of a model, for measuring."""

import inspect

import torch
from transformers import PretrainedConfig, PreTrainedModel

from aerogel import models
from aerogel.errors import ModelError
from aerogel.tasks import context_length

ONE_CLASS = ("classification", "image-classification", "multiple-choice")  # heads with a prediction for each example


def random_batch(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random inputs whose blocks see `length` positions, with labels for a training step.

    Text is ids of ordinary tokens, of which a multiple-choice model gets one choice; a waveform has the samples of
    `length` frames. Images and spectrograms have the size in the model's configuration, and then `length` is that of
    the decoder, if there is one. Raises `ModelError` for a longer text than the model takes, and for other inputs.
    """
    config, main = model.config, model.main_input_name
    if main == "input_ids":
        batch = _random_text(model, batch_size, length)
    elif main == "pixel_values" and hasattr(config, "image_size"):
        sides = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        batch = {main: torch.randn(batch_size, getattr(config, "num_channels", 3), *sides)}
    elif main == "input_values" and hasattr(config, "conv_stride"):
        batch = {main: torch.randn(batch_size, _samples(config, length))}
    elif main == "input_features" and hasattr(config, "max_source_positions"):
        frames = 2 * config.max_source_positions  # the encoder's second convolution has stride 2
        batch = {main: torch.randn(batch_size, config.num_mel_bins, frames)}
    else:
        raise ModelError(f"{type(model).__name__} reads {main} of a size that its configuration does not have")
    kind, takes = models.head_kind(model), inspect.signature(model.forward).parameters
    if kind == "language-modelling" and main == "input_ids":
        batch["labels"] = batch[main]
    elif kind in ONE_CLASS and "labels" in takes and _predicts_classes(config):
        batch["labels"] = torch.zeros(batch_size, dtype=torch.long)
    elif "decoder_input_ids" in takes:
        batch["decoder_input_ids"] = batch[main] if main == "input_ids" else _random_tokens(config, batch_size, length)
    return batch


def _predicts_classes(config: PretrainedConfig) -> bool:
    """Whether an example has one class, not several labels or values."""
    problem = getattr(config, "problem_type", None)
    return problem == "single_label_classification" or (problem is None and config.num_labels > 1)


def _random_text(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    config = model.config
    ids = _random_tokens(config, batch_size, length)
    if config.is_encoder_decoder and config.eos_token_id is not None:
        ids[:, -1] = config.eos_token_id  # BART's classifier reads the state at the last end-of-sequence token
    if models.head_kind(model) == "multiple-choice":
        ids = ids[:, None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _random_tokens(config: PretrainedConfig, batch_size: int, length: int) -> torch.Tensor:
    positions = context_length(config) or getattr(config, "max_target_positions", None)
    if positions is not None and length > positions:
        raise ModelError(f"sequence length {length} exceeds the model's {positions} positions")
    return torch.randint(10, config.vocab_size, (batch_size, length))


def _samples(config: PretrainedConfig, frames: int) -> int:
    """The number of samples of which the convolutions of a speech encoder make this number of frames."""
    samples = frames
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def inference_inputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of a forward pass without labels."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder and models.head_kind(model) == "language-modelling":
        inputs["decoder_input_ids"] = batch["labels"]
    return inputs
