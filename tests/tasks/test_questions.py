"""Questions with their answers: every form that data has them in, and answers that are not in the context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aerogel.errors import DataError
from aerogel.tasks.questions import Question, read_question
from aerogel.tasks.rows import Rows

CONTEXT = "The old boat was red, and the new boat was blue."
COLUMNS = ("question", "context", "answers")


def rows(answers: Any, question: Any = "Which colour?", context: Any = CONTEXT) -> Rows:
    row = {"question": question, "context": context, "answers": answers}
    return Rows(COLUMNS, [row], "colours.jsonl", [7], {"answers": "gold", "question": "question", "context": "text"})


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": ["red"], "answer_start": [17]}, [("red", 17)]),
        ({"text": ["boat", "blue"], "answer_start": [34, 43]}, [("boat", 34), ("blue", 43)]),
        ({"text": np.array(["red"], dtype=object), "answer_start": np.array([17])}, [("red", 17)]),
        ({"text": "red", "answer_start": 17}, [("red", 17)]),
        ({"text": ["boat"]}, [("boat", 8)]),
        ([{"text": "red", "answer_start": 17}, {"text": "blue", "answer_start": 43}], [("red", 17), ("blue", 43)]),
        ("blue", [("blue", 43)]),
        ('{"text": ["red"], "answer_start": [17]}', [("red", 17)]),
        ('["red", "blue"]', [("red", 17), ("blue", 43)]),
        (["red", "blue"], [("red", 17), ("blue", 43)]),
        ({"text": [" red"], "answer_start": [16]}, [("red", 17)]),
        *((nothing, []) for nothing in (None, "", [], float("nan"), {"text": [], "answer_start": []})),
        ({"text": [""], "answer_start": [-1]}, []),
        (" ", []),
    ],
)
def test_answers_have_several_forms(answers: Any, expected: list[tuple[str, int]]) -> None:
    question = read_question(rows(answers), 0)
    assert question == Question("Which colour?", CONTEXT, tuple(expected))
    assert all(type(start) is int for _, start in question.answers)
    assert question.normalized_answers == (tuple(text for text, _ in expected) or ("",))


@pytest.mark.parametrize("start", [16, "16", 16.0])
def test_where_an_answer_starts_may_be_a_column(start: Any) -> None:
    values = {"question": "Which?", "context": "red or black or red", "answers": "red", "answer_start": start}
    assert read_question(Rows(tuple(values), [values], "colours.csv"), 0).answers == (("red", 16),)


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        ({"text": ["red"], "answer_start": [16]}, ["red", "16", " re"]),
        ({"text": ["Red"], "answer_start": [17]}, ["Red", "17", "red"]),
        ({"text": ["blue."], "answer_start": [44]}, ["blue.", "44", "lue."]),
        ({"text": ["red"], "answer_start": [-31]}, ["red", "-31"]),
        ({"text": ["red"], "answer_start": [1000]}, ["red", "1000"]),
        ({"text": ["red"], "answer_start": ["17"]}, ["answer_start", "17"]),
        ({"text": ["red"], "answer_start": [True]}, ["answer_start", "True"]),
        ({"text": ["red", "blue"], "answer_start": [17]}, ["text", "red", "blue"]),
        ({"text": [3], "answer_start": [17]}, ["text", "3"]),
        ("green", ["green"]),
        (["red", "green"], ["green"]),
        (5, ["5"]),
        (True, ["True"]),
        ({"start": 4}, ["start"]),
    ],
)
def test_an_answer_that_is_not_in_the_context_is_refused(answers: Any, names: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read_question(rows(answers), 0)
    for name in ("colours.jsonl", "line 7", "column gold", *names):
        assert name in str(error.value)


@pytest.mark.parametrize(("column", "name"), [("question", "question"), ("context", "text")])
@pytest.mark.parametrize("value", [" \n", 3, None])
def test_a_question_and_a_context_are_text(column: str, name: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"line 7, column {name}"):
        read_question(rows("red", **{column: value}), 0)
