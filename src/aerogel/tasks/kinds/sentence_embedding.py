"""Embeddings of sentences: of texts alone, of pairs with a score, and of queries with what answers them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import DataError, ModelError, excerpt
from aerogel.models import architecture
from aerogel.models.logits import kl_divergence
from aerogel.models.pooling import pooling_of
from aerogel.tasks.encode import encode_examples
from aerogel.tasks.kind import Task
from aerogel.tasks.kinds.sentence_classification import SentenceClassification, encoded_inputs
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score, as_predictions
from aerogel.tasks.read import Examples, check_values, number_of, text_of
from aerogel.tasks.retrieval import Retrieval
from aerogel.tasks.rows import Role, Rows

SCALE = 20.0  # of cosines in a softmax: the inverse of a temperature of 0.05
EMBEDDING, SIMILARITY = 10.0, 1.0  # weights in distillation
METRICS_OF = {
    "scores": ("cosine_spearman", "cosine_pearson"),
    "pairs": ("ndcg_at_10", "recall_at_10"),
    "texts": ("uniformity",),
}


class SentenceEmbedding(SentenceClassification):
    """A split is `Examples` of one to three texts: a text, one that it belongs to, and one that it does not belong to.

    The label is the score of a pair, or NaN without scores. A batch holds the first text of each row, then the second
    of each, and so on. The model is one without a head; its folder states how hidden states are pooled, see
    `aerogel.models.pooling`. Answers are embeddings of length 1 in place of logits, one a text.
    """

    name = "sentence_embedding"
    head = "embedding"
    roles = (
        Role("text", ("sentence1", "anchor", "query", "question", "sentence")),
        Role("text_pair", ("sentence2", "positive", "passage", "answer"), optional=True),
        Role("negative", ("hard_negative",), optional=True),
        Role("label", ("score", "labels", "similarity_score", "similarity"), optional=True),
    )

    def fits(self, rows: Rows) -> bool:
        """Whether there are pairs, and all labels are numbers."""
        labels = [row["label"] for row in rows] if "label" in rows.columns else []
        return "text_pair" in rows.columns and all(math.isfinite(number_of(label)) for label in labels)

    def has_labels(self, content: Examples) -> bool:
        return len(content.texts[0]) > 1

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Examples]]:
        """A single text of several lines, as a text file has, is one text a line."""
        contents = {split: _read_examples(rows) for split, rows in splits.items()}
        scored = contents.get("validation") or next(iter(contents.values()))
        kind = (
            "texts" if len(scored.texts[0]) == 1 else "pairs" if math.isnan(number_of(scored.labels[0])) else "scores"
        )
        return replace(task, labels=(), metrics=METRICS_OF[kind]), contents

    def inputs(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        if architecture(config) == "encoder-decoder":
            raise ModelError(
                f"an embedding needs an encoder or a decoder, found the encoder-decoder {config.model_type}"
            )
        examples = content.first(settings.limit)
        encode = partial(_encode, tokenizer=tokenizer, config=config, max_length=settings.max_length)
        inputs = encoded_inputs(examples, encode, partial(_collate, tokenizer=tokenizer), settings)
        return replace(inputs, examples=examples)

    def calibration_rows(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        texts = list(dict.fromkeys(text for texts in content.texts for text in texts))
        return super().calibration_rows(_texts_alone(texts), tokenizer, model, settings)

    def outputs(self, model: PreTrainedModel, batch: Batch, **options: Any) -> Any:
        """The model's output, with "embeddings": (texts, width)."""
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        output = model(**inputs, **options)
        pooled = pooling_of(model)(output.last_hidden_state, inputs["attention_mask"])
        output.embeddings = normalize(pooled, dim=-1)
        return output

    def loss(self, output: Any, batch: Batch, model: PreTrainedModel) -> Tensor:
        """Of pairs with scores CoSENT, of others the contrast with all other texts of the batch.

        log(1 + Σ exp(20 · (cos_j − cos_i))) over all pairs i with a higher score than j (as in Li & Li
        2023, arXiv:2309.12871, section 3), which depends on the order of the scores alone; or the cross-entropy of the
        text that belongs to each, among those of all rows and the negatives (Henderson et al. 2017, arXiv:1705.00652,
        section 4.4), with cosines times 20. Raises `DataError` for texts alone.
        """
        labels = batch["labels"]
        first, *others = output.embeddings.split(len(labels))
        if not others:
            raise DataError("texts alone have no labels to learn: give a teacher, or a column with the text of a pair")
        if labels.isnan().any():
            return cross_entropy(SCALE * first @ torch.cat(others).T, torch.arange(len(first), device=first.device))
        cosines = SCALE * (first * others[0]).sum(-1)
        differences = (cosines[None, :] - cosines[:, None])[labels[:, None] > labels[None, :]]
        return torch.cat([differences.new_zeros(1), differences]).logsumexp(0)

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        count = len(output.embeddings) // len(batch["labels"])
        rows = torch.arange(len(batch["labels"])).repeat(count)
        return Answers(output.embeddings, batch["labels"].repeat(count), rows)

    def predictions(self, answers: Answers) -> Predictions:
        errors = answers.logits.square().sum(-1) - 1  # NaN where the embedding is
        predictions = as_predictions(answers, torch.zeros_like(errors), errors)
        return replace(predictions, logits=answers.logits.float().cpu().numpy())

    def complete(self, inputs: Inputs, predictions: Predictions) -> Predictions:
        """One entry a row: the number of the text that is nearest to the first one, see `Retrieval.found`.

        Logits are the embeddings of the row's texts, one after the other; losses are those of `metrics.uniformity`.
        """
        search = _search(inputs, predictions)
        logits = predictions.logits.reshape(len(search.own), -1)
        return Predictions(search.found, search.own, search.kernels, np.arange(len(search.own)), logits)

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        values, references = predictions.values, np.array([])
        if "cosine_spearman" in task.metrics:
            texts = _by_row(inputs, predictions).astype(float)
            values = (texts[:, 0] * texts[:, 1]).sum(-1)
            columns = dict.fromkeys(task.metrics, (values, np.array(inputs.examples.labels)))
        elif "ndcg_at_10" in task.metrics:
            columns, references = _search(inputs, predictions).gains(), predictions.references
        else:
            columns = {"uniformity": (predictions.losses, np.ones(len(values)))}
        metrics = {name: METRICS[name].function(*columns[name]) for name in task.metrics}
        counts = {"examples": len(values)}
        return Score(task.name, metrics, counts, {}, tuple(values.tolist()), tuple(references.tolist()))

    def divergence(self, reference: Answers, answers: Answers) -> Tensor:
        """1 − cosine, the KL divergence of two Gaussians with variance 1 at the embeddings: (texts).

        Raises `ModelError` for embeddings of different widths, as `distillation_loss` does.
        """
        _check_widths(answers, reference)
        return (reference.logits.double() - answers.logits.double()).square().sum(-1) / 2

    def distillation_loss(self, student: Answers, teacher: Answers, temperature: float) -> Tensor:
        """The square distance of the embeddings, and the KL divergence of the similarities within the batch.

        Both are means over texts. The similarities of a text to the others are the softmax of cosines times 20.
        (Reimers & Gurevych 2020, arXiv:2004.09813; Fang et al. 2021, arXiv:2101.04731.)
        """
        _check_widths(student, teacher)
        distance = (student.logits - teacher.logits).square().sum(-1).mean()
        ours, theirs = (_similarities(answers.logits) for answers in (student, teacher))
        return EMBEDDING * distance + SIMILARITY * kl_divergence(theirs, ours).mean()


