"""Tags of words: named entities in BIO or BIOES, or any other classes, such as parts of speech."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    DataCollatorForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from aerogel.errors import DataError, excerpt
from aerogel.tables import counted
from aerogel.tasks.augment import AugmentedExamples, Words
from aerogel.tasks.encode import context_length, drawn_rows, frame, word_pieces
from aerogel.tasks.entities import OUTSIDE, TAG, entities, marks_entities
from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS
from aerogel.tasks.noise import IGNORED
from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score, most_likely
from aerogel.tasks.read import check_limit, class_number, divided_rows, from_json, label_name
from aerogel.tasks.rows import Role, Rows

ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
MOST_TAGS = 1000
KEPT_LOGITS = 100_000  # numbers in a score; more are left out


@dataclass(frozen=True)
class TaggedTexts:
    """Texts, each a list of words and a list of the class numbers of their tags."""

    words: list[list[str]]
    tags: list[list[int]]

    def __len__(self) -> int:
        return len(self.words)

    def part(self, rows: Sequence[int]) -> "TaggedTexts":
        return TaggedTexts([self.words[row] for row in rows], [self.tags[row] for row in rows])

    def first(self, limit: int | None) -> "TaggedTexts":
        check_limit(limit, "examples")
        return self if limit is None else TaggedTexts(self.words[:limit], self.tags[:limit])


class TokenClassification(TaskKind):
    """A split is `TaggedTexts`. There is one prediction a word, at its first token.

    A text longer than a model's input becomes several rows, which do not overlap, so that every word has its
    prediction. Tags in BIO (IOB1, IOB2) or BIOES (BILOU) mark entities, which are right if all their words and their
    type are; for other tags there is only the accuracy of the words. In a file of text columns, words and tags are
    JSON lists, or are separated by spaces.
    """

    name = "token_classification"
    head = "token-classification"
    roles = (Role("tokens", ("words",)), Role("tags", ("ner_tags", "labels", "ner", "pos_tags", "pos")))

    def fits(self, rows: Rows) -> bool:
        """Whether all rows have as many tags as words."""
        try:
            return all(len(_items(rows, row, "tokens")) == len(_items(rows, row, "tags")) for row in range(len(rows)))
        except DataError:
            return False

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, TaggedTexts]]:
        if not task.labels:
            task = _with_labels(task, next(iter(splits.values())))
        contents = {split: _read(rows, task.labels) for split, rows in splits.items()}
        for split, content in contents.items():
            if marks_entities(task.labels) and not any(
                task.labels[tag] != OUTSIDE for tag in set().union(*content.tags)
            ):
                raise DataError(f"{splits[split].source}: all tags are {OUTSIDE}; expected an entity")
        return task, contents

    def divide(self, content: TaggedTexts, source: str) -> dict[str, TaggedTexts]:
        """A fifth is held out by a hash of the words, so that the same row is always on the same side."""
        keys = ["\t".join(words).encode() for words in content.words]
        splits = {split: content.part(rows) for split, rows in divided_rows(keys, source).items()}
        if not all(len(set().union(*part.tags)) > 1 for part in splits.values()):
            few = counted(len(content), "row")
            raise DataError(f"{source} has {few}, too few to hold out a part with several tags for validation")
        return splits

    def inputs(
        self,
        content: TaggedTexts,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        settings: InputSettings,
    ) -> Inputs:
        content = content.first(settings.limit)
        encoder = _Encoder(content, tokenizer, config, settings.max_length)
        windows = encoder.windows(content)
        rows, augmented = encoder.rows(windows), None
        if settings.augmentation:
            augmented = _AugmentedWords(windows, encoder.rows, settings.augmentation, settings.seed)
        collate = DataCollatorForTokenClassification(tokenizer)
        lengths = [len(words) for words in content.words]
        return Inputs(rows, settings.batch_size, collate, by_length=True, augmented=augmented, examples=lengths)

    def calibration_rows(
        self, content: TaggedTexts, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        def encoded(example: int) -> Iterator[dict[str, list[int]]]:
            text = content.part([example])
            encoder = _Encoder(text, tokenizer, model.config, settings.max_length)
            for row in encoder.rows(encoder.windows(text)):
                yield {name: values for name, values in row.items() if name != "labels"}

        return drawn_rows(len(content), encoded, settings)

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        scored = batch["labels"] != IGNORED
        return Answers(output.logits[scored], batch["labels"][scored], scored.nonzero()[:, 0])

    def predictions(self, answers: Answers) -> Predictions:
        return replace(most_likely(answers), logits=answers.logits.float().cpu().numpy())

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        classes, baselines = (predictions.values, predictions.references), {}
        if marks_entities(task.labels):
            spans = [_spans(values, inputs.examples, task.labels) for values in classes]
        else:  # of entities, a useful model may have more words wrong than are not O
            baselines["majority"] = float(np.bincount(predictions.references).max() / len(predictions.references))
        metrics = {
            name: METRICS[name].function(*(spans if METRICS[name].of_entities else classes)) for name in task.metrics
        }
        logits = predictions.logits if predictions.logits.size <= KEPT_LOGITS else predictions.logits[:0]
        return Score(
            task.name,
            metrics,
            {"words": len(predictions.values)},
            baselines,
            tuple(predictions.values.tolist()),
            tuple(predictions.references.tolist()),
            tuple(tuple(round(logit, 4) for logit in row) for row in logits.tolist()),
        )


class _Encoder:
    """Makes a model's inputs of the texts of a split."""

    def __init__(
        self, content: TaggedTexts, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int
    ) -> None:
        self.before, self.after = frame(tokenizer)
        length = min(max_length, context_length(config) or max_length)
        self.room = max(1, length - len(self.before) - len(self.after))
        self.pieces = word_pieces({word: None for words in content.words for word in words}, tokenizer)

    def windows(self, content: TaggedTexts) -> TaggedTexts:
        """Texts in parts that fit in a model's input; only a word that is longer by itself will be cut."""
        windows = TaggedTexts([], [])
        for words, tags in zip(content.words, content.tags, strict=True):
            for part in self._parts(words):
                windows.words.append(words[part])
                windows.tags.append(tags[part])
        return windows

    def _parts(self, words: list[str]) -> Iterator[slice]:
        start, used = 0, 0
        for place, word in enumerate(words):
            used += len(self.pieces[word])
            if used > self.room and place > start:
                yield slice(start, place)
                start, used = place, len(self.pieces[word])
        if words:
            yield slice(start, len(words))

    def rows(self, windows: TaggedTexts) -> list[dict[str, list[int]]]:
        """Token ids of each window, and labels at the first token of each word."""
        return [self._row(words, tags) for words, tags in zip(windows.words, windows.tags, strict=True)]

    def _row(self, words: list[str], tags: list[int]) -> dict[str, list[int]]:
        pieces = [self.pieces[word] for word in words]
        tokens = [token for word in pieces for token in word][: self.room]
        labels = [
            label for word, tag in zip(pieces, tags, strict=True) for label in (tag, *[IGNORED] * (len(word) - 1))
        ]
        ids = [*self.before, *tokens, *self.after]
        return {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "labels": [IGNORED] * len(self.before) + labels[: self.room] + [IGNORED] * len(self.after),
        }


