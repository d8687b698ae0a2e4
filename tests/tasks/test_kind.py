"""Batches hold every row once, predictions return to the order of the rows, and every kind keeps its promises."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from aerogel.models.loading import HEADS
from aerogel.registry import names
from aerogel.tasks import METRICS, Metric, Task, TaskKind
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.predictions import Inputs, Predictions, Score, sums_by_row
from aerogel.tasks.table import GUESSED_KINDS

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9), st.booleans())
def test_every_row_is_in_one_batch(lengths: list[int], size: int, by_length: bool) -> None:
    inputs = Inputs([{"input_ids": [0] * length} for length in lengths], size, lambda rows: {}, by_length)
    batches = inputs.batches()
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= size
    assert order == (sorted(order, key=lambda row: (lengths[row], row)) if by_length else sorted(order))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.integers(1, 7), st.randoms())
def test_predictions_return_to_the_order_of_the_rows(counts: list[int], size: int, random: object) -> None:
    rows = np.repeat(np.arange(len(counts)), counts)
    values = np.arange(len(rows))
    order = list(range(len(counts)))
    random.shuffle(order)
    parts = []
    for start in range(0, len(order), size):
        batch = np.array(order[start : start + size])
        chosen = [np.flatnonzero(rows == row) for row in batch]
        places = np.repeat(np.arange(len(batch)), [len(indices) for indices in chosen])
        column = values[np.concatenate(chosen)]
        parts.append(Predictions(column, -column, column / 2, batch[places], np.zeros((len(column), 0))))
    joined = Predictions.joined(parts)
    assert joined.values.tolist() == values.tolist()
    assert joined.references.tolist() == (-values).tolist()
    assert joined.losses.tolist() == (values / 2).tolist()
    assert joined.rows.tolist() == rows.tolist()
    assert joined.logits.shape == (len(values), 0)
    sums, numbers = sums_by_row(joined.values, joined.rows)
    assert numbers.tolist() == counts
    assert sums.tolist() == [values[rows == row].sum() for row in range(len(counts))]


def test_a_kind_has_the_name_of_its_file() -> None:
    assert list(all_kinds()) == names("aerogel.tasks.kinds")


@pytest.mark.parametrize("kind", all_kinds().values(), ids=list(all_kinds()))
def test_kinds_keep_their_promises(kind: TaskKind) -> None:
    assert any(not role.optional for role in kind.roles)
    assert all(name == name.lower() for role in kind.roles for name in role.names)
    assert kind.unit in ("examples", "windows")
    assert kind.head in HEADS


def test_a_task_has_the_metrics_of_the_user_and_of_the_table() -> None:
    own = Metric("f1", lambda predictions, references: 0.0, False, (0.0, 1.0))
    task = Task("task", "sentence_classification", metrics=("accuracy",), own_metrics=(own,))
    assert task.metric("f1") is own
    assert task.metric("accuracy") is METRICS["accuracy"]
    assert task.metric("f2") is None


def test_guessed_kinds_exist() -> None:
    assert set(GUESSED_KINDS) <= set(all_kinds())


def test_all_numbers_of_a_score_in_one_dictionary() -> None:
    score = Score("task", {"f1": 0.5, "accuracy": 0.25}, {"examples": 8}, {"majority": 0.75})
    assert score.to_dict() == {"f1": 0.5, "accuracy": 0.25, "examples": 8, "majority": 0.75}