def _check_widths(answers: Answers, reference: Answers) -> None:
    own, other = answers.logits.shape[-1], reference.logits.shape[-1]
    if own != other:
        raise ModelError(
            f"the embeddings of the model have {own} numbers and those of its reference or teacher {other}, expected "
            "the same: choose another reference or teacher"
        )


def _similarities(embeddings: Tensor) -> Tensor:
    """Logits (texts, texts − 1) of the similarity of each text to the others."""
    count = len(embeddings)
    others = ~torch.eye(count, dtype=torch.bool, device=embeddings.device)
    return (SCALE * embeddings @ embeddings.T)[others].view(count, count - 1)


def _by_row(inputs: Inputs, predictions: Predictions) -> np.ndarray:
    """Embeddings (rows, texts of a row, width)."""
    texts = inputs.examples.texts
    return predictions.logits.reshape(len(texts), len(texts[0]), -1)


def _search(inputs: Inputs, predictions: Predictions) -> Retrieval:
    return Retrieval.of(inputs.examples.texts, _by_row(inputs, predictions))


def _read_examples(rows: Rows) -> Examples:
    """Raises `DataError` for scores that are no numbers or missing in some rows, and for what can't be combined."""
    columns = tuple(role for role in ("text", "text_pair", "negative") if role in rows.columns)
    if "negative" in columns and ("text_pair" not in columns or "label" in rows.columns):
        raise DataError(f"{rows.source}: negatives need the columns text and text_pair, without scores")
    if columns == ("text",) and len(rows) == 1:  # a text file
        lines = [line.strip() for line in text_of(rows, 0, "text").splitlines() if line.strip()]
        if not lines:
            raise rows.error(0, "expected text, found none", "text")
        return _texts_alone(lines)
    scored = "label" in rows.columns and "text_pair" in columns
    examples = Examples([], [])
    for number, row in enumerate(rows):
        score = number_of(row["label"]) if scored else math.nan
        if scored and not math.isfinite(score):
            raise rows.error(number, f"score {excerpt(row['label'])} is not a number", "label")
        examples.texts.append(tuple(text_of(rows, number, column) for column in columns))
        examples.labels.append(score)
    if scored and len(rows) > 1:
        check_values(examples.labels, rows.source)
    return examples


def _texts_alone(texts: Sequence[str]) -> Examples:
    return Examples([(text,) for text in texts], [math.nan] * len(texts))


def _encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int
) -> list[dict[str, Any]]:
    """One dictionary an example: the tokens of its texts one after the other, their "lengths", and the score."""
    texts = [text for texts in examples.texts for text in texts]
    encoded = iter(encode_examples(_texts_alone(texts), tokenizer, config, max_length))
    rows = []
    for of_row, label in zip(examples.texts, examples.labels, strict=True):
        parts = list(islice(encoded, len(of_row)))
        names = [name for name in parts[0] if name != "labels"]
        row = {name: [token for part in parts for token in part[name]] for name in names}
        rows.append({**row, "lengths": [len(part["input_ids"]) for part in parts], "labels": label})
    return rows


def _collate(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """The first texts of all rows, then the second ones, ..., padded, and the scores."""
    texts: list[dict[str, Any]] = []
    for column in range(len(rows[0]["lengths"])):
        for row in rows:
            start = sum(row["lengths"][:column])
            part = slice(start, start + row["lengths"][column])
            texts.append({name: values[part] for name, values in row.items() if name not in ("lengths", "labels")})
    labels = torch.tensor([row["labels"] for row in rows], dtype=torch.float32)
    return {**DataCollatorWithPadding(tokenizer)(texts), "labels": labels}


KIND = SentenceEmbedding()
