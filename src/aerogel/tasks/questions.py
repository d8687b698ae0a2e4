"""Questions on a text with their answers, read from rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from aerogel.errors import excerpt
from aerogel.tasks.metrics import normalized_answer
from aerogel.tasks.read import from_json, label_name, number_of, text_of
from aerogel.tasks.rows import Rows


@dataclass(frozen=True)
class Question:
    """A question with its right answers: their text, and the number of its first character in the context."""

    text: str
    context: str
    answers: tuple[tuple[str, int], ...]

    @property
    def normalized_answers(self) -> tuple[str, ...]:
        """One or more; empty text where the context has no answer."""
        return tuple(filter(None, (normalized_answer(text) for text, _ in self.answers))) or ("",)


@dataclass(frozen=True)
class Questions:
    """The questions of a split, and whether the data has some without an answer."""

    questions: list[Question]
    has_unanswerable: bool

    def __len__(self) -> int:
        return len(self.questions)


def read_question(rows: Rows, row: int) -> Question:
    """The question of a row. Raises `DataError`, also for an answer that is not where it should be in the context.

    The character at which an answer starts is in `answers`, as SQuAD has it, or in the column `answer_start`.
    """
    question, context = (text_of(rows, row, column) for column in ("question", "context"))
    for column, text in (("question", question), ("context", context)):
        if not text.strip():
            raise rows.error(row, "expected text, found none", column)
    try:
        answers = rows[row]["answers"]
        if "answer_start" in rows.columns and not isinstance(answers, Mapping):
            answers = {"text": answers, "answer_start": _start(rows[row]["answer_start"])}
        given = [(text, start) for text, start in given_answers(answers) if text is not None and str(text).strip()]
        located = tuple(_located(text, start, context) for text, start in given)
    except ValueError as error:
        raise rows.error(row, error, "answers") from error
    return Question(question, context, located)


def given_answers(value: Any) -> Iterator[tuple[Any, Any]]:
    """Texts and where they start, `None` if unknown, from SQuAD's dictionary, a list of them, texts, or nothing."""
    value = _parsed(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas has NaN for nothing
        return
    if isinstance(value, list | tuple):
        for part in value:
            yield from given_answers(part)
    elif isinstance(value, Mapping) and "text" in value:
        texts, starts = (
            part if isinstance(part, list | tuple) else [part]
            for part in (_parsed(value["text"]), _parsed(value.get("answer_start")))
        )
        if "answer_start" not in value:
            starts = [None] * len(texts)
        yield from zip(texts, starts, strict=True) if len(texts) == len(starts) else [(value, None)]
    else:
        yield value, None


def _parsed(value: Any) -> Any:
    """As `from_json`, except for an answer that begins with a bracket."""
    with suppress(ValueError):
        return from_json(value)
    return value


def _start(value: Any) -> Any:
    """Where an answer starts, in a column of texts, or of floats if some rows have none."""
    if not label_name(value):
        return None
    number = number_of(value)
    return int(number) if number.is_integer() else value


def _located(text: Any, start: Any, context: str) -> tuple[str, int]:
    """An answer and its first character that is not white space. Raises `ValueError` if the context lacks it."""
    if not isinstance(text, str):
        raise ValueError(f"expected an answer as text, or as text and answer_start, found {excerpt(text)}")
    if start is None:
        if (start := context.find(text)) < 0:
            raise ValueError(f"the answer {excerpt(text)} is not in the context")
    elif not isinstance(start, int | np.integer) or isinstance(start, bool):
        raise ValueError(f"expected a whole number as answer_start, found {excerpt(start)}")
    elif start < 0 or context[start : start + len(text)] != text:
        there = excerpt(context[max(start, 0) :][: len(text)])
        raise ValueError(f"expected the answer {excerpt(text)} in the context at answer_start {start}, found {there}")
    return text.strip(), int(start) + len(text) - len(text.lstrip())
