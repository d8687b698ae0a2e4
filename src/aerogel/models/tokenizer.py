"""Sets up a tokenizer's padding, and restores the original settings for saving."""

import copy
from dataclasses import dataclass
from typing import Any

from transformers import ImageProcessingMixin, PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import ModelError, expect


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings that `load_tokenizer`, or a call with padding and truncation, changes."""

    padding_side: str
    pad_token: str | None
    padding: dict[str, Any] | None  # of the Rust tokenizer, which saves them in tokenizer.json
    truncation: dict[str, Any] | None


def set_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad on the right, with the end-of-sequence token if there is no padding token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    padding, truncation = (backend.padding, backend.truncation) if backend is not None else (None, None)
    original = TokenizerSettings(tokenizer.padding_side, tokenizer.pad_token, padding, truncation)
    tokenizer.aerogel_original = original
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # padding on the left, as for generation, would shift absolute positions


def padding_right(tokenizer: Any) -> Any:
    """The tokenizer, or a copy set up by `set_padding` if it pads on the left or has no padding token."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    if tokenizer.padding_side != "right" or tokenizer.pad_token is None:
        tokenizer = copy.deepcopy(tokenizer)
        set_padding(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: object, model: PreTrainedModel) -> None:
    """Raises `ModelError` unless it makes the model's inputs: a tokenizer, or an image processor in its place."""
    if model.main_input_name == "pixel_values":
        expected = "the image processor of the model (aerogel.load gives it in the tokenizer's place)"
        expect(tokenizer, ImageProcessingMixin, ModelError, expected)
    else:
        expect(tokenizer, PreTrainedTokenizerBase, ModelError, "a tokenizer of transformers (aerogel.load gives one)")


def make_same_inputs(tokenizer: Any, other: Any) -> bool:
    """Whether two tokenizers have one vocabulary, or two processors the same settings."""
    if isinstance(tokenizer, PreTrainedTokenizerBase) and isinstance(other, PreTrainedTokenizerBase):
        return bool(tokenizer.get_vocab() == other.get_vocab())
    return type(tokenizer) is type(other) and bool(tokenizer.to_dict() == other.to_dict())


def without_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy with the original settings, except those that the user changed after `set_padding`."""
    original = getattr(tokenizer, "aerogel_original", None)
    if original is None:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.padding_side == "right":
        tokenizer.padding_side = original.padding_side
    if original.pad_token is None and tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = None
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_padding()
        backend.no_truncation()
        if original.padding:
            backend.enable_padding(**original.padding)
        if original.truncation:
            backend.enable_truncation(**original.truncation)
    return tokenizer
