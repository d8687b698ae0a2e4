"""From text to a model's inputs: labelled examples, and windows of running text with something to predict."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from aerogel.data.noise import IGNORED, infill, mask_tokens
from aerogel.data.read import Examples
from aerogel.errors import DataError, ModelError
from aerogel.models import architecture

WINDOW = 512  # tokens, where the model has room for as many


def context_length(config: PretrainedConfig) -> int | None:
    """The positions that a model has room for, or `None` where its configuration sets no limit (T5)."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        length = getattr(config, name, None)
        # RoBERTa counts positions from behind its padding index
        if isinstance(length, int) and not hasattr(config, "relative_attention_num_buckets"):
            return length - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else length
    return None


def encode_examples(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int
) -> list[dict[str, Any]]:
    """One dictionary an example: token ids cut to `max_length`, unpadded, and the label."""
    length = min(max_length, context_length(config) or max_length)
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=length)
    whole_number = config.problem_type != "regression"
    return [
        {**{name: values[row] for name, values in encoded.items()}, "labels": int(label) if whole_number else label}
        for row, label in enumerate(examples.labels)
    ]


def language_windows(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    seed: int,
    length: int = WINDOW,
    limit: int | None = None,
) -> list[dict[str, Tensor]]:
    """Cuts text into fixed windows that do not overlap, each a model's inputs with labels.

    Decoders predict each next token; encoders 15% masked tokens; encoder-decoders the text before it was
    infilled. Damage depends on `seed` and the window's place alone. `limit` keeps the first windows.
    Raises `DataError` where the text does not fill one window.
    """
    kind = architecture(config)
    length = min(length, context_length(config) or length)
    before, after = ([], []) if kind == "decoder" else _frame(tokenizer)
    body = length - len(before) - len(after)
    stream = torch.tensor(_token_ids(text, tokenizer))
    if len(stream) < body:
        raise DataError(f"the text has {len(stream)} tokens, fewer than one window of {body}")
    bodies = stream[: len(stream) // body * body].view(-1, body)[:limit]
    if kind == "decoder":
        return [{"input_ids": window, "labels": window} for window in bodies]
    if kind == "encoder":
        if tokenizer.mask_token_id is None:
            raise ModelError("masked language modelling needs a tokenizer with a mask token, and this one has none")
        make = partial(_masked, mask_id=tokenizer.mask_token_id)
    else:
        make = partial(_infilled, mask_id=tokenizer.mask_token_id, pad_id=tokenizer.pad_token_id, length=length)
    generators = (torch.Generator().manual_seed(seed * 2**32 + place) for place in range(len(bodies)))
    ends = torch.tensor(before), torch.tensor(after)
    return [make(window, *ends, generator) for window, generator in zip(bodies, generators, strict=True)]


def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids without special tokens, encoded in parts cut at line ends so that no part is too long."""
    return [
        token
        for part in _parts(text)
        for token in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    ]


def _parts(text: str, size: int = 100_000) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + size) + 1
        if end <= start or start + size >= len(text):
            end = min(start + size, len(text))
        yield text[start:end]
        start = end


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    alone = tokenizer("")["input_ids"]
    opening = {tokenizer.bos_token_id, tokenizer.cls_token_id}
    before = [token for token in alone[:1] if token in opening]
    return before, alone[len(before) :]


def _masked(body: Tensor, before: Tensor, after: Tensor, generator: torch.Generator, mask_id: int) -> dict[str, Tensor]:
    damaged, labels = mask_tokens(body, mask_id, generator)
    ignored = [torch.full_like(end, IGNORED) for end in (before, after)]
    return {
        "input_ids": torch.cat([before, damaged, after]).long(),
        "labels": torch.cat([ignored[0], labels, ignored[1]]).long(),
    }


def _infilled(
    body: Tensor,
    before: Tensor,
    after: Tensor,
    generator: torch.Generator,
    mask_id: int | None,
    pad_id: int,
    length: int,
) -> dict[str, Tensor]:
    room = length - len(before) - len(after)
    inputs = torch.cat([before, infill(body, mask_id, generator)[:room], after]).long()
    padding = length - len(inputs)
    return {
        "input_ids": torch.nn.functional.pad(inputs, (0, padding), value=pad_id),
        "attention_mask": torch.nn.functional.pad(torch.ones_like(inputs), (0, padding)),
        "labels": torch.cat([before, body, after]).long(),
    }
