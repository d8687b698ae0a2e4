"""Extractive question answering, as in SQuAD: the span of a context that answers a question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import DataError, ModelError
from aerogel.models.logits import PADDING_LOGIT
from aerogel.tables import counted
from aerogel.tasks.encode import context_length, drawn_rows
from aerogel.tasks.kind import Task, TaskKind
from aerogel.tasks.metrics import METRICS, normalized_answer
from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score, as_predictions
from aerogel.tasks.questions import Question, Questions, given_answers, read_question
from aerogel.tasks.read import check_limit, divided_rows
from aerogel.tasks.rows import Role, Rows

ANSWER_TOKENS = 30  # of the longest predicted answer
NO_ANSWER = 0  # the position that stands for it: of the first token, [CLS] where there is one
KEPT_CHARACTERS = 200  # of an answer in a score


@dataclass(frozen=True)
class Windows:
    """Where the rows of `Inputs` come from.

    Attributes:
        offsets: of each window (tokens, 2), the first and the last character + 1 of a token in the context; 0 for
            tokens outside of it.
    """

    content: Questions
    offsets: Sequence[np.ndarray]


class QuestionAnswering(TaskKind):
    """A split is `Questions`. A row is a question with a window of its context; windows of a context overlap.

    A window has two predictions, the positions of the first and of the last token of the answer. Without an answer in
    the window both are the position of its first token.
    """

    name = "question_answering"
    head = "question-answering"
    roles = (
        Role("question", ("query",)),
        Role("context", ("passage", "paragraph", "document")),
        Role("answers", ("answer", "answer_text")),
        Role("answer_start", ("answer_starts",), optional=True),
    )

    def fits(self, rows: Rows) -> bool:
        """Whether a row has an answer with its position, or one that its context contains."""
        return any(
            isinstance(text, str) and (start is not None or text in str(row["context"]))
            for row in rows
            for text, start in given_answers(row["answers"])
        )

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Questions]]:
        questions = {split: [read_question(rows, row) for row in range(len(rows))] for split, rows in splits.items()}
        for split, rows in splits.items():
            if not any(question.answers for question in questions[split]):
                raise DataError(
                    f"{rows.source}: none of {counted(len(rows), 'question')} has an answer; expected at least one"
                )
        has_unanswerable = not all(question.answers for part in questions.values() for question in part)
        task = replace(task, metrics=task.metrics or ("squad_f1", "exact_match"))
        return task, {split: Questions(part, has_unanswerable) for split, part in questions.items()}

    def divide(self, content: Questions, source: str) -> dict[str, Questions]:
        """A fifth is held out by a hash of the context, so that all its questions are on the same side."""
        rows = divided_rows([question.context.encode() for question in content.questions], source)
        splits = {split: [content.questions[row] for row in part] for split, part in rows.items()}
        if not all(any(question.answers for question in part) for part in splits.values()):
            contexts = len({question.context for question in content.questions})
            raise DataError(f"{source} has {counted(contexts, 'context')}, too few to hold out a part for validation")
        return {split: Questions(part, content.has_unanswerable) for split, part in splits.items()}

    def inputs(
        self, content: Questions, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        check_limit(settings.limit, "examples")
        content = replace(content, questions=content.questions[: settings.limit])
        rows, numbers, offsets = [], [], []
        for number, question in enumerate(content.questions):
            for row, spans in _windows(question, tokenizer, config, settings.max_length):
                rows.append(row)
                numbers.append(number)
                offsets.append(spans)
        examples = Windows(content, offsets)
        collate, texts = DataCollatorWithPadding(tokenizer), np.array(numbers)
        return Inputs(rows, settings.batch_size, collate, by_length=True, examples=examples, texts=texts)

    def calibration_rows(
        self, content: Questions, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        def encoded(example: int) -> Iterator[dict[str, Any]]:
            for row, _ in _windows(content.questions[example], tokenizer, model.config, settings.max_length):
                yield _model_inputs(row)

        return drawn_rows(len(content), encoded, settings)

    def outputs(self, model: PreTrainedModel, batch: Batch, **options: Any) -> Any:
        inputs = _model_inputs(batch)
        if "labels" in batch:
            inputs["start_positions"], inputs["end_positions"] = batch["labels"].unbind(-1)
        return model(**inputs, **options)

    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        """The logits of the first positions, (windows, positions), then those of the last ones."""
        positions = torch.arange(output.start_logits.shape[-1], device=output.start_logits.device)
        first, end = batch["context"][:, :, None].unbind(1)
        excluded = (positions != NO_ANSWER) & ((positions < first) | (positions >= end))
        logits = torch.cat(
            [part.masked_fill(excluded, PADDING_LOGIT) for part in (output.start_logits, output.end_logits)]
        )
        rows = torch.arange(len(first), device=positions.device)
        return Answers(logits, batch["labels"].T.flatten(), rows.repeat(2))

    def predictions(self, answers: Answers) -> Predictions:
        """Of each window the first and the last position of the best span.

        The two logits of a prediction are that of no answer and that of the position.
        """
        logits = answers.logits.float()
        spans = torch.cat(_best_span(*logits.chunk(2)))
        losses = cross_entropy(logits, answers.references, reduction="none")
        kept = torch.stack([logits[:, NO_ANSWER], logits.gather(1, spans[:, None])[:, 0]], dim=1)
        return replace(as_predictions(answers, spans, losses), logits=kept.double().cpu().numpy())

    def complete(self, inputs: Inputs, predictions: Predictions) -> Predictions:
        """The answer to each question: the best span of all windows, or none if that is better in each window.

        An answer is the normalised text. One of several right answers becomes the first of them, so that answers are
        equal where they are right.
        """
        windows: Windows = inputs.examples
        assert inputs.texts is not None
        count = len(windows.content)
        spans, scores = predictions.values.reshape(-1, 2), predictions.logits.reshape(-1, 2, 2).sum(1)
        bounds = np.searchsorted(inputs.texts, np.arange(count + 1))
        values, references = [], []
        for question, first, end in zip(windows.content.questions, bounds, bounds[1:], strict=False):
            none, best = scores[first:end].T
            window = first + best.argmax()
            characters = windows.offsets[window]
            text = question.context[characters[spans[window, 0], 0] : characters[spans[window, 1], 1]]
            if windows.content.has_unanswerable and none.min() > best.max():
                text = ""
            value, right = normalized_answer(text), question.normalized_answers
            values.append(right[0] if value in right else value)
            references.append(right[0])
        losses = np.bincount(inputs.texts.repeat(2), predictions.losses)
        return Predictions(np.array(values), np.array(references), losses, np.arange(count), np.zeros((count, 0)))

    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        references = np.empty(len(predictions.values), dtype=object)
        references[:] = [question.normalized_answers for question in inputs.examples.content.questions]
        metrics = {name: METRICS[name].function(predictions.values, references) for name in task.metrics}
        predicted, right = (
            tuple(text[:KEPT_CHARACTERS] for text in texts.tolist())
            for texts in (predictions.values, predictions.references)
        )
        return Score(task.name, metrics, {"examples": len(references)}, predictions=predicted, references=right)


def _windows(
    question: Question, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Rows of a question and a window of its context, with the offsets of their tokens: see `Windows`.

    A row has the model's inputs, the "labels" (positions of the first and the last token of the answer) and the
    "context" (its first position, and its last + 1). A question fills at most half of the room, and consecutive windows
    share a third of it.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"question answering needs a fast tokenizer, which returns the characters of each token; "
            f"{type(tokenizer).__name__} is not one"
        )
    length = min(max_length, context_length(config) or max_length)
    room = length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 3:
        raise DataError(
            f"windows of {length} tokens have no room for a question and a context, expected at least "
            f"{length - room + 3}: raise max_length"
        )
    encoded = tokenizer(
        _shortened(question.text, tokenizer, room // 2),
        question.context,
        truncation="only_second",
        max_length=length,
        stride=room // 3,
        split_special_tokens=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    offsets = encoded.pop("offset_mapping")
    encoded.pop("overflow_to_sample_mapping")
    for number, spans in enumerate(offsets):
        inside = np.array([part == 1 for part in encoded.sequence_ids(number)])
        first, end = (int(inside.argmax()), int(inside.argmax() + inside.sum()))
        spans = np.where(inside[:, None], np.array(spans, dtype=np.int32), 0)
        labels = _answer_position(question, spans[first:end], first)
        row = {name: values[number] for name, values in encoded.items()}
        yield {**row, "labels": labels, "context": [first, end]}, spans


def _shortened(text: str, tokenizer: PreTrainedTokenizerBase, most: int) -> str:
    """The beginning of a text, of at most `most` tokens."""
    plain = dict(add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    while len(spans := tokenizer(text, **plain)["offset_mapping"]) > most:
        text = text[: min(spans[most - 1][1], len(text) - 1)]  # a part of a word can have more tokens than in the word
    return text


def _answer_position(question: Question, context: np.ndarray, first: int) -> list[int]:
    """The positions of the first and the last token of the answer in a window, if it is in there."""
    if question.answers and len(context):
        text, start = question.answers[0]
        end = start + len(text)
        if context[0, 0] <= start and end <= context[-1, 1]:
            ends = context[:, 1]
            return [first + int(np.searchsorted(ends, start, "right")), first + int(np.searchsorted(ends, end))]
    return [NO_ANSWER, NO_ANSWER]


def _model_inputs(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in row.items() if name not in ("labels", "context")}


def _best_span(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last positions with the highest sum of logits, not `NO_ANSWER`: (windows) of (windows, positions).

    All spans of up to `ANSWER_TOKENS` are compared.
    """
    best = starts.new_full(starts.shape[:1], -math.inf)
    first, last = (torch.ones_like(best, dtype=torch.long) for _ in range(2))
    positions = starts.shape[1]
    for more in range(min(ANSWER_TOKENS, positions - 1)):
        highest, place = (starts[:, 1 : positions - more] + ends[:, 1 + more :]).max(dim=1)
        better = highest > best
        best = torch.where(better, highest, best)
        first, last = torch.where(better, place + 1, first), torch.where(better, place + 1 + more, last)
    return first, last


KIND = QuestionAnswering()
