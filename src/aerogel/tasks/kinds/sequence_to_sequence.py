"""Writing a text for another: translation and summarisation by encoder-decoders such as BART and T5."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from aerogel.errors import AerogelWarning, DataError
from aerogel.models import head_kind
from aerogel.models.quiet import quiet_transformers
from aerogel.tasks.encode import context_length, drawn_rows
from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.noise import IGNORED
from aerogel.tasks.predictions import (
    Answers,
    Batch,
    Inputs,
    InputSettings,
    Predictions,
    Score,
    most_likely,
    sums_by_row,
)
from aerogel.tasks.read import check_limit, divided_rows, text_of
from aerogel.tasks.rows import Role, Rows

BEAMS = 4  # as in the papers of BART and T5, unless the model's generation_config.json has another number
SOURCE = Role("source", ("src", "source_text", "article", "document", "dialogue", "en"))
SUMMARIES = ("summary", "highlights", "abstract", "headline")
TARGET = Role("target", ("tgt", "target_text", "translation", *SUMMARIES, "de", "fr", "es"))


@dataclass(frozen=True)
class TextPairs:
    """Texts to read and texts to write."""

    sources: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def first(self, limit: int | None) -> TextPairs:
        check_limit(limit, "examples")
        return TextPairs(self.sources[:limit], self.targets[:limit])

    def part(self, rows: list[int]) -> TextPairs:
        return TextPairs([self.sources[row] for row in rows], [self.targets[row] for row in rows])


@dataclass(frozen=True)
class Generation:
    """What generating and scoring the targets of a split needs.

    Attributes:
        targets: uncut.
        max_new_tokens: of a generated text, unless the model's generation_config.json limits it.
    """

    tokenizer: PreTrainedTokenizerBase
    targets: list[str]
    max_new_tokens: int

    def config(self, model: PreTrainedModel) -> GenerationConfig:
        """The model's own, with beams, without sampling, and with a limit."""
        config = copy.deepcopy(model.generation_config)
        config.update(do_sample=False, temperature=None, top_k=None, top_p=None, num_beams=config.num_beams or BEAMS)
        if config.max_length is None and config.max_new_tokens is None:
            config.max_new_tokens = self.max_new_tokens
        return config


