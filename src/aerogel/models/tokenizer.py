"""Sets up a tokenizer's padding, and restores the original settings for saving."""

import copy
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase


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
