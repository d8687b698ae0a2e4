"""Predicting the tokens of a text: the next one, masked ones, or the text before spans of it were infilled."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, default_data_collator

from aerogel.errors import DataError
from aerogel.models import architecture, head_kind
from aerogel.tables import counted
from aerogel.tasks.encode import language_windows
from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.noise import IGNORED
from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score, sums_by_row
from aerogel.tasks.read import HELD_OUT_SHARE, text_of
from aerogel.tasks.rows import Role, Rows

PERPLEXITIES = {"decoder": "perplexity", "encoder": "masked_lm_perplexity", "encoder-decoder": "denoising_perplexity"}
KEPT_TOKENS = 2000  # predictions in a score, for the agreement between models


class LanguageModelling(TaskKind):
    """A split is a string; windows of it are what a model reads."""

    name = "language_modelling"
    head = "language-modelling"
    roles = (Role("text", ("text", "content", "document", "page", "sentence", "sentence1", "review")),)
    unit = "windows"
    validation_limit = 32
    reads_labels = True

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, str]]:
        """Rows are joined as they are if they have their line ends, otherwise each is a line."""
        return task, {split: _joined(rows) for split, rows in splits.items()}

    def divide(self, content: str, source: str) -> dict[str, str]:
        """The beginning for training, the last fifth for validation, cut at the end of a line."""
        cut = content.find("\n", int(len(content) * (1 - HELD_OUT_SHARE))) + 1
        if not content[:cut].strip() or not content[cut:].strip():
            raise DataError(
                f"{source} has {counted(len(content), 'character')}, too few, or too few lines, to hold out a part for "
                "validation"
            )
        return {"train": content[:cut], "validation": content[cut:]}

    def inputs(
        self, content: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        windows = language_windows(content, tokenizer, config, settings.seed, limit=settings.limit)
        return Inputs(windows, max(1, settings.batch_tokens // len(windows[0]["labels"])), default_data_collator)

    def calibration_rows(
        self, content: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        windows = language_windows(content, tokenizer, model.config, settings.seed, settings.max_length)
        chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(settings.seed))[: settings.limit]
        rows = [windows[index] for index in chosen.sort().values.tolist()]
        if architecture(model.config) != "decoder" and head_kind(model) != self.head:
            # a classifier or the body of an embedding model never reads masked or infilled text
            rows = [_restored(row) for row in rows]
        return rows

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        logits, labels = output.logits, batch["labels"]
        if architecture(model.config) == "decoder":  # a position predicts the next token
            logits, labels = logits[:, :-1], labels[:, 1:]
        scored = labels != IGNORED
        return Answers(logits[scored], labels[scored], scored.nonzero()[:, 0])

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        """Each architecture has its own perplexity, since what it predicts is not comparable."""
        losses, counts = sums_by_row(predictions.losses, predictions.rows)
        names = (PERPLEXITIES[architecture(config)], "loss")
        metrics = {name: METRICS[name].function(losses, counts) for name in names}
        values = tuple(predictions.values[:KEPT_TOKENS].tolist())
        return Score(task.name, metrics, {"tokens": int(counts.sum())}, predictions=values)


def _joined(rows: Rows) -> str:
    texts = [text_of(rows, row, "text") for row in range(len(rows))]
    return ("" if any(text.endswith("\n") for text in texts) else "\n").join(texts)


def _restored(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text as it was before tokens were masked or infilled, which the labels hold."""
    labels = row["labels"]
    if len(labels) != len(row["input_ids"]) or "attention_mask" in row:
        return {"input_ids": labels}
    return {"input_ids": torch.where(labels < 0, row["input_ids"], labels)}


KIND = LanguageModelling()
