"""Columns are matched to roles by usual or given names, and errors name the source, the line and the column."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import DataError
from aerogel.tasks.rows import Role, Rows, match_columns

ROLES = (
    Role("text", ("sentence", "review")),
    Role("text_pair", ("sentence2",), optional=True),
    Role("label", ("stars",)),
)


@pytest.mark.parametrize(
    ("columns", "chosen", "expected"),
    [
        (["label", "text"], {}, {"text": "text", "label": "label"}),
        (["Stars", "id", "REVIEW"], {}, {"text": "REVIEW", "label": "Stars"}),
        (["review", "sentence", "stars"], {}, {"text": "sentence", "label": "stars"}),
        (["text", " Label "], {}, {"text": "text", "label": " Label "}),
        (["sentence2", "sentence", "label"], {}, {"text": "sentence", "text_pair": "sentence2", "label": "label"}),
        (["a", "b", "text"], {"text": "a", "label": "b"}, {"text": "a", "label": "b"}),
        (["text", "label", "stars"], {"label": "stars"}, {"text": "text", "label": "stars"}),
        (["text", "label"], {"label": "text", "text": "label"}, {"text": "label", "label": "text"}),
        (["a.text", "text", "b.stars"], {}, {"text": "text", "label": "b.stars"}),
    ],
)
def test_columns_of_roles(columns: list[str], chosen: dict[str, str], expected: dict[str, str]) -> None:
    assert match_columns(ROLES, columns, chosen) == expected


@given(st.permutations(["stars", "Sentence", "id", "sentence2", "other"]))
def test_the_order_of_the_columns_does_not_matter(columns: list[str]) -> None:
    assert match_columns(ROLES, columns) == {"text": "Sentence", "text_pair": "sentence2", "label": "stars"}


@pytest.mark.parametrize(
    ("columns", "chosen", "named"),
    [
        (["sentense", "label"], {}, ["sentense", "text", "--columns text="]),
        (["text", "strs"], {}, ["did you mean strs", "label", "--columns label="]),
        (["text", "label"], {"txt": "text"}, ["'txt'", "did you mean text"]),
        (["text", "label"], {"text": "txet"}, ["'txet'", "did you mean text"]),
        (["text", "label"], {"text": "text", "label": "text"}, ["own.csv", "'text'", "text and label"]),
    ],
)
def test_wrong_columns_are_refused_with_the_nearest(columns: list[str], chosen: Any, named: list[str]) -> None:
    with pytest.raises(DataError) as raised:
        match_columns(ROLES, columns, chosen, "own.csv")
    assert all(part in str(raised.value) for part in named)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "value",
    [{"text": ["a"], "start": [0]}, {"bytes": b"", "path": "a.png"}, {"en": "a", "de": None}, {}, "a", None, ["a"]],
)
def test_only_dictionaries_of_texts_are_flattened(value: Any) -> None:
    rows = Rows(("id", "value"), [{"id": 0, "value": value}], "own.json")
    assert rows.flattened() is rows
    words = {"id": 1, "value": {"en": "a", "de": "b"}}
    others = [{"id": 2, "value": None}, {"id": 3, "value": {"de": "d", "en": "c"}}]
    flat = Rows(("id", "value"), [words, *others], "own.json").flattened()
    assert flat.columns == ("id", "value.en", "value.de")
    assert list(flat) == [
        {"id": 1, "value.en": "a", "value.de": "b"},
        {"id": 2, "value.en": None, "value.de": None},
        {"id": 3, "value.en": "c", "value.de": "d"},
    ]
    mixed = Rows(("value",), [{"value": {"en": "a"}}, {"value": value}, {"value": {"de": "b"}}], "own.json")
    assert mixed.flattened() is mixed


def test_errors_name_the_column_of_the_source() -> None:
    rows = Rows(("a", "b"), [{"a": 1, "b": 2}, {"a": 3, "b": 4}], "own.csv", [2, 5]).renamed({"text": "b"})
    assert list(rows) == [{"text": 2}, {"text": 4}]
    assert str(rows.error(1, "too odd", "text")) == "own.csv, line 5, column b: too odd"
    assert "row 2" in str(Rows(("a",), [{}, {}], "own").error(1, "too odd"))


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([1, "good"], 2),
        (["good", 1], 2),
        ([None, "good", "bad", 1.5], 4),
        ([1, 2.5, True], 3),
        (["a", ["b"]], 2),
        (["a", {"b": 1}], 2),
    ],
)
def test_mixed_types_are_refused_with_their_row(values: list[Any], row: int) -> None:
    rows = Rows(("label",), [{"label": value} for value in values], "own")
    with pytest.raises(DataError, match=f"own, row {row}, column label"):
        rows.check_types()


def test_missing_values_and_all_numbers_are_of_one_type() -> None:
    Rows(("label",), [{"label": value} for value in (1, 2.5, None, float("nan"))], "own").check_types()
