"""Entities of tags: each scheme marks the same spans, and the numbers are those of other libraries."""

import random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from aerogel.tasks import METRICS
from aerogel.tasks.entities import entities, marks_entities

TYPES = ("person", "creative-work")
SPANS = st.lists(st.tuples(st.sampled_from(["", *TYPES]), st.integers(1, 4)), max_size=8)
"""Consecutive parts of a text: a type, or "" for none, and a number of words."""
LAST = {"BIOES": ("E", "S"), "BILOU": ("L", "U")}
NAMES = ("entity_precision", "entity_recall", "entity_f1")


def tags(spans: list[tuple[str, int]], scheme: str) -> list[str]:
    written, last = [], ""
    for kind, count in spans:
        letters = "B" + "I" * (count - 1)
        if scheme == "IOB1" and kind != last:  # B only after an entity of the same type
            letters = "I" * count
        if scheme in LAST:
            end, single = LAST[scheme]
            letters = single if count == 1 else letters[:-1] + end
        written += ["O"] * count if not kind else [f"{letter}-{kind}" for letter in letters]
        last = kind
    return written


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
@given(SPANS)
def test_every_scheme_marks_the_spans(scheme: str, spans: list[tuple[str, int]]) -> None:
    ends = np.cumsum([count for _, count in spans]).tolist()
    expected = {(kind, end - count, end) for (kind, count), end in zip(spans, ends, strict=True) if kind}
    assert entities(tags(spans, scheme)) == expected


def test_odd_sequences_are_read_as_the_shared_task_reads_them() -> None:
    assert entities(["I-a", "I-b", "B-b", "O", "I-b"]) == {("a", 0, 1), ("b", 1, 2), ("b", 2, 3), ("b", 4, 5)}
    assert entities(["B-a", "E-a", "I-a", "S-a", "I-a"]) == {("a", 0, 2), ("a", 2, 3), ("a", 3, 4), ("a", 4, 5)}
    assert entities(["B", "I", "O", "I"]) == {("", 0, 2), ("", 3, 4)}
    assert entities([]) == entities(["O"]) == frozenset()


def test_tags_of_words_are_no_entities() -> None:
    assert not any(map(marks_entities, (["NOUN", "I", "B"], ["0", "1"], ["O", "X"], ["IN", "BES"])))
    assert all(map(marks_entities, (["O", "B", "I"], ["B_person", "O"], ["I-x"], ["b-x"])))


def random_texts(seed: int, scheme: str) -> tuple[list[list[str]], list[list[str]]]:
    """Right tags, and the same with some replaced."""
    draw = random.Random(seed)
    known = ["O", "O", *(f"{letter}-{kind}" for letter in scheme for kind in TYPES)]
    right = [[draw.choice(known) for _ in range(draw.randrange(1, 12))] for _ in range(6)]
    return right, [[tag if draw.random() < 0.7 else draw.choice(known) for tag in text] for text in right]


def scores(right: list[list[str]], predicted: list[list[str]]) -> list[float]:
    sets = [np.array([entities(text) for text in texts], dtype=object) for texts in (predicted, right)]
    return [METRICS[name].function(*sets) for name in NAMES]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_nervaluate(seed: int) -> None:
    from nervaluate import Evaluator

    right, predicted = random_texts(seed, "BI")
    found = Evaluator(right, predicted, tags=list(TYPES), loader="list").evaluate()["overall"]["strict"]
    assert scores(right, predicted) == pytest.approx([found.precision, found.recall, found.f1])


def test_scores_of_a_text_counted_by_hand() -> None:
    right = [["B-a", "I-a", "O", "B-b"], ["O", "B-a"]]
    predicted = [["B-a", "O", "O", "B-b"], ["B-b", "B-a"]]  # a wrong end, one right, one too many, one right
    assert scores(right, predicted) == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert scores(right, right) == [1, 1, 1]
    assert scores(right, [["O"] * 4, ["O"] * 2]) == scores([["O"]], [["O"]]) == [0, 0, 0]
