"""Choosing the right one of several texts: endings of a sentence, answers to a question."""

from collections.abc import Mapping
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from transformers import DataCollatorForMultipleChoice, PretrainedConfig, PreTrainedTokenizerBase

from aerogel.errors import DataError, excerpt
from aerogel.tasks.encode import encode_examples
from aerogel.tasks.kind import Task
from aerogel.tasks.kinds.sentence_classification import SentenceClassification
from aerogel.tasks.predictions import Inputs, InputSettings
from aerogel.tasks.read import Examples, from_json, label_name, text_of
from aerogel.tasks.rows import Role, Rows

TEXT = Role("text", ("question", "premise", "context", "ctx", "sent1", "startphrase", "prompt", "goal", "sentence"))
START = Role("start", ("sent2",), optional=True)
CHOICES = Role("choices", ("options", "endings"), optional=True)
MOST_CHOICES = 10
CHOICE_COLUMNS = tuple(
    Role(f"choice{number}", (f"ending{number}", f"option{number}", f"sol{number}"), optional=True)
    for number in range(MOST_CHOICES)
)
LABEL = Role("label", ("answer", "answerkey", "answer_key", "answer_index", "gold", "correct", "target"))


class MultipleChoice(SentenceClassification):
    """A text of `Examples` is the context and then its choices; a model reads each choice with the context.

    Choices are a list (a text holds it as JSON), a mapping with "text" and "label" (CommonsenseQA, ARC), or columns
    `choice0`, `choice1`, ... (`ending0`, ... in SWAG). All rows of a split have the same number of them. The label is
    the name of the right choice (A, B, ... unless the choices name their own), its text, or its number from 0. The
    column `start` (SWAG's `sent2`) begins each choice.
    """

    name = "multiple_choice"
    head = "multiple-choice"
    roles = (TEXT, START, CHOICES, *CHOICE_COLUMNS, LABEL)

    def fits(self, rows: Rows) -> bool:
        """Whether the rows have lists of choices, or at least two columns of them."""
        if "choices" not in rows.columns:
            return sum(column.startswith("choice") for column in rows.columns) > 1
        try:
            return all(_is_list(from_json(row["choices"])) for row in rows)
        except ValueError:
            return False

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Examples]]:
        task = replace(task, metrics=task.metrics or ("accuracy",))
        return task, {split: _examples(rows) for split, rows in splits.items()}

    def inputs(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        examples = content.first(settings.limit)
        pairs: list[tuple[str, ...]] = [(context, choice) for context, *choices in examples.texts for choice in choices]
        encoded = encode_examples(Examples(pairs, [0] * len(pairs)), tokenizer, config, settings.max_length)
        texts, rows = iter(encoded), []
        for (_, *choices), label in zip(examples.texts, examples.labels, strict=True):
            several = [next(texts) for _ in choices]
            rows.append({**{name: [text[name] for text in several] for name in several[0]}, "labels": label})
        return Inputs(rows, settings.batch_size, DataCollatorForMultipleChoice(tokenizer))


def _examples(rows: Rows) -> Examples:
    columns = [column for column in rows.columns if column.startswith("choice") and column != "choices"]
    if "choices" not in rows.columns and len(columns) < 2:
        raise DataError(
            f"{rows.source} has no choices: expected a column choices (a list a row) or columns choice0, choice1, ...; "
            "name it by --columns choices=NAME"
        )
    examples = Examples([], [])
    for number in range(len(rows)):
        if "choices" in rows.columns:
            names, choices = _listed(rows, number)
        else:
            names, choices = (), [text_of(rows, number, column) for column in columns]
            if not all(map(str.strip, choices)):
                empty = next(column for column, choice in zip(columns, choices, strict=True) if not choice.strip())
                raise rows.error(number, "the choice is empty; all rows need the same number of choices", empty)
        if examples.texts and len(choices) != len(examples.texts[0]) - 1:
            raise rows.error(
                number, f"{len(choices)} choices, expected {len(examples.texts[0]) - 1} as in the first row", "choices"
            )
        examples.labels.append(_right_choice(rows, number, names, choices))
        if "start" in rows.columns:
            choices = [f"{text_of(rows, number, 'start')} {choice}" for choice in choices]
        examples.texts.append((text_of(rows, number, "text"), *choices))
    return examples


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, Mapping) and {"text", "label"} <= value.keys())


def _listed(rows: Rows, row: int) -> tuple[tuple[str, ...], list[str]]:
    """The names of the choices, if they have any, and their texts."""
    try:
        value = from_json(rows[row]["choices"])
    except ValueError as error:
        raise rows.error(row, error, "choices") from error
    if not _is_list(value):
        raise rows.error(row, f"expected a list of choices, found {excerpt(value)}", "choices")
    is_named = isinstance(value, Mapping)
    names, choices = (list(from_json(value[key])) for key in ("label", "text")) if is_named else ([], list(value))
    if len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise rows.error(row, f"expected two texts or more to choose from, found {excerpt(choices)}", "choices")
    if names and len(names) != len(choices):
        raise rows.error(row, f"{len(names)} names for {len(choices)} choices", "choices")
    return tuple(map(label_name, names)), choices


def _right_choice(rows: Rows, row: int, names: tuple[str, ...], choices: list[str]) -> int:
    value = rows[row]["label"]
    label = label_name(value)
    letters = () if names else tuple(ascii_uppercase[: len(choices)])
    for known in (names, tuple(choices), letters):
        if label in known and (known is names or isinstance(value, str)):
            return known.index(label)
    if not names and label.isdecimal() and int(label) < len(choices):
        return int(label)
    expected = " or ".join(names) or f"a number from 0 to {len(choices) - 1}, or the text or the letter of a choice"
    raise rows.error(row, f"wrong label {excerpt(label)}; expected {expected}", "label")


KIND = MultipleChoice()
