"""From text to a model's inputs: labelled examples, and windows of text with tokens to predict."""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from aerogel.errors import DataError, ModelError
from aerogel.models import architecture
from aerogel.tables import counted
from aerogel.tasks.noise import IGNORED, infill, mask_tokens
from aerogel.tasks.predictions import InputSettings
from aerogel.tasks.read import Examples, check_limit

WINDOW = 512  # tokens, or as many as the model takes
FEWEST = 8  # tokens of a text, of which models predict some
BEHIND_PADDING = (  # model types whose first position is the one after the padding token's
    *("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def context_length(config: PretrainedConfig) -> int | None:
    """The most tokens that a model takes, or `None` if its configuration sets no limit (T5)."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet has -1
        return None
    return positions - config.pad_token_id - 1 if config.model_type in BEHIND_PADDING else positions


def encode_examples(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int
) -> list[dict[str, Any]]:
    """One dictionary an example: token ids cut to `max_length`, unpadded, and the label.

    A `</s>` in a text is plain characters: as a special token it would end the sentence there. A text without tokens
    becomes the end-of-sequence token, or another special one, since a model needs an input.
    """
    length = min(max_length, context_length(config) or max_length)
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=length, split_special_tokens=True)
    for row, tokens in enumerate(encoded["input_ids"]):
        if not tokens:
            stand_in = {"input_ids": _special_token(tokenizer), "attention_mask": 1}
            for name, values in encoded.items():
                values[row] = [stand_in.get(name, 0)]
    return [
        {**{name: values[row] for name, values in encoded.items()}, "labels": label}
        for row, label in enumerate(examples.labels)
    ]


def drawn_rows(
    count: int, encoded: Callable[[int], Iterable[Mapping[str, Any]]], settings: InputSettings
) -> list[dict[str, Tensor]]:
    """The rows of examples drawn by the seed until they hold `limit` times `max_length` tokens, the shortest first.

    `encoded` makes the rows of one of `count` examples. Only those that are drawn are made.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    budget, rows = (settings.limit or count) * settings.max_length, []
    for row in (row for example in order for row in encoded(example)):
        if budget <= 0:
            break
        rows.append({name: torch.as_tensor(values) for name, values in row.items()})
        budget -= rows[-1]["input_ids"].numel()
    return sorted(rows, key=lambda row: row["input_ids"].numel())


def language_windows(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    seed: int,
    length: int = WINDOW,
    limit: int | None = None,
) -> list[dict[str, Tensor]]:
    """Cut text into windows of equal length that do not overlap, each a model's inputs with labels.

    A text that does not fill one window is a shorter window.

    Decoders predict each next token; encoders 15% masked tokens; encoder-decoders the text before it was infilled.
    Masks and infilled spans depend only on `seed` and the number of the window. `limit` keeps the first windows.
    Raises `DataError` for a text of fewer than `FEWEST` tokens, and if `limit` leaves no window.
    """
    check_limit(limit, "windows")
    kind = architecture(config)
    length = min(length, context_length(config) or length)
    before, after = ([], []) if kind == "decoder" else frame(tokenizer)
    stream = torch.tensor(_token_ids(text, tokenizer))
    if len(stream) < FEWEST:
        raise DataError(f"the text has {counted(len(stream), 'token')}, expected at least {FEWEST}")
    body = min(length - len(before) - len(after), len(stream))
    bodies = stream[: len(stream) // body * body].view(-1, body)[:limit]
    if kind == "decoder":
        return [{"input_ids": window, "labels": window} for window in bodies]
    if kind == "encoder" and tokenizer.mask_token_id is None:
        raise ModelError("masked language modelling needs a tokenizer with a mask token; this one has none")
    corrupt = _masked if kind == "encoder" else _infilled
    # the generator uses 32 bits of its seed
    generators = (torch.Generator().manual_seed(zlib.crc32(f"{seed} {index}".encode())) for index in range(len(bodies)))
    ends = torch.tensor(before), torch.tensor(after)
    return [corrupt(window, *ends, generator, tokenizer) for window, generator in zip(bodies, generators, strict=True)]


def _special_token(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has no special token to stand for an empty text")


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    alone = tokenizer("")["input_ids"]
    opening = {tokenizer.bos_token_id, tokenizer.cls_token_id}
    before = [token for token in alone[:1] if token in opening]
    return before, alone[len(before) :]


def word_pieces(words: Collection[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The token ids of each word as it stands within a text, after a space where the tokenizer reads one (GPT-2).

    A word without tokens, such as an empty one, becomes the unknown token or another special one.
    """

    def ids(texts: list[str]) -> list[list[int]]:
        encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"]) if texts else []

    pair, single = ids(["a a", "a"])
    space = "" if pair == 2 * single else " "
    unknown = tokenizer.unk_token_id
    stand_in = [_special_token(tokenizer) if unknown is None else int(unknown)]
    pieces = ids([f"{space}{word}" if word.strip() else "" for word in words])
    return {word: tokens or stand_in for word, tokens in zip(words, pieces, strict=True)}


def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids without special tokens, encoded in parts that end at line ends, so that none is too long."""
    return [
        token
        for part in _parts(text)
        for token in tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    ]


def _parts(text: str, size: int = 100_000) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + size) + 1
        if end <= start or start + size >= len(text):
            end = min(start + size, len(text))
        yield text[start:end]
        start = end


def _masked(
    body: Tensor, before: Tensor, after: Tensor, generator: torch.Generator, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    corrupted, labels = mask_tokens(body, tokenizer.mask_token_id, generator)
    ignored = [torch.full_like(end, IGNORED) for end in (before, after)]
    return {
        "input_ids": torch.cat([before, corrupted, after]).long(),
        "labels": torch.cat([ignored[0], labels, ignored[1]]).long(),
    }


def _infilled(
    body: Tensor, before: Tensor, after: Tensor, generator: torch.Generator, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    corrupted = infill(body, tokenizer.mask_token_id, generator)[: len(body)]
    inputs, labels = torch.cat([before, corrupted, after]).long(), torch.cat([before, body, after]).long()
    padding = (0, len(labels) - len(inputs))
    return {
        "input_ids": pad(inputs, padding, value=tokenizer.pad_token_id),
        "attention_mask": pad(torch.ones_like(inputs), padding),
        "labels": labels,
    }