class SequenceToSequence(TaskKind):
    """A split is `TextPairs`. In training, the decoder reads the target itself (teacher forcing).

    Each token of a target is a prediction to compare and distil. For metrics of texts the model generates one by beam
    search, as its `generation_config.json` says, with 4 beams unless that has another number. A user's own data is
    scored by BLEU and chrF, or by ROUGE if the column of its targets has a name such as summary. A prefix that a model
    expects, such as T5's "summarize: ", belongs in the sources; languages are those that the tokenizer is set to.
    """

    name = "sequence_to_sequence"
    head = "language-modelling"
    architecture = "encoder-decoder"
    roles = (SOURCE, TARGET)
    reads_labels = True
    validation_limit = 256

    def fits(self, rows: Rows) -> bool:
        """Whether the targets are texts, most of which appear once: others are classes."""
        targets = [row["target"] for row in rows]
        return all(isinstance(target, str) for target in targets) and len(set(targets)) > len(targets) / 2

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, TextPairs]]:
        if not task.metrics:
            column = next(iter(splits.values())).original.get("target", "target")
            is_summary = column.lower() in SUMMARIES
            task = replace(task, metrics=("rougeL", "rouge1", "rouge2") if is_summary else ("bleu", "chrf"))
        contents = {split: _pairs(rows) for split, rows in splits.items()}
        for split, rows in splits.items():
            if not any(map(str.strip, contents[split].targets)):
                raise DataError(f"{rows.source}: all targets are empty; expected texts")
        return task, contents

    def divide(self, content: TextPairs, source: str) -> dict[str, TextPairs]:
        """A fifth is held out by a hash of the source, so that the same row is always on the same side."""
        keys = [text.encode() for text in content.sources]
        return {split: content.part(rows) for split, rows in divided_rows(keys, source).items()}

    def inputs(
        self, content: TextPairs, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        content = content.first(settings.limit)
        length = _length(config, settings)
        rows = _encoded(content, tokenizer, length)
        _warn_of_cut_texts(rows, length)
        examples = Generation(tokenizer, content.targets, length - 1)  # a position is for the token that starts it
        return Inputs(rows, settings.batch_size, DataCollatorForSeq2Seq(tokenizer), by_length=True, examples=examples)

    def calibration_rows(
        self, content: TextPairs, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        """With the targets for the decoder of a model that generates; any other model reads the sources alone."""
        names = ["input_ids", "attention_mask"]
        if model.config.is_encoder_decoder and head_kind(model) == self.head:
            names.append("labels")

        def encoded(example: int) -> list[dict[str, list[int]]]:
            rows = _encoded(content.part([example]), tokenizer, _length(model.config, settings))
            return [{name: row[name] for name in names} for row in rows]

        return drawn_rows(len(content), encoded, settings)

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        scored = batch["labels"] != IGNORED
        return Answers(output.logits[scored], batch["labels"][scored], scored.nonzero()[:, 0])

    def predict(self, model: PreTrainedModel, inputs: Inputs, batch: Batch, answers: Answers) -> Predictions:
        """The generated texts, with the negative log-likelihood of each target."""
        generation: Generation = inputs.examples
        sources = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
        with quiet_transformers():
            tokens = model.generate(**sources, generation_config=generation.config(model))
        texts = np.array(generation.tokenizer.batch_decode(tokens, skip_special_tokens=True), dtype=object)
        by_token = most_likely(answers)
        losses, _ = sums_by_row(by_token.losses, by_token.rows)
        rows = np.arange(len(texts))
        return Predictions(texts, texts, losses, rows, np.zeros((len(texts), 0)))

    def complete(self, inputs: Inputs, predictions: Predictions) -> Predictions:
        return replace(predictions, references=np.array(inputs.examples.targets, dtype=object))

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        """The metrics of the task, and the perplexity of a token of the targets."""
        counts = np.array([len(row["labels"]) for row in inputs.rows])
        texts, references = predictions.values, predictions.references
        metrics = {name: METRICS[name].function(texts, references) for name in task.metrics}
        metrics |= {name: METRICS[name].function(predictions.losses, counts) for name in ("perplexity", "loss")}
        return Score(task.name, metrics, {"examples": len(texts)}, predictions=tuple(texts.tolist()))


def _pairs(rows: Rows) -> TextPairs:
    numbers = range(len(rows))
    return TextPairs(
        [text_of(rows, row, "source") for row in numbers], [text_of(rows, row, "target") for row in numbers]
    )


def _length(config: PretrainedConfig, settings: InputSettings) -> int:
    """The most tokens of a source and of a target."""
    return min(settings.max_length, context_length(config) or settings.max_length)


def _warn_of_cut_texts(rows: list[dict[str, list[int]]], length: int) -> None:
    sources, targets = (sum(len(row[name]) >= length for row in rows) for name in ("input_ids", "labels"))
    if sources or targets:
        warnings.warn(
            f"{sources} of {len(rows)} sources and {targets} of the targets are cut at {length} tokens (max_length, or "
            "as many as the model takes)",
            AerogelWarning,
            stacklevel=3,
        )


def _encoded(pairs: TextPairs, tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, list[int]]]:
    """One dictionary a pair, unpadded: the tokens of the source, and those of the target as labels."""
    options: dict[str, Any] = {"truncation": True, "max_length": length, "split_special_tokens": True}
    sources = tokenizer(pairs.sources, **options)
    labels = tokenizer(text_target=pairs.targets, **options)["input_ids"]
    return [
        {"input_ids": tokens, "attention_mask": mask, "labels": target}
        for tokens, mask, target in zip(sources["input_ids"], sources["attention_mask"], labels, strict=True)
    ]


KIND = SequenceToSequence()