class _AugmentedWords(AugmentedExamples):
    """Windows of which each epoch changes a share; their words then have tag 0, which means nothing."""

    def split(self, examples: Any) -> list[Words]:
        return [[words] for words in examples.words]

    def joined(self, index: int, words: Words) -> Any:
        return TaggedTexts(words, [[0] * len(text) for text in words])


def _spans(classes: np.ndarray, lengths: list[int], labels: tuple[str, ...]) -> np.ndarray:
    """The entities of each text, from the classes of all words."""
    texts = np.split(classes, np.cumsum(lengths)[:-1])
    return np.array([entities([labels[number] for number in text]) for text in texts], dtype=object)


def _read(rows: Rows, labels: tuple[str, ...]) -> TaggedTexts:
    content, number = TaggedTexts([], []), partial(class_number, labels=labels)
    for row in range(len(rows)):
        words, tags = _items(rows, row, "tokens"), _items(rows, row, "tags")
        if len(words) != len(tags):
            raise rows.error(
                row, f"{counted(len(tags), 'tag')} for {counted(len(words), 'token')}, expected one for each", "tags"
            )
        if wrong := [word for word in words if not isinstance(word, str)]:
            raise rows.error(row, f"expected texts, found {excerpt(wrong[0])}", "tokens")
        try:
            content.tags.append([number(tag) for tag in tags])
        except ValueError as error:
            raise rows.error(row, error, "tags") from error
        content.words.append(words)
    return content


def _items(rows: Rows, row: int, column: str) -> list[Any]:
    """The words or tags of a row: a list, also as JSON, or a text with spaces between them. Raises `DataError`.

    A text of words may begin with a bracket: it is JSON only if the tags are.
    """
    value = rows[row][column]
    try:
        if column == "tags" or not isinstance(from_json(rows[row]["tags"]), str):
            value = from_json(value)
    except ValueError as error:
        raise rows.error(row, error, column) from error
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        raise rows.error(row, f"expected a list, found {excerpt(value)}", column)
    return list(value)


def _with_labels(task: Task, rows: Rows) -> Task:
    """The task with the tags of a user's own data, as it declares them or O first, and its metrics."""
    first_rows: dict[str, int] = {}
    for row in range(len(rows)):
        for tag in _items(rows, row, "tags"):
            first_rows.setdefault(label_name(tag), row)
    if "" in first_rows:
        raise rows.error(first_rows[""], "a token has no tag", "tags")
    if str(IGNORED) in first_rows:
        raise rows.error(
            first_rows[str(IGNORED)], f"expected the tags of words, found {IGNORED}, as pieces have", "tags"
        )
    if not 2 <= len(first_rows) <= MOST_TAGS:
        shown = f", such as {excerpt(min(first_rows))}" if first_rows else ""
        raise DataError(f"{rows.source}: {len(first_rows)} different tags{shown}; expected 2 to {MOST_TAGS}")
    declared = rows.class_names.get("tags", ())
    marks = marks_entities(declared or first_rows)
    for tag, row in first_rows.items():
        if marks and not TAG.fullmatch(tag):
            raise rows.error(row, f"tag {excerpt(tag)}; expected O, or B, I, E or S and a type, as in B-person", "tags")
    names = sorted(first_rows, key=lambda tag: (tag != OUTSIDE, int(tag) if tag.isdecimal() else 0, tag))
    return replace(task, labels=declared or tuple(names), metrics=ENTITY_METRICS if marks else ("accuracy",))


KIND = TokenClassification()
